"""Newline-delimited JSON against a naive reading: any bytes, any compression, cut anywhere, read on from any line."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from rollup_engine.buckets.rows import Row
from rollup_engine.route.decode import RECORD_BYTES_MAX
from tests.unit.buckets.objects import SUFFIXES, compress, from_, read, same_damage, small

CHUNK, RECORD, KEPT = 16, 24, 10
PIECES = st.sampled_from([b"\n", b"\r\n", b"\r", b" ", b"{}", b'{"a":1}', b"\xff\x00", b"x" * 15, b"y" * 23, b"z" * 70])
CONTENT = st.builds(
    lambda bom, pieces: bom + b"".join(pieces),
    st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xef\xbb"]),
    st.lists(PIECES | st.binary(max_size=30), max_size=12),
)


def naive(content: bytes, record_max: int = RECORD, kept: int = KEPT) -> list[Row]:
    found = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        value = line.removesuffix(b"\r")
        if len(value) > record_max:
            size = len(line)
            why = ("record_too_large", f"the record has {size:,} bytes; {RECORD_BYTES_MAX:,} are allowed")
            found.append(Row(number, value[:kept], why))
        elif value.strip():
            found.append(Row(number, value))
    return found


@given(content=CONTENT, suffix=st.sampled_from(SUFFIXES), parts=st.integers(1, 3), from_line=st.integers(1, 14))
@example(content=b"y" * 24 + b"\r\n{}", suffix="", parts=1, from_line=1)
@example(content=b"y" * 25 + b"\n{}", suffix="", parts=1, from_line=2)
@example(content=b"y" * 25, suffix="", parts=1, from_line=2)
@example(content=b"y" * 24, suffix="", parts=1, from_line=1)
@example(content=b"{}\n" * 3, suffix="", parts=1, from_line=3)
def test_rows_are_those_of_a_naive_reading(content: bytes, suffix: str, parts: int, from_line: int) -> None:
    data = compress(content, suffix, parts)
    with small(CHUNK, RECORD, KEPT):
        found, damage = read("ndjson", data, f"a/b.ndjson{suffix}", from_line)
    assert damage is None
    assert found == from_(naive(content), from_line)


@given(
    content=CONTENT,
    suffix=st.sampled_from([".gz", ".zst"]),
    parts=st.integers(1, 3),
    kept=st.floats(0, 1, exclude_max=True),
    from_line=st.integers(1, 14),
)
def test_a_stream_that_breaks_off_gives_all_before_and_says_so(
    content: bytes, suffix: str, parts: int, kept: float, from_line: int
) -> None:
    data = compress(content, suffix, parts)
    cut = data[: int(len(data) * kept)]
    name = f"b.ndjson{suffix}"
    with small(CHUNK, RECORD, KEPT):
        found, damage = read("ndjson", cut, name)
        resumed, again = read("ndjson", cut, name, from_line)
    assert resumed == from_(found, from_line)
    assert same_damage(damage, again)
    if damage is None:  # cut between two members
        assert parts > 1
        whole = [row for row in found[:-1] if row.why is None]
    else:
        assert all(row.line < damage.line for row in found)
        whole = [row for row in found if row.why is None]
    everything = naive(content)
    assert [row for row in everything if row in whole] == whole


@given(data=st.binary(max_size=200), suffix=st.sampled_from(SUFFIXES), from_line=st.integers(1, 5))
def test_garbage_is_rows_or_damage_and_the_same_every_time(data: bytes, suffix: str, from_line: int) -> None:
    found, damage = read("ndjson", data, f"x{suffix}")
    resumed, again = read("ndjson", data, f"x{suffix}", from_line)
    assert resumed == from_(found, from_line)
    assert same_damage(damage, again)


def test_at_the_real_limits() -> None:
    exact = b"x" * RECORD_BYTES_MAX
    longer = b"y" * (3 * RECORD_BYTES_MAX)
    content = b"\n".join([exact, longer, exact + b"\r", exact + b"z", b"{}"])
    found, damage = read("ndjson", content, "x.ndjson")
    assert damage is None
    assert [(row.line, len(row.value), row.why and row.why[0]) for row in found] == [
        (1, 1 << 20, None),
        (2, 512 << 10, "record_too_large"),
        (3, 1 << 20, None),
        (4, 512 << 10, "record_too_large"),
        (5, 2, None),
    ]
    assert found[1].why == ("record_too_large", "the record has 3,145,728 bytes; 1,048,576 are allowed")
    assert found[3].why == ("record_too_large", "the record has 1,048,577 bytes; 1,048,576 are allowed")


def test_many_short_lines_come_in_batches() -> None:
    found, _ = read("ndjson", b"1\n" * 50_001, "x.ndjson")  # `read` checks each batch
    assert len(found) == 50_001
    assert found[-1] == Row(50_001, b"1")
