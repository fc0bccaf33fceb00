"""CSV against a naive reading: tables written by the book, any bytes, cut anywhere, read on from any line."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rollup_engine.buckets.rows import Row
from rollup_engine.route.decode import RECORD_BYTES_MAX
from tests.unit.buckets.objects import SUFFIXES, compress, from_, read, same_damage, small

CELL = st.text(st.sampled_from('ab,"\n\r .ü'), max_size=6) | st.sampled_from(["", "1", "eu-west"])
NAMES = ["id", "data.region", "data.zone.name", "ü", 'q"', "a,b", "with space", "line\nbreak"]


def record(cells: list[str]) -> str:
    """By RFC 4180; a lone empty cell in quotes, for it would be a blank line."""
    quoted = ['"' + cell.replace('"', '""') + '"' if set(cell) & set(',"\r\n') else cell for cell in cells]
    return ",".join(quoted) if cells != [""] else '""'


def naive(header: list[str], table: list[list[str]], line_ends: str) -> tuple[str, list[Row]]:
    """The file's text, and its rows: lines counted in the text written so far."""
    text = record(header) + line_ends
    found = []
    for cells in table:
        line = text.count("\n") + 1
        text += record(cells) + line_ends
        if len(cells) != len(header):
            why = ("malformed_csv", f"the row has {len(cells)} cells, and the header {len(header)}")
            found.append(Row(line, b"", why))
            continue
        made: dict[str, object] = {}
        for name, cell in zip(header, cells, strict=True):
            node = made
            *parents, last = name.split(".")
            if cell:
                for step in parents:
                    node = node.setdefault(step, {})  # type: ignore[assignment]
                node[last] = cell
        found.append(Row(line, json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()))
    return text, found


@given(
    header=st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True),
    data=st.data(),
    line_ends=st.sampled_from(["\n", "\r\n"]),
    bom=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    suffix=st.sampled_from(SUFFIXES),
    cut=st.floats(0, 1),
)
def test_rows_are_those_that_were_written(
    header: list[str], data: st.DataObject, line_ends: str, bom: bytes, suffix: str, cut: float
) -> None:
    width = st.sampled_from([len(header)] * 5 + [len(header) + 1])
    table = data.draw(st.lists(width.flatmap(lambda n: st.lists(CELL, min_size=n, max_size=n)), max_size=8))
    text, expected = naive(header, table, line_ends)
    content = compress(bom + text.encode(), suffix, data.draw(st.integers(1, 3)))
    from_line = data.draw(st.integers(1, 12))
    with small(chunk=32, record=400, kept=400):
        found, damage = read("csv", content, f"x.csv{suffix}", from_line)
        assert damage is None
        assert [(row.line, row.why, row.why or row.value) for row in found] == [
            (row.line, row.why, row.why or row.value) for row in from_(expected, from_line)
        ]
        if suffix and cut < 1:
            content = content[: int(len(content) * cut)]
            found, damage = read("csv", content, f"x{suffix}")
            resumed, again = read("csv", content, f"x{suffix}", from_line)
            assert [row.value for row in found if not row.why] == [row.value for row in expected if not row.why][
                : len([row for row in found if not row.why])
            ]
            assert resumed == from_(found, from_line)
            assert same_damage(damage, again)


@given(
    content=st.lists(
        st.sampled_from([b"a", b",", b'"', b"\n", b"\r\n", b"\r", b"\xff", b"\x00", b"x" * 30, b"id,b\n", b'""'])
    ).map(b"".join),
    from_line=st.integers(1, 9),
)
@example(content=b"id,b\n" + b"x" * 500 + b"\n1,2\n", from_line=3)
@example(content=b'id,b\n"' + b"x\n" * 500 + b'",2\n', from_line=3)
def test_whatever_it_is_it_is_rows_or_damage_and_the_same_every_time(content: bytes, from_line: int) -> None:
    with small(chunk=16, record=100, kept=40):
        found, damage = read("csv", content, "x.csv")
        resumed, again = read("csv", content, "x.csv", from_line)
    assert resumed == from_(found, from_line)
    assert same_damage(damage, again)
    assert [row.line for row in found] == sorted({row.line for row in found})
    assert damage is None or all(row.line < damage.line for row in found)
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for row in found:
        assert row.why is None or lines[row.line - 1].startswith(row.value.split(b"\n")[0])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"1", "the row has 1 cells, and the header 2"),
        (b"1,2,3", "the row has 3 cells, and the header 2"),
        (b"\xff,2", "the row is no UTF-8 text"),
        (b'"1"x,2', "the line is no CSV: ',' expected after '\"'"),
        (b'"5" pipe",2', "the line is no CSV: ',' expected after '\"'"),
        (b"1,2\r3,4", "the line is no CSV: a carriage return stands in the midst of it"),
    ],
)
def test_a_bad_row_costs_its_neighbours_nothing(line: bytes, why: str) -> None:
    found, damage = read("csv", b"id,b\nx,y\n" + line + b"\nv,w\n", "x.csv")
    assert damage is None
    assert found == [
        Row(2, b'{"id":"x","b":"y"}'),
        Row(3, line, ("malformed_csv", why)),
        Row(4, b'{"id":"v","b":"w"}'),
    ]


