"""The ranking without suspects, worked by hand on ten test images of two classes."""

import json

import pytest

from backbench import UserError, rows
from backbench.audit import answer
from tests.test_backbench_details import content, row, save

IDS = [f"{i}.png" for i in range(10)]
LABELS = [0] * 5 + [1] * 5
LEAKS, MISLABELLED = {"0.png", "1.png"}, {"1.png", "9.png"}
DIGEST = "d" * 64

WRONG = {"copier": [4, 5], "steady": [0, 1, 9], "poor": [0, 2, 3, 4, 5]}
"""copier has 8 right, steady 7, poor 5. Without 0, 1 and 9 copier has 5 of 7, steady all 7, poor 3."""


def head(model, wrong, **more):
    predicted = [1 - label if i in wrong else label for i, label in enumerate(LABELS)]
    return content(predicted, LABELS, model=model, k=2, **{"ids": IDS} | more)


@pytest.fixture
def results(tmp_path):
    for model, wrong in WRONG.items():
        save(tmp_path, head(model, wrong))
    return tmp_path


def asked(results, leaks=LEAKS, mislabelled=MISLABELLED):
    return answer.answers(results, test_ids=IDS, dataset_digest=DIGEST, leaks=leaks, mislabelled=mislabelled)


def test_each_head_is_scored_again_by_hand(results):
    found = asked(results)
    assert [one["model"] for one in found] == ["copier", "steady", "poor"]
    shown = [[round(one[f"top1{end}"] * one[f"n{end}"]) for end in answer.WAYS] for one in found]
    assert [found[0][f"n{end}"] for end in answer.WAYS] == [10, 8, 8, 7]
    assert shown == [[8, 6, 6, 5], [7, 7, 7, 7], [5, 4, 3, 3]]
    assert [(one["rank"], one["rank_without_both"]) for one in found] == [(1, 2), (2, 1), (3, 3)]
    assert found[0]["id"] == rows.identified(rows.read(results)[0])["id"]
    for one in found:
        assert all(one[f"top1{end}_low"] <= one[f"top1{end}"] <= one[f"top1{end}_high"] for end in answer.WAYS)
    # Without the suspects steady alone is right on 4 and 5, copier alone on none: p = 2 / 2^2. On 2, 3, 4 and 5 steady
    # alone is right where poor is not: p = 2 / 2^4.
    assert [one["p"] for one in found] == [0.5, None, 0.125]
    assert found[0]["difference"] == pytest.approx(-2 / 7)
    assert answer.verdict(found) == {"n_heads": 3, "rank_holds": False, "winner_changes": True}


def test_the_table_says_it_in_words(results):
    said = answer.table(asked(results))
    lines = said.splitlines()
    assert lines[0].split("  ")[-1] == "rank"
    assert "top-1 % (n 10)" in lines[0]
    assert "without leaks (n 8)" in lines[0]
    assert "without suspects (n 7)" in lines[0]
    assert lines[1].startswith("copier    logistic  80.0 [")
    assert [line.split("]")[-1].strip() for line in lines[1:4]] == ["1 to 2", "2 to 1", "3"]
    assert lines[-1] == (
        "Without the 3 suspected test images 2 of 3 heads change places, and the winner changes: steady (logistic) is "
        "first. The next, copier (logistic), is not distinguishable from it on these images (McNemar's p = 0.500)."
    )


def test_a_ranking_that_holds_and_one_without_suspects(results):
    found = asked(results, {"6.png"}, {"9.png"})  # copier 6 of 8, steady 6 of 8, poor 3 of 8: none is behind one it led
    assert answer.verdict(found) == {"n_heads": 3, "rank_holds": True, "winner_changes": False}
    assert [one["rank_without_both"] for one in found] == [1, 1, 3]
    assert "the ranking holds, and copier (logistic) stays first." in answer.sentence(found)
    assert answer.table(found).endswith(
        "\nEqual heads share a rank. One that draws level with another doesn't change places with it."
    )
    assert answer.sentence(asked(results, set(), set())).startswith("No test image is suspected: the ranking holds.")
    found = asked(results, {"0.png"}, set())
    assert "Without the 1 suspected test image the ranking holds" in answer.sentence(found)


