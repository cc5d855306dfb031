"""Decisions of ``audit.csv``: what they make of a data set, and what contradicts what."""

import numpy as np
import pytest

from backbench import UserError, decisions
from backbench.findings import Finding, write

IDS = ["a", "b", "c", "d", "e", "f"]
LABELS = np.array([0, 0, 1, 1, 2, 2])
CLASSES = ["ant", "bee", "cat"]


@pytest.fixture
def file(tmp_path):
    def file(*lines, name="audit.csv"):
        """Lines such as ``("a", "label", "bee", "wrong")``."""
        write(tmp_path / name, [Finding(id, kind, partner, "", decision) for id, kind, partner, decision in lines])
        return tmp_path / name

    return file


def applied(exclude=(), relabel=()):
    return decisions.read(exclude, relabel).apply(IDS, LABELS, CLASSES, to="toy")


def left(exclude=(), relabel=()):
    """The ids that stay, and the labels that change."""
    found = applied(exclude, relabel)
    changed = {id: CLASSES[k] for id, k, old in zip(IDS, found.labels, LABELS, strict=True) if k != old}
    return "".join(id for id, keep in zip(IDS, found.keep, strict=True) if keep), changed


@pytest.fixture
def audit(file):
    return file(
        ("a", "near duplicate", "b", "same"),
        ("b", "near duplicate", "c", "right"),
        ("c", "exact duplicate", "d", ""),
        ("d", "label", "cat", "wrong"),
        ("e", "outlier", "", "wrong"),
        ("f", "label", "ant", ""),
        ("f", "label", "bee", ""),
    )


def test_same_and_wrong_are_left_out_and_undecided_lines_change_nothing(audit):
    assert left(exclude=audit) == ("bcf", {})
    found = decisions.read(audit)
    assert found.note(3, 0) == "3 images left out and 0 relabelled by audit.csv; 3 lines are undecided."
    assert applied(audit)[2:] == (3, 0)


def test_relabelled_images_are_not_left_out(audit):
    assert left(relabel=audit) == ("abcdef", {"d": "cat"})
    assert left(exclude=audit, relabel=[audit, str(audit)]) == ("bcdf", {"d": "cat"})
    assert applied(audit, audit)[2:] == (2, 1)
    assert decisions.read(audit, audit).undecided == 3  # each counts once


def test_a_copy_is_left_out_even_where_its_label_is_corrected(file):
    audit = file(("a", "near duplicate", "b", "same"), ("a", "label", "cat", "wrong"))
    assert left(audit, audit) == ("bcdef", {})
    assert left(relabel=audit) == ("abcdef", {"a": "cat"})


def test_a_wrong_label_of_a_pair_is_corrected_by_the_line_that_suggests_a_class(file):
    audit = file(("a", "near duplicate", "c", "wrong"), ("a", "label", "bee", "wrong"))
    assert left(audit) == ("bcdef", {})
    assert left(audit, audit) == ("abcdef", {"a": "bee"})


def test_a_label_that_was_corrected_already_counts_as_no_change(file):
    audit = file(("c", "label", "bee", "wrong"))
    assert applied(audit, audit)[2:] == (0, 0)


def test_nothing_is_asked_for():
    assert decisions.read() is None
    assert decisions.read([], ()) is None


def test_several_files_together(file):
    one, two = (
        file(("a", "outlier", "", "wrong"), ("f", "outlier", "", "")),
        file(("b", "outlier", "", "wrong"), name="2"),
    )
    assert left([one, two]) == ("cdef", {})
    assert decisions.read([one], two).note(1, 1) == (
        "1 image left out and 1 relabelled by audit.csv and 2; 1 line is undecided."
    )


def test_a_line_that_another_file_decides_is_not_undecided(file):
    one, two = file(("a", "outlier", "", "")), file(("a", "outlier", "", "right"), name="two.csv")
    assert decisions.read([one, two]).undecided == 0