def test_a_long_line_is_one_bad_row() -> None:
    found, damage = read("csv", b"id\n" + b"x" * (RECORD_BYTES_MAX + 1) + b"\n" + b"y" * 500_000 + b"\n", "x.csv")
    assert damage is None
    assert [(row.line, len(row.value), row.why and row.why[0]) for row in found] == [
        (2, 512 << 10, "record_too_large"),
        (3, 500_000 + len('{"id":""}'), None),  # more than the csv module takes by default
    ]


@pytest.mark.parametrize(
    ("content", "line", "value"),
    [
        (b'id,b\n1,2\n3,"4\n5,6\n', 3, b'3,"4\n5,6'),  # at the end
        (b'id,b\n1,2\n3,"4\n', 3, b'3,"4'),
        (b'id,b\n1,2\n3,"4\n5,"6"\n7,8\n', 3, b'3,"4\n5,"6"'),  # closed by another's opening
        (b'id,b\n1,2\n"' + b"x\n" * 300_000 + b'","' + b"y\n" * 300_000 + b'"\n7,8\n', 3, None),  # not within 1 MiB
        (b'id,b\n1,2\n3,"' + b"x" * (2 * RECORD_BYTES_MAX) + b'\n"\n5,6\n', 3, None),  # in a line that is too long
        (b"id,b\n1,2\n" + b"x" * (3 * RECORD_BYTES_MAX) + b',"\n"\n5,6\n', 3, None),
        (b'id,b\n1,2\n3,"\n' + b"x" * (2 * RECORD_BYTES_MAX) + b'"\n5,6\n', 3, None),  # before it
    ],
)
def test_what_an_open_quote_swallows_is_never_guessed_at(content: bytes, line: int, value: bytes | None) -> None:
    found, damage = read("csv", content, "x.csv")
    assert [row.value for row in found] == [b'{"id":"1","b":"2"}']
    assert damage is not None
    assert damage.line == line
    assert "quote" in damage.reason
    assert len(damage.value) <= 512 << 10
    assert value is None or damage.value == value


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"id,id", "two columns are named 'id'"),
        (b"id,", "column 2 has no name"),
        (b"id,a.", "column 2, 'a.', has an empty part"),
        (b"a,a.b", "the columns 'a' and 'a.b' exclude each other"),
        (b"a.b.c,a.b", "the columns 'a.b.c' and 'a.b' exclude each other"),
        (b"id,\xff", "it is no UTF-8 text"),
        (b"id," + b"a." * 200 + b"b", "column 2 is nested deeper than 200 levels"),
        (b"a." * 500_000 + b"b", "column 1 is nested deeper than 200 levels"),
        (b'id,"b"c', "the line is no CSV: ',' expected after '\"'"),
        (b"x" * (RECORD_BYTES_MAX + 1), "the record has 1,048,577 bytes; 1,048,576 are allowed"),
    ],
)
def test_a_header_that_names_no_columns_damages_the_object(header: bytes, problem: str) -> None:
    found, damage = read("csv", header + b"\n1,2\n", "x.csv")
    assert found == []
    assert damage is not None
    assert (damage.line, damage.reason) == (1, f"the header line cannot be used: {problem}")


def test_a_header_nests_as_deep_as_events_may() -> None:
    (row,), damage = read("csv", b"a." * 199 + b"b\n1\n", "x.csv")
    assert (damage, row.value.count(b"{"), row.why) == (None, 200, None)


def test_a_stream_that_breaks_off_within_a_record_is_damaged_at_its_first_line() -> None:
    data = gzip.compress(b'id,b\n1,2\n3,"x\ny\n' + b"z" * 1000, compresslevel=0)
    found, damage = read("csv", data[:-500], "x.csv.gz")
    assert found == [Row(2, b'{"id":"1","b":"2"}')]
    assert damage is not None
    assert (damage.line, damage.value[:8]) == (3, b'3,"x\ny\nz')


def test_a_record_over_two_lines_far_down_in_a_file() -> None:
    found, damage = read("csv", b"id\n" + (b"y" * 9_999 + b"\n") * 150 + b'"a\nb"\n', "x.csv")
    assert damage is None
    assert found[-1] == Row(152, b'{"id":"a\\nb"}')


def test_a_file_without_rows_has_none() -> None:
    assert read("csv", b"", "x.csv") == ([], None)
    assert read("csv", b"id,b", "x.csv") == ([], None)
    assert read("csv", b"\xef\xbb\xbf\r\n\nid\n\n1\r\n", "x.csv") == ([Row(5, b'{"id":"1"}')], None)
