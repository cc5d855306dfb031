"""Pictures out of tables: in any order, in bounded memory, and out of damaged files."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backbench import UserError
from backbench.data import arrow_tables
from backbench.data.decode import UnreadableImage
from tests.packed import KINDS, hub, parquet, png, table
from tests.test_data_sources import load

pa = pytest.importorskip("pyarrow")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rows_in_any_order_whatever_the_row_groups(tmp_path, data, monkeypatch):
    monkeypatch.setattr(arrow_tables, "CHUNK", data.draw(st.integers(1, 2000)))
    root = tmp_path / "d"
    group = data.draw(st.integers(1, 40))
    name = hub(root, lambda path, made: parquet(path, made, row_group_size=group, data_page_size=300))
    images = load(name, "unused")
    for i in data.draw(st.lists(st.integers(0, 47), max_size=30)):
        assert images.encoded(i) == png(i if i < 8 else i - 8)


def test_a_row_group_as_large_as_the_file_is_read_in_parts(tmp_path):
    """64 MB in one row group: what is held never comes near it."""
    n, size = 1024, 1 << 16
    rng = np.random.default_rng(0)
    made = pa.table({"image": pa.array([rng.bytes(size) for _ in range(n)]), "label": pa.array(["a", "b"] * (n // 2))})
    parquet(tmp_path / "s.parquet", made, row_group_size=n, write_batch_size=8, use_dictionary=False)
    images = load(f"hf:{tmp_path}", "unused")
    del made
    before = pa.total_allocated_bytes()
    most = 0
    for i in range(n):
        assert len(images.encoded(i)) == size
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < (n * size) * 0.9
    assert most <= (arrow_tables.KEPT + 2) * arrow_tables.CHUNK * 1.5


def damaged(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b""
    path.write_bytes(content)


@pytest.mark.parametrize(("write", "ending"), KINDS)
def test_a_file_cut_short(tmp_path, write, ending):
    name = hub(tmp_path, write, ending)
    damaged(tmp_path / f"data/test-00000-of-00001.{ending}")
    with pytest.raises(UserError, match=rf"test-00000-of-00001.{ending} is damaged, or no .{ending} file"):
        load(name, "unused")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_is_named_or_costs_no_crash(tmp_path, data):
    write, ending = data.draw(st.sampled_from(KINDS))
    path = write(tmp_path / ending / f"s.{ending}", table(30))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        images = load(f"hf:{tmp_path}/{ending}", "unused")
    except UserError:
        return
    for i in range(len(images)):
        try:
            assert images.read(i).size
        except UnreadableImage as error:
            assert error.id == images.ids[i]  # noqa: PT017
