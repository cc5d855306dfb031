import csv
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from backbench import UserError
from backbench.report import charts, figures
from backbench.report.study import load
from tests.study import HOSTILE


@pytest.fixture(scope="module")
def drawn(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    read = load(study["results"])
    return read, figures.write(read, folder), folder


def test_each_chart_becomes_a_png_an_svg_and_a_csv(drawn):
    read, written, _ = drawn
    made = charts.charts(read)
    assert sorted(path.name for path in written) == sorted(f"{c['id']}.{end}" for c in made for end in figures.FORMATS)
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.width > 800
                assert len(image.convert("L").getcolors()) > 10  # not blank
    chart = next(chart for chart in made if chart["kind"] == "sets")
    with (drawn[2] / f"{chart['id']}.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["y"]) for line in lines] == [point["y"] for point in chart["series"][0]["points"]]


def test_names_are_text_in_an_svg_and_the_same_rows_give_the_same_bytes(drawn, tmp_path):
    read, written, folder = drawn
    path = next(path for path in written if path.name.startswith("methods-folder") and path.suffix == ".svg")
    texts = [element.text for element in ElementTree.parse(path).iter() if element.tag.endswith("}text")]
    assert f"poor {HOSTILE}" in texts
    again = figures.write(read, tmp_path, ["svg"])
    assert all((folder / one.name).read_bytes() == one.read_bytes() for one in again)


def test_nothing_to_draw_and_nowhere_to_write(tmp_path, study):
    with pytest.raises(UserError, match="nothing to draw"):
        figures.write(load(tmp_path), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        figures.write(load(study["results"]), tmp_path / "file", ["csv"])
