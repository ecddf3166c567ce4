"""A benchmark's free-form result as tables: nothing is lost, and units are read off the names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from halftime.records.benchmark import Benchmark
from halftime.report.benchmark import ABREAST, report_of, written
from halftime.report.model import Table

NAMES = st.sampled_from(["seconds", "added_seconds", "name", "share", "n", "low", "deep"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(0, 9, allow_nan=False)
    | st.sampled_from("abc")
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


def tables(result: dict[str, object]) -> list[Table]:
    report = report_of(Benchmark(benchmark="x", result=result))
    return [
        block
        for section in report.sections[:-1]
        for block in section.blocks
        if isinstance(block, Table)
    ]


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_any_json_is_drawn_no_wider_than_a_terminal(result: dict[str, object]) -> None:
    for table in tables(result):
        assert len(table.columns) <= ABREAST + 1
        assert all(len(row) == len(table.columns) for row in table.rows)


@given(
    st.lists(st.dictionaries(NAMES, st.integers(1000, 9999), min_size=1), min_size=1, max_size=4)
)
def test_every_number_of_a_table_is_shown(rows: list[dict[str, int]]) -> None:
    shown = {str(cell) for table in tables({"rows": rows}) for row in table.rows for cell in row}
    assert {str(written(name, value)) for row in rows for name, value in row.items()} <= shown


def test_units_are_the_last_known_word_of_a_name() -> None:
    assert written("added_seconds", 0.002) == "2.00 ms"
    assert written("seconds_low", 0.002) == "2.00 ms"
    assert written("resident_bytes", 2**20) == "1.00 MiB"
    assert written("goodput_share", 0.5) == "50.0 %"
    assert written("speedup", 2) == "2.00x"
    assert written("requests", 12000) == "12,000"
    assert written("held", True) == "yes"
    assert written("all_seconds", list(range(21))) == "21 values"


def test_rows_with_something_below_them_keep_their_name() -> None:
    first, below = tables({"rows": [{"stack": "a", "seconds": 1.0, "versions": {"torch": "2"}}]})
    assert first.texts() == [["a", "1.00 s"]]
    assert (below.title, below.texts()) == ("versions", [["a", "2"]])


def test_a_column_that_no_row_has_is_left_out() -> None:
    [table] = tables({"rows": [{"what": "a", "waits": None, "low": 1}, {"what": "b", "low": None}]})
    assert [column.title for column in table.columns] == ["what", "low"]
    assert tables({"rows": [{"waits": None}]})
