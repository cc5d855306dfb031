"""``finetune generalize``: everything that was trained, on images of another source or made worse."""

import json

import click

from backbench import UsageError, UserError, options
from backbench.generalize.options import elsewhere


@click.command(cls=options.Command, renamed={"--shift": "--corruption"})
@elsewhere
def main(datasets, corruptions, heads, runs, sources, models, methods, as_json, device, unknown, **how):
    """Everything that was trained, on images of another source: what of its accuracy is left?

    Probe heads (probe --save heads) and checkpoints are found by themselves. New images are seen once a backbone; the
    same command again takes milliseconds a head. Classes are matched by maps that are shipped (caltech256 and cifar100
    to openimages, caltech256 to office_shift), by equal names, or by --map FILE: backbench data map proposes one.

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
    from backbench.generalize import predictors
    from backbench.generalize import run as evaluation
    from backbench.generalize.corruptions import LEVELS

    registry.check(*datasets, *sources, *([unknown] if unknown else []))
    place = pick_device(device)
    things, faults = predictors.find(heads, runs)
    if not things:
        faults.stop()
        raise UserError(
            f"nothing trained lies under {heads} or {runs}. Make heads with: probe --features cache --save heads; or "
            "checkpoints with: finetune simple --model resnet50 --dataset caltech256"
        )
    chosen = evaluation.choose(things, sources=sources, models=models, methods=methods)
    keep_freed_memory()
    request = evaluation.Request(chosen, place, sources=sources, unknown=unknown, **how)
    kinds = dict.fromkeys(name for given in corruptions for name in (LEVELS if given == "all" else [given]))
    found, met = evaluation.run(request, list(dict.fromkeys(datasets)), list(kinds))
    faults.errors += met.errors
    for line in dict.fromkeys(request.skipped):
        click.echo(f"Passed over: {line}", err=True)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif found:
        click.echo(evaluation.table(found))
    if not (found or faults.errors):
        raise UserError("nothing could be evaluated: see what was passed over, and why.")
    faults.stop()
