"""``finetune generalize``: everything that was trained, tested on other data sets and on corrupted images."""

import json
from dataclasses import replace

import click

from backbench import Faults, UsageError, UserError, options
from backbench.generalize.options import elsewhere
from backbench.progress import loading


@click.command(cls=options.Command, renamed={"--shift": "--corruption"})
@elsewhere
def main(datasets, corruptions, heads, runs, sources, models, methods, as_json, device, unknown, trust, **how):
    """Test everything that was trained on other data sets and on corrupted images.

    The command finds probe heads (probe --save heads) and checkpoints by itself. Each backbone sees new images once;
    the same command again takes milliseconds for each head. Classes are matched by the maps that are shipped
    (caltech256 and cifar100 to openimages, caltech256 to office_shift), by equal names, or by --map FILE. The command
    backbench data map drafts such a file.

    \b
    Examples:
      finetune generalize --dataset openimages
      finetune generalize --dataset office_shift/amazon --dataset office_shift/dslr --dataset office_shift/webcam
      finetune generalize --corruption resolution --corruption blur --source caltech256
    """
    if not (datasets or corruptions):
        raise UsageError(
            "--dataset or --corruption is missing.", "For example: finetune generalize --dataset openimages"
        )
    from backbench.allocator import keep_freed_memory
    from backbench.data import registry
    from backbench.devices import pick_device
    from backbench.extract.names import current
    from backbench.generalize import run as evaluation
    from backbench.generalize.corruptions import LEVELS
    from backbench.generalize.plan import Request, choose
    from backbench.predict import find

    asked = Faults()
    with asked.collect():
        registry.check(*datasets, *sources, *([unknown] if unknown else []))
    things, faults = find.below(heads, runs)
    if not things:
        asked.stop()
        faults.stop()
        raise UserError(
            f"No head or checkpoint lies under {heads} or {runs}. Make heads with: probe --features cache "
            "--save heads; or checkpoints with: finetune simple --model resnet50 --dataset caltech256"
        )
    with asked.collect():
        chosen = choose(things, sources=sources, models=[*map(current, models)], methods=methods)
    asked.stop()  # before torch is imported
    with loading("torch", "timm"):
        import timm  # noqa: F401
    place = pick_device(device)
    keep_freed_memory()
    chosen = [replace(thing, trust=trust) for thing in chosen]
    request = Request(chosen, place, sources=sources, unknown=unknown, **how)
    kinds = dict.fromkeys(name for given in corruptions for name in (LEVELS if given == "all" else [given]))
    found, skipped, met = evaluation.run(request, list(dict.fromkeys(datasets)), list(kinds))
    faults.errors += met.errors
    for line in dict.fromkeys(skipped):
        click.echo(f"Skipped: {line}", err=True)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif found:
        click.echo(evaluation.table(found))
    if not (found or faults.errors):
        raise UserError("Nothing could be evaluated. The lines above say what was skipped, and why.")
    faults.stop()
