"""The study's table in LaTeX, for booktabs."""

from collections.abc import Sequence

from backbench.report import formatting, table

SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", formatting.UNCONVERGED: r"\textsuperscript{\textdagger}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}  # fmt: skip


def escaped(name: str) -> str:
    """Return ``name`` with LaTeX's special characters escaped."""
    return "".join(SPECIAL.get(c, c) for c in name)


def latex(frame, *, notes: Sequence[str] = ()) -> str:
    r"""Return a ``tabular`` with booktabs' ``\toprule`` and other rules, and the footnotes as comments."""
    datasets, lines = table.lay_out(frame)
    spans = [6 if dataset.published else 4 for dataset in datasets]
    names = [
        rf"\multicolumn{{{span}}}{{c}}{{{escaped(dataset.name)} ($n$ = {dataset.n_test})}}"
        for dataset, span in zip(datasets, spans, strict=True)
    ]
    heads = ["Backbone", "Method"]
    body = []
    for dataset in datasets:
        heads += [r"top-1 \%", r"balanced \%", r"val \%", "extract + fit s"]
        heads += [r"published \%", "published s"] if dataset.published else []
    for model, method, found in lines:
        cells = [model, method]
        for dataset in datasets:
            shown = table.cell(found.get(dataset.name), dataset)
            cells += [" ".join([shown.top1, *shown.note]), shown.balanced, shown.val, " + ".join(shown.seconds)]
            cells += shown.published
        body.append(" & ".join(map(escaped, cells)) + r" \\")
    begin = rf"\begin{{tabular}}{{ll{'r' * sum(spans)}}}"
    top = [begin, r"\toprule", " & ".join(["", "", *names]) + r" \\", " & ".join(heads) + r" \\", r"\midrule"]
    below = [f"% {note}" for note in [*table.footnotes(frame), *notes]]
    return "\n".join([*top, *body, r"\bottomrule", r"\end{tabular}", *below]) + "\n"