def test_others_change_places_and_the_winner_stays(tmp_path):
    for model, wrong in {"best": [], "copier": [4, 5], "steady": [0, 1, 9]}.items():
        save(tmp_path, head(model, wrong))
    found = asked(tmp_path)
    assert answer.verdict(found) == {"n_heads": 3, "rank_holds": False, "winner_changes": False}
    assert "2 of 3 heads change places, but the winner stays: best (logistic) is first." in answer.sentence(found)


def test_nothing_to_rank(tmp_path):
    unknown = {"rank_holds": None, "winner_changes": None}
    assert asked(tmp_path) == []
    assert answer.verdict([]) == {"n_heads": 0, **unknown}
    assert "probe --features FILE" in answer.table([])
    save(tmp_path, head("alone", [1]))
    assert answer.verdict(asked(tmp_path)) == {"n_heads": 1, **unknown}
    assert "only one head" in answer.table(asked(tmp_path))
    save(tmp_path, head("other", [2]))
    found = asked(tmp_path, set(IDS), set())
    assert answer.verdict(found) == {"n_heads": 2, **unknown}
    assert [found[0][key] for key in ("n_without_both", "top1_without_both", "top1_without_leaks_low", "p")] == [
        0, None, None, None
    ]  # fmt: skip
    assert "Every test image is suspected" in answer.table(found)


def test_heads_on_other_images_splits_and_targets_are_no_part(results):
    save(results, head("other images", [], ids=[f"x{i}.png" for i in range(10)]))
    save(results, head("other split", [], dataset_digest="e" * 64))
    save(results, head("few", [], shots=5))
    save(results, head("from elsewhere", []), target="d", source="s")
    save(results, head("says so", []), n_test=10)
    with (results / rows.FILE).open("a") as file:  # rows of strangers
        for part in ({"features": [1]}, {"protocol": "x"}, {"model": 5}, {"stage": []}):
            told = head("odd", []) | {"created": "2026"}
            file.write(json.dumps(row({**told, "labels": LABELS}) | {"details": "details/no.json"} | part) + "\n")
    assert [one["model"] for one in asked(results)] == ["says so", "copier", "steady", "poor"]


def test_damaged_and_missing_details_are_named_and_passed_over(results, capsys):
    rows.append(results, row(head("unkept", [])))
    save(results, head("steady\x1b[31m", [0]))
    damaged = rows.read(results)[-1]["details"]
    (results / damaged).write_text("{")
    assert [one["model"] for one in asked(results)] == ["copier", "steady", "poor"]
    said = capsys.readouterr().err
    assert "passed over: unkept, logistic: its predictions were not kept." in said
    assert "not a details file" in said
    assert "\x1b" not in said


def test_measured_again_the_newest_counts_and_of_a_damaged_one_the_one_before(results, capsys):
    save(results, head("copier", [3]))
    found = asked(results)
    assert [(one["model"], one["top1"]) for one in found] == [("copier", 0.9), ("steady", 0.7), ("poor", 0.5)]
    (results / rows.read(results)[-1]["details"]).unlink()
    assert asked(results)[0]["top1"] == 0.8
    assert capsys.readouterr().err == ""


def test_heads_of_one_name_that_differ_are_told_apart(results):
    save(results, head("copier", [3]), settings={"class_weight": "balanced"})
    names = [one["method"] for one in asked(results) if one["model"] == "copier"]
    assert len(set(names)) == 2
    assert all(name.startswith("logistic (") for name in names)


def test_grouped_images_are_said(results):
    save(results, head("grouped", []), n_groups=3)
    assert "they are too sure" in answer.table(asked(results))


def test_broken_rows_are_an_error(tmp_path):
    (tmp_path / rows.FILE).write_text("[]\n\n{}\n")
    with pytest.raises(UserError, match="not a result row"):
        asked(tmp_path)
