"""The feature files of images for trained models: what is there is used, and what is missing is extracted."""

from dataclasses import replace
from pathlib import Path

from backbench import UserError
from backbench.cache.features import FeatureFileError, open_file
from backbench.data import derived
from backbench.data.imageset import ImageSet
from backbench.devices import pick_device
from backbench.extract.plan import planned
from backbench.extract.run import extract
from backbench.probe import predict
from backbench.progress import loading


def extracted(
    models, imageset: ImageSet, *, cache_dir: Path, device, test_only=False, skip=False, renew=False
) -> list[Path]:
    """Return for each of ``models`` (Predictors) the feature file of the images, or of the test images.

    What is missing is extracted now, for all backbones of the same settings in one pass. ``skip`` leaves out images
    that can't be read. ``device`` may be a word of ``--device``, so that torch is imported only where it is needed.
    ``renew`` is for images that nobody else asks for: a file that belongs to other images is replaced, one that another
    process writes is waited for, and the caller names what was left out. Raises UserError.
    """
    paths, passes = [], {}
    for model in models:
        path, wanted = model.place(imageset, cache_dir), imageset
        if model.own_view or (test_only and not path.exists()):
            wanted = derived.plain(imageset, "test" if test_only else "all")
            path = model.place(wanted, cache_dir)
        done = path in paths or (path.exists() and _of_now(path, wanted))
        paths.append(path)
        if not done:
            with loading("torch", "timm"):
                import timm  # noqa: F401
            device = pick_device(device) if isinstance(device, str) else device
            backbone, settings = model.backbone(device)
            if getattr(imageset, "change", None):  # noise has another spread, and means to
                settings = replace(settings, input_guard=False)
            settings = replace(settings, skip_unreadable=skip, say_skipped=not renew, wait=renew)
            passes.setdefault((wanted.name, settings), []).append((model, planned(wanted, backbone, settings, path)))
    for (_, settings), together in passes.items():
        _extract([model for model, _ in together], [file for _, file in together], settings, renew=renew)
    return paths


def _extract(models: list, files: list, settings, *, renew: bool) -> None:
    again = []
    for model, file, run in zip(models, files, extract(files, settings), strict=True):
        if isinstance(run.fault, FeatureFileError):
            if renew and not settings.overwrite:
                again.append((model, file))
                continue
            how = "Remove it, and it is made again"
            if not (model.own_view or "+" in file.imageset.name):
                how = f"Extract it again: {predict.command(model.identity, file.imageset.name)} --overwrite"
            raise UserError(
                f"{file.path} can't be brought to the images of {file.imageset.name} of now. {how}"
            ) from run.fault
        if run.fault:
            raise run.fault
    if again:
        _extract(*map(list, zip(*again, strict=True)), replace(settings, overwrite=True), renew=renew)


def _of_now(path: Path, imageset: ImageSet) -> bool:
    """Whether a feature file holds the images of the data set as they are now, and by their names."""
    with open_file(path, check=False) as file:
        return file.ids == imageset.ids and imageset.known_as(file.identity["dataset_digest"])
