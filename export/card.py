"""The model card: README.md as the hub reads it, with what was measured and what was not.

Names come from files, which may be a stranger's. In the text they can't form HTML, links or Markdown, and the metadata
are written by a YAML library.
"""

import html
import re
from dataclasses import dataclass, field
from pathlib import Path

from backbench import __version__
from backbench.export import graph
from backbench.export.network import Trained
from backbench.export.origin import UNKNOWN, Origin

FILE = "README.md"

LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
    "cc0-1.0", "openrail", "apple-ascl", "apple-amlr", "gemma", UNKNOWN,
}  # fmt: skip
"""Licences that the hub knows, among those that timm and PyPI packages name. Any other is ``other`` there."""

ON_THE_HUB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
"""A data set's name that the hub takes in a card's metadata."""

SHOWN = 50
"""Number of classes that the text names."""

LONGEST = 400
"""Longest text from a file, in characters."""


@dataclass(frozen=True)
class Told:
    """What a card says besides what its model says of itself."""

    origin: Origin
    files: list[str]
    differences: dict[str, float]
    """By file, the largest difference of a probability from our own."""
    images: str
    """The images that this was measured on, such as "32 test images of digits"."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why other files could not be made, by name."""
    repository: str | None = None
    """OWNER/NAME on the hub."""
    elsewhere: list[dict] = field(default_factory=list)
    """Rows of ``generalize``."""


class Plain(str):
    """Text of ours, which the card shows as it is."""


def in_a_line(text) -> str:
    """Return text from a file in one line, without control characters, and not too long."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:LONGEST]


def clean(text) -> str:
    """Return text from a file as Markdown that shows it: in one line, without control characters, HTML or links."""
    if isinstance(text, Plain):
        return text
    marked = re.sub(r"([\\`*_{}\[\]()#!|~$])", r"\\\1", html.escape(in_a_line(text), quote=False))
    return marked.replace(":", "&#58;").replace("@", "&#64;").replace("www.", "www&#46;")


def share(row: dict, name: str) -> str:
    """Return ``row[name]`` in percent with its interval, such as ``96.1 % [92.7, 98.0]``; "not measured" without."""
    value, *ends = (row.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if not isinstance(value, float):
        return "not measured"
    if not all(isinstance(end, float) for end in ends):
        return f"{100 * value:.1f} %"
    return f"{100 * value:.1f} % [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"


def count(row: dict, name: str) -> str:
    """Return the number ``row[name]``, or a question mark."""
    return f"{row[name]:,}" if isinstance(row.get(name), int) else "?"


def text(given: Trained, told: Told) -> str:
    """Return the whole card."""
    import jinja2
    from huggingface_hub import ModelCard

    predictor, config = given.predictor, given.backbone.config
    row = predictor.row
    environment = jinja2.Environment(
        finalize=clean, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False
    )
    body = environment.from_string(Path(__file__).with_name("card.md").read_text(encoding="utf-8")).render(
        **vars(told),
        title=told.repository or f"{predictor.model} on {predictor.source}",
        place=Plain(f"hf-hub:{told.repository}" if told.repository else "local-dir:."),
        row={"chosen": None, "n_test_duplicates": 0} | row,
        frozen=given.head is not None,
        model=predictor.model,
        method=predictor.method,
        source=predictor.source,
        classes=predictor.classes,
        temperature=f"{predictor.temperature:.3g}",
        config=config | {"crop_pct": f"{config['crop_pct']:.3g}"},
        size=config["input_size"][1:],
        shown=SHOWN,
        thresholds=graph.thresholds(predictor) or {},
        version=__version__,
        plain=Plain,
        share=lambda name, of=row: share(of, name),
        count=lambda name, of=row: count(of, name),
    )
    return str(ModelCard(f"---\n{_metadata(given, told).to_yaml()}\n---\n\n{body}\n"))


def _metadata(given: Trained, told: Told):
    from huggingface_hub import EvalResult, ModelCardData

    predictor, row = given.predictor, given.predictor.row
    source = in_a_line(predictor.source)
    common = {"task_type": "image-classification", "dataset_type": source, "dataset_name": source}
    results = [
        EvalResult(**common, dataset_split="test", metric_type="accuracy", metric_name=name, metric_value=row[key])
        for name, key in (("top-1", "top1"), ("mean over classes", "balanced"))
        if isinstance(row.get(key), float)
    ]
    licence = told.origin.licence.lower()
    known, by_timm = licence in LICENCES, "model.safetensors" in told.files
    return ModelCardData(
        license=licence if known else "other",
        license_name=None if known else re.sub(r"[^a-z0-9.]+", "-", licence),
        library_name="timm" if by_timm else "onnx",
        pipeline_tag="image-classification",
        tags=["image-classification", "backbench", *(["timm"] if by_timm else [])],
        datasets=[source] if ON_THE_HUB.fullmatch(source) else None,
        metrics=["accuracy"],
        base_model=told.origin.base,
        model_name=told.repository or in_a_line(f"{predictor.model} on {source}"),
        eval_results=results or None,
    )
