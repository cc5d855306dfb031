"""``audit.csv``: read as it was written, and every line at fault is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbench import UserError
from backbench.findings import DECISIONS, KINDS, Finding, read, write

words = st.text(st.characters(codec="utf-8"), max_size=8)
findings = st.builds(Finding, words, st.sampled_from(KINDS), words, words, st.sampled_from(DECISIONS))


@given(st.lists(findings))
def test_what_is_written_is_read(tmp_path_factory, given):
    path = tmp_path_factory.mktemp("audit") / "audit.csv"
    write(path, given)
    assert read(path) == given


def test_a_name_that_is_no_utf8_comes_back(tmp_path):
    found = [Finding("caf\udce9.jpg", "label", "cup", "")]
    write(tmp_path / "audit.csv", found)
    assert read(tmp_path / "audit.csv") == found


def test_a_spreadsheets_file_is_read(tmp_path):
    """A byte order mark, Windows' line ends, columns in another order, one more and one fewer."""
    (tmp_path / "a.csv").write_bytes("\ufeffdecision,id,note,kind,partner\r\nwrong ,a.jpg,?, label,cup\r\n".encode())
    assert read(tmp_path / "a.csv") == [Finding("a.jpg", "label", "cup", "", "wrong")]


def test_all_lines_at_fault_are_named(tmp_path):
    (tmp_path / "a.csv").write_text(
        "id,kind,partner,evidence,decision\na,label,b,,maybe\nb,lable,c,,\nc,label,d,,same\n"
    )
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.csv")
    assert str(caught.value).splitlines()[1:] == [
        "  line 2: decision 'maybe'; right, wrong, same are known.",
        "  line 3: kind 'lable'; exact duplicate, near duplicate, label, outlier are known.",
    ]


@pytest.mark.parametrize("content", [b"", b"id,partner\na,b\n", b"\x89PNG\r\n\x1a\n\0\0"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"is no audit\.csv: it has no column"):
        read(tmp_path / "a.csv")


def test_a_missing_file_says_what_writes_it(tmp_path):
    with pytest.raises(UserError, match="backbench audit writes it"):
        read(tmp_path / "a.csv")
