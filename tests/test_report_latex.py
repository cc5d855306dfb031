from backbench.report import latex, table
from tests.test_report_table import STUDY, text

WANTED = r"""
\begin{tabular}{llrrrrrr}
\toprule
 &  & \multicolumn{6}{c}{caltech256 ($n$ = 100)} \\
Backbone & Method & top-1 \% & balanced \% & val \% & extract + fit s & published \% & published s \\
\midrule
mynet & logistic & 80.0\textsuperscript{\textdagger} [78.0, 81.0] & 70.0\textsuperscript{\textdagger} [68.0, 71.0] & 80.0 & 12.3 + 1,234 &  &  \\
resnet50 & logistic & 75.0 [73.0, 76.0] & 65.0 [63.0, 66.0] & 70.0 & 12.3 + 0.8 & 82.09 & 236 \\
mynet & knn & 25.0 [23.0, 26.0] & 15.0 [13.0, 16.0] & 50.0 & 12.3 + 0.8 &  &  \\
\bottomrule
\end{tabular}
""".lstrip()  # noqa: E501


def test_the_table_worked_by_hand():
    here = [row for row in STUDY if row["dataset"] == "caltech256"]
    found = latex.latex(table.tidy(here))
    assert found.startswith(WANTED)
    assert all(line.startswith("% ") for line in found.removeprefix(WANTED).splitlines())
    assert text(here, "latex") == found


def test_names_are_set_as_they_are():
    assert latex.escaped(r"a_b&50% {\x} $^~#") == (
        r"a\_b\&50\% \{\textbackslash{}x\} \$\textasciicircum{}\textasciitilde{}\#"
    )
