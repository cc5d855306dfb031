"""Tables of text and parquet as spreadsheets and programs write them, and what is no table."""

import pytest

from tests.test_data_sources import lay, load
from tests.test_data_table import fails, rows, table


@pytest.mark.parametrize(
    ("name", "encoding", "separator"),
    [
        ("a.csv", "utf-8-sig", ","),  # Excel's UTF-8
        ("a.csv", "cp1252", ";"),  # Excel's CSV where the comma is decimal
        ("a.csv", "latin-1", "|"),
        ("a.tsv", "utf-8", "\t"),
        ("a.txt", "utf-16", "\t"),  # Excel's Unicode text
    ],
)
def test_what_spreadsheets_write(tmp_path, name, encoding, separator):
    text = rows(tmp_path, line='"{file}";"Käse {label}";"a note;\nof two lines"', head='"Image Path";"Class";"note"')
    text = text.replace(";", separator).replace("\n", "\r\n")
    images = load(table(tmp_path, text, name, encoding), "unused")
    assert images.class_names == ["Käse cat", "Käse dog"]
    assert len(images) == 24
    assert "file 'Image Path', label 'Class'" in images.notes[1]


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows(tmp_path)
    files = [f"images/{i:03d}.png" for i in range(24)]
    labels = pa.array([1.0, 10.0] * 12), pa.array(["cat", "dog"] * 12).dictionary_encode(), pa.array([True, False] * 12)
    named = ["1", "10"], ["cat", "dog"], ["False", "True"]
    for column, names in zip(labels, named, strict=True):
        pq.write_table(pa.table({"path": files, "label": column}), tmp_path / "a.parquet")
        assert load(f"table:{tmp_path}/a.parquet", "unused").class_names == names
    pq.write_table(pa.table({"path": files, "label": [["cat"]] * 24}), tmp_path / "a.parquet")
    assert "the column 'label' holds list<" in fails(f"table:{tmp_path}/a.parquet")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty: a first line with the columns' names is expected"),
        (b"file,label\n", "has no rows: one for each image is expected"),
        (b"PK\x03\x04rest", "is a spreadsheet or an archive: save it as CSV"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is no table of text"),
        (b"PAR1 not really", "can't be read as a table"),
        (b"file,label\na.jpg,b,cat\n", "its first row has more fields than the first line has names"),
        (b"file,label\na.jpg,cat\na,b.jpg,cat\n", "Expected 2 fields in line 3, saw 3"),
        (b'file,label\n"a.jpg,cat\n', "can't be read as a table"),
        (
            b"file,label\nhttps://x.org/a.jpg,cat\n",
            "1 file is named by an address: https://x.org/a.jpg. Download it",
        ),
        (b"file,label\na.png,cat\nb.png,cat\n", "found one class, 'cat', where at least two are expected"),
    ],
)
def test_what_is_no_table(tmp_path, content, fault):
    lay(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_bytes(content)
    assert fault in fails(f"table:{tmp_path}/labels.csv")