def faults(*given):
    with pytest.raises(UserError) as caught:
        applied(*given)
    return list(caught.value.faults)


def test_ids_and_classes_that_are_not_there_are_all_named(file):
    audit = file(
        ("x", "near duplicate", "a", "same"),
        ("y\n", "outlier", "", "wrong"),
        ("z", "outlier", "", "right"),
        ("a", "label", "cta", "wrong"),
    )
    two = file(("v", "label", "bee", "wrong"), name="two.csv")
    missing, one, unknown = faults(audit, [audit, two])
    assert f"{audit} decides about 2 images that toy doesn't have: x, y\\n." in missing
    assert f"{two} decides about an image that toy doesn't have: v." in one
    assert unknown == f"{audit} gives a the class 'cta', which toy doesn't have. Did you mean cat?"


def test_files_that_are_no_audit_are_all_named(file, tmp_path):
    (tmp_path / "no.csv").write_text("path,label\na,b\n")
    no, gone = faults([tmp_path / "no.csv", tmp_path / "gone.csv"], tmp_path / "no.csv")
    assert "no.csv is no audit.csv: it has no column id" in no
    assert "gone.csv can't be read" in gone


def test_files_that_contradict_each_other(file):
    one = file(
        ("a", "near duplicate", "b", "same"),
        ("c", "label", "ant", "wrong"),
        ("d", "label", "cat", "right"),
        ("e", "exact duplicate", "f", "same"),
        name="one.csv",
    )
    two = file(
        ("a", "near duplicate", "b", "right"),
        ("c", "label", "cat", "wrong"),
        ("d", "near duplicate", "e", "wrong"),
        ("f", "exact duplicate", "e", "same"),
        name="two.csv",
    )
    pair, label, classes, copies = faults([one, two], [one, two])
    assert pair.startswith(f"a, near duplicate (b): {one} says 'same' and {two} says 'right'.")
    assert label.startswith(f"d: {one} says 'right' and {two} says 'wrong' of its label.")
    assert classes.startswith(f"c: {one} gives it 'ant' and {two} gives it 'cat'.")
    assert copies == f"{one} and {two}: each of e, f is the copy of another one that is left out too. One has to stay."
    assert len(faults([one, two])) == 3  # which class it is matters only where it is given


def test_chains_of_copies_are_no_contradiction_as_long_as_one_stays(file):
    chain = file(
        ("a", "near duplicate", "b", "same"), ("b", "near duplicate", "c", "same"), ("d", "near duplicate", "a", "same")
    )
    assert left(chain) == ("cef", {})
    ring = file(
        ("a", "near duplicate", "b", "same"), ("b", "near duplicate", "c", "same"), ("c", "near duplicate", "a", "same")
    )
    assert "each of a, b, c is the copy" in faults(ring)[0]


def test_of_many_contradictions_twenty_are_named(file):
    lines = [(f"{i}", "outlier", "", way) for i in range(30) for way in ("right", "wrong")]
    found = faults(file(*lines))
    assert len(found) == 21
    assert found[-1] == "There are 10 more such contradictions."


def test_what_an_identity_and_a_row_say_of_it():
    about = applied_about = decisions.Applied(None, None, 12, 0).about("old")
    assert decisions.data_sets({"dataset_digest": "new", "audited": about}) == {"new", "old"}
    assert decisions.words({"audited": applied_about}) == "12 left out"
    assert decisions.words({"audited": {"left_out": 1200, "relabelled": 5}}) == "1,200 left out, 5 relabelled"
    for hostile in (
        None,
        [1],
        {"of": [1], "left_out": "9" * 99, "relabelled": True},
        {"left_out": -1},
        {"left_out": 10**99},
    ):
        assert decisions.words({"audited": hostile}) == ""
        assert decisions.data_sets({"dataset_digest": "new", "audited": hostile}) == {"new"}
