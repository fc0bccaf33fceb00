"""What every `ports.Sink` owes the stages: one suite over the memory sink and Postgres.

An advance is one transaction, only for the claim that still has its row; totals read back are those written.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol

import asyncpg
import polars as pl
import pytest

from rollup_engine import keys
from rollup_engine.clock import FIRST_MS, LAST_MS
from rollup_engine.dedup import letters
from rollup_engine.errors import ClaimLost
from rollup_engine.ports import Sink, Span
from rollup_engine.progress import DEDUP, NOTHING, ROLLUP, ROUTE, Books, Claim, Partials, Writes
from rollup_engine.runtime import postgres
from rollup_engine.runtime.database import at_ms
from rollup_engine.runtime.memory import MemorySink
from rollup_engine.runtime.postgres import PostgresSink
from rollup_engine.tables import Schema
from tests.contract.specs import APP_ID, config, declared, migrated, rollup

SCHEMA = Schema.of(rollup())
WINDOW_MS = 1_660_489_800_000  # 2022-08-14T15:10:00Z
KINDS = ("counted", "duplicate", "conflicting", "late", "invalid", "unmatched", "records")


class Holdings(Protocol):
    """What a sink holds, for looking at it from outside."""

    async def books(self) -> Mapping[tuple[str, str], tuple[int, ...]]: ...
    async def letters(self) -> Sequence[Mapping[str, Any]]: ...
    async def partials(self) -> Sequence[Mapping[str, Any]]: ...


class InMemory:
    def __init__(self, sink: MemorySink) -> None:
        self._sink = sink

    async def books(self) -> Mapping[tuple[str, str], tuple[int, ...]]:
        return {key: tuple(getattr(book, kind) for kind in KINDS) for key, book in self._sink.books.items()}

    async def letters(self) -> Sequence[Mapping[str, Any]]:
        return self._sink.dead_letters

    async def partials(self) -> Sequence[Mapping[str, Any]]:
        return self._sink.partials.get(SCHEMA.table, [])


class InPostgres:
    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    async def books(self) -> Mapping[tuple[str, str], tuple[int, ...]]:
        sums = ", ".join(f"sum({kind})::bigint" for kind in KINDS)
        rows = await self._pool.fetch(f"SELECT event, source, {sums} FROM rollup_engine.books GROUP BY event, source")
        return {(row[0], row[1]): tuple(row)[2:] for row in rows}

    async def letters(self) -> Sequence[Mapping[str, Any]]:
        rows = await self._pool.fetch("SELECT * FROM rollup_engine.dead_letters ORDER BY id")
        return [dict(row) | {"record_ms": at_ms(row["recorded_at"])} for row in rows]

    async def partials(self) -> Sequence[Mapping[str, Any]]:
        rows = await self._pool.fetch('SELECT * FROM rollups."downloads_aggregated" ORDER BY "timestamp", revision')
        return [dict(row) | {"window_ms": at_ms(row["timestamp"]), "tuple_key": row["tuple_key"].int} for row in rows]


@pytest.fixture(params=["memory", "postgres"])
async def both(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Sink, Holdings]]:
    if request.param == "memory":
        sink = MemorySink()
        yield sink, InMemory(sink)
        return
    async with migrated(request.getfixturevalue("database_url")) as pool:
        await declared(pool, config())
        yield PostgresSink(pool, APP_ID), InPostgres(pool)


@pytest.fixture
def sink(both: tuple[Sink, Holdings]) -> Sink:
    return both[0]


@pytest.fixture
def holdings(both: tuple[Sink, Holdings]) -> Holdings:
    return both[1]


def partials(
    rows: Sequence[tuple[int, str | None, int, str | None, str | None]], revision: int = 1, *, final: bool = False
) -> Partials:
    """(window start, region, count, sum, max) of customer `c`, in the shape of `emit.partials.build`."""
    frame = pl.DataFrame(
        [(start, "c", region, None, count, total, most, revision) for start, region, count, total, most in rows],
        schema={
            "window_ms": pl.Int64,
            "external_customer_id": pl.String,
            "region": pl.String,
            "speed": pl.String,
            "count": pl.Int64,
            "sum_bytes": pl.String,
            "max_bytes": pl.String,
            "revision": pl.Int64,
        },
        orient="row",
    )
    frame = frame.with_columns(keys.tuple_key(SCHEMA.tuple_columns).alias("tuple_key"), pl.lit(final).alias("final"))
    return Partials(SCHEMA.table, frame.with_columns(keys.idempotency_key(SCHEMA.table).alias("idempotency_key")))


def letter(**changes: object) -> pl.DataFrame:
    plain: dict[str, object] = dict.fromkeys(letters.SCHEMA)
    plain |= {"event": "e", "source": "raw/0", "source_offset": 7, "record_ms": WINDOW_MS + 1}
    plain |= {"outcome": "invalid", "reason": "malformed_json", "detail": "broken"}
    return pl.DataFrame([plain | changes], schema=letters.SCHEMA)


def written(revision: int = 1) -> Writes:
    """Something of every kind."""
    return Writes(
        books=(Books("e", "raw/0", counted=3, invalid=1, records=4),),
        dead_letters=letter(),
        partials=(partials([(WINDOW_MS, "eu", 3, "12.5", "9")], revision),),
    )


async def nothing_in(holdings: Holdings) -> bool:
    return not (await holdings.books() or await holdings.letters() or await holdings.partials())


class TestClaims:
    async def test_there_is_no_position_before_the_first(self, sink: Sink) -> None:
        assert await sink.position(ROUTE, "raw/0") is None

    async def test_the_first_begins_where_the_input_does(self, sink: Sink) -> None:
        claim = await sink.claim(ROUTE, "raw/0", 40)
        position = await sink.position(ROUTE, "raw/0")
        assert position == claim.position
        assert (claim.next_offset, claim.position.first_offset, claim.position.state) == (40, 40, {})

    async def test_each_raises_the_epoch_and_keeps_the_rest(self, sink: Sink) -> None:
        first = await sink.claim(ROUTE, "raw/0", 40)
        moved = await sink.advance(first, 90, {"clock_ms": 5}, NOTHING)
        second = await sink.claim(ROUTE, "raw/0", 70)
        assert second.position.epoch == first.position.epoch + 1
        assert (second.next_offset, second.position.first_offset) == (90, 40)
        assert second.position.version == moved.position.version
        assert second.position.state == {"clock_ms": 5}

    async def test_rows_of_other_stages_and_partitions_are_others(self, sink: Sink) -> None:
        one = await sink.claim(ROUTE, "raw/0", 1)
        await sink.claim(ROUTE, "raw/1", 2)
        await sink.claim(DEDUP, "raw/0", 3)
        assert (await sink.advance(one, 10, {}, NOTHING)).next_offset == 10
        offsets = [await sink.position(*row) for row in ((ROUTE, "raw/1"), (DEDUP, "raw/0"))]
        assert [found.next_offset for found in offsets if found] == [2, 3]

    async def test_of_claims_at_once_only_the_last_can_advance(self, sink: Sink) -> None:
        claims = await asyncio.gather(*(sink.claim(ROUTE, "raw/0", 0) for _ in range(8)))
        assert len({claim.position.epoch for claim in claims}) == 8
        last = max(claims, key=lambda claim: claim.position.epoch)
        for claim in claims:
            if claim is last:
                assert (await sink.advance(claim, 1, {}, NOTHING)).next_offset == 1
            else:
                with pytest.raises(ClaimLost):
                    await sink.advance(claim, 1, {}, NOTHING)


class TestAdvance:
    async def test_everything_in_one_go(self, sink: Sink, holdings: Holdings) -> None:
        claim = await sink.claim(DEDUP, "events/0", 0)
        moved = await sink.advance(claim, 5, {"marks": {"raw/0": 5}}, written())
        assert await sink.position(DEDUP, "events/0") == moved.position
        assert (moved.next_offset, moved.position.state) == (5, {"marks": {"raw/0": 5}})
        assert await holdings.books() == {("e", "raw/0"): (3, 0, 0, 0, 1, 0, 4)}
        assert len(await holdings.letters()) == len(await holdings.partials()) == 1

    async def test_a_claim_that_was_taken_over_changes_nothing(self, sink: Sink, holdings: Holdings) -> None:
        old = await sink.claim(DEDUP, "events/0", 0)
        new = await sink.claim(DEDUP, "events/0", 0)
        with pytest.raises(ClaimLost):
            await sink.advance(old, 5, {"marks": {"raw/0": 5}}, written())
        assert await nothing_in(holdings)
        assert await sink.position(DEDUP, "events/0") == new.position

    async def test_a_claim_advances_from_where_it_stands_only(self, sink: Sink, holdings: Holdings) -> None:
        claim = await sink.claim(DEDUP, "events/0", 0)
        moved = await sink.advance(claim, 5, {}, NOTHING)
        with pytest.raises(ClaimLost):
            await sink.advance(claim, 5, {}, written())
        assert await nothing_in(holdings)
        assert (await sink.advance(moved, 9, {}, NOTHING)).next_offset == 9

    async def test_of_the_same_advance_twice_at_once_one_takes_place(self, sink: Sink, holdings: Holdings) -> None:
        claim = await sink.claim(DEDUP, "events/0", 0)
        done = await asyncio.gather(*(sink.advance(claim, 5, {}, written()) for _ in range(4)), return_exceptions=True)
        assert sorted(type(result) for result in done if isinstance(result, Claim)) == [Claim]
        assert [type(result) for result in done if not isinstance(result, Claim)] == [ClaimLost] * 3
        assert await holdings.books() == {("e", "raw/0"): (3, 0, 0, 0, 1, 0, 4)}
        assert len(await holdings.letters()) == len(await holdings.partials()) == 1

    async def test_state_comes_back_as_it_was(self, sink: Sink) -> None:
        state = {
            "marks": {"raw/0": 2**62, 'odd "name"\\/7': -1},
            "clock_ms": 0,
            "names": ["é", "\u2028", ""],
            "none": None,
        }
        claim = await sink.claim(ROUTE, "raw/0", 0)
        await sink.advance(claim, 2**53 + 1, state, NOTHING)
        found = await sink.position(ROUTE, "raw/0")
        assert found is not None
        assert (found.next_offset, found.state) == (2**53 + 1, state)

    async def test_the_books_add_up(self, sink: Sink, holdings: Holdings) -> None:
        zero, one = await sink.claim(DEDUP, "events/0", 0), await sink.claim(DEDUP, "events/1", 0)
        more = Books("e", "raw/0", counted=1, duplicate=2, conflicting=3, late=4, invalid=5, unmatched=6, records=7)
        zero = await sink.advance(zero, 1, {}, Writes(books=(more, Books("e", "raw/1", counted=10))))
        one = await sink.advance(one, 1, {}, Writes(books=(more,)))
        await sink.advance(zero, 2, {}, Writes(books=(more, Books("topic:raw", "raw/0", unmatched=1))))
        assert await holdings.books() == {
            ("e", "raw/0"): (3, 6, 9, 12, 15, 18, 21),
            ("e", "raw/1"): (10, 0, 0, 0, 0, 0, 0),
            ("topic:raw", "raw/0"): (0, 0, 0, 0, 0, 1, 0),
        }

    async def test_a_dead_letter_keeps_every_byte(self, sink: Sink, holdings: Holdings) -> None:
        original = bytes(range(256)) * 2_000  # no UTF-8, and zeros
        frame = letter(
            original=original,
            original_bytes=len(original) * 20,
            original_sha256="ab" * 32,
            event_id="é\u2028'\"\\x",
            mapped='{"a": "\\u00e9", "n": null}',
            detail="100 % \t\n{}'; DROP TABLE x; --",
        )
        claim = await sink.claim(DEDUP, "events/0", 0)
        await sink.advance(claim, 1, {}, Writes(dead_letters=pl.concat([frame, letter(source_offset=8)])))
        first, second = await holdings.letters()
        wanted = frame.to_dicts()[0]
        assert {name: first[name] for name in wanted if name != "mapped"} == {
            name: value for name, value in wanted.items() if name != "mapped"
        }
        assert second["original"] is None
        assert second["source_offset"] == 8


class TestReadBack:
    async def write(self, sink: Sink, *groups: Partials) -> None:
        claim = await sink.claim(ROLLUP, "deltas/0", 0)
        for number, group in enumerate(groups):
            claim = await sink.advance(claim, number + 1, {}, Writes(partials=(group,)))

    async def back(self, sink: Sink, wanted: pl.DataFrame) -> dict[tuple[int, int], dict[str, Any]]:
        found = await sink.read_back(SCHEMA, wanted)
        columns = ["window_ms", "tuple_key", *SCHEMA.tuple_columns, "count", "sum_bytes", "max_bytes"]
        assert found.columns == columns
        assert found.schema["count"] == pl.Int64
        assert found.schema["sum_bytes"] == pl.String
        rows = {(row["window_ms"], row["tuple_key"]): row for row in found.to_dicts()}
        assert len(rows) == found.height
        return rows

    async def test_nothing_from_nothing(self, sink: Sink) -> None:
        wanted = partials([(WINDOW_MS, "eu", 0, None, None)]).frame.select("window_ms", "tuple_key")
        assert await self.back(sink, wanted) == {}
        assert await self.back(sink, wanted.clear()) == {}

    async def test_the_last_window_with_partials(self, sink: Sink) -> None:
        assert await sink.last_window_ms(SCHEMA) is None
        await self.write(sink, partials([(WINDOW_MS + step * 600_000, "eu", 1, "1", "1") for step in (0, 10_000, 9)]))
        assert await sink.last_window_ms(SCHEMA) == WINDOW_MS + 6_000_000_000

    async def test_the_latest_revision_counts(self, sink: Sink) -> None:
        series = [partials([(WINDOW_MS, "eu", n, str(n), str(n))], revision=n) for n in (1, 2, 1 << 41)]
        await self.write(sink, series[0], series[2], series[1])
        rows = await self.back(sink, series[0].frame.select("window_ms", "tuple_key"))
        assert [row["count"] for row in rows.values()] == [1 << 41]

    async def test_only_what_is_asked_for(self, sink: Sink) -> None:
        group = partials(
            [(WINDOW_MS, "eu", 1, "1", "1"), (WINDOW_MS, "us", 2, "2", "2"), (WINDOW_MS + 600_000, "eu", 3, "3", "3")]
        )
        await self.write(sink, group)
        wanted = group.frame.filter(pl.col("count") != 2).select("window_ms", "tuple_key")
        absent = pl.DataFrame({"window_ms": [WINDOW_MS - 600_000], "tuple_key": wanted["tuple_key"][:1]})
        rows = await self.back(sink, pl.concat([wanted, absent]))
        assert sorted(row["count"] for row in rows.values()) == [1, 3]

    async def test_many_partials_however_they_are_cut(self, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(postgres, "_COPY_BYTES", 100)  # of rows of some hundred bytes, and one far larger
        rows = [(WINDOW_MS, f"region {n}" * (1 if n else 500), n, str(n), str(n)) for n in range(50)]
        group = partials(rows)
        await self.write(sink, group)
        found = await self.back(sink, group.frame.select("window_ms", "tuple_key"))
        assert sorted((row["count"], row["region"]) for row in found.values()) == [(row[2], row[1]) for row in rows]

    @pytest.mark.parametrize(
        "region", [None, "", "null", " ", "é\u2028", "a'b\"c\\d", "\\N", "\\.", "1,5\r\n6", "x" * 2_000]
    )
    async def test_tuples_keep_their_text(self, sink: Sink, region: str | None) -> None:
        group = partials([(WINDOW_MS, region, 1, None, None)])
        await self.write(sink, group)
        (row,) = (await self.back(sink, group.frame.select("window_ms", "tuple_key"))).values()
        assert (row["external_customer_id"], row["region"], row["speed"]) == ("c", region, None)

    @pytest.mark.parametrize(
        "number",
        [
            None,
            "0",
            "-1",
            "0.000000001",
            "-123456789012345678901234567890123456789.987654321",
            "9" * 60,
            "170141183460469231731687303715884105728",  # above 128 bits
            "12.500",
            "1" + "0" * 50,
        ],
    )
    async def test_numbers_keep_every_digit(self, sink: Sink, number: str | None) -> None:
        group = partials([(WINDOW_MS, "eu", 2**62, number, number)])
        await self.write(sink, group)
        (row,) = (await self.back(sink, group.frame.select("window_ms", "tuple_key"))).values()
        assert row["count"] == 2**62
        for name in ("sum_bytes", "max_bytes"):
            if number is None:
                assert row[name] is None
            else:
                assert Decimal(row[name]) == Decimal(number)
                assert "E" not in row[name].upper()

    async def test_windows_of_every_age(self, sink: Sink, holdings: Holdings) -> None:
        texts = ["0001-01-01T00:00", "1969-12-31T23:50", "1999-12-31T23:50", "2000-01-01T00:00", "2022-12-31T23:50"]
        texts += ["2023-01-01T00:00", "2024-02-29T12:00", "2099-12-31T23:50", "2100-01-01T00:00", "9999-12-31T23:50"]
        starts = [at_ms(datetime.fromisoformat(text).replace(tzinfo=UTC)) for text in texts]
        group = partials([(start, "eu", number, str(number), None) for number, start in enumerate(starts)])
        await self.write(sink, group)
        rows = await self.back(sink, group.frame.select("window_ms", "tuple_key"))
        assert {start: row["count"] for (start, _), row in rows.items()} == {s: n for n, s in enumerate(starts)}
        for row in await holdings.partials():
            assert row.get("timestamp_millis", row["window_ms"]) == row["window_ms"]

    async def test_thousands_of_groups_in_several_months(self, sink: Sink) -> None:
        groups = 12_000
        months = [WINDOW_MS + month * 31 * 86_400_000 for month in range(4)]
        group = partials([(months[n % 4], f"r{n}", n, str(n), str(-n)) for n in range(groups)])
        await self.write(sink, group)
        rows = await self.back(sink, group.frame.select("window_ms", "tuple_key"))
        assert len(rows) == groups
        assert all(
            row["region"] == f"r{row['count']}" and row["sum_bytes"] == str(row["count"]) for row in rows.values()
        )

    async def test_an_idempotency_key_is_a_uuid_of_its_own(self, sink: Sink, holdings: Holdings) -> None:
        await self.write(sink, *(partials([(WINDOW_MS, "eu", 1, "1", None)], revision) for revision in (1, 2)))
        first, second = (row["idempotency_key"] for row in await holdings.partials())
        assert first != second


class TestPositions:
    async def test_all_rows_of_the_stages_asked_for(self, sink: Sink) -> None:
        assert await sink.positions((ROUTE, DEDUP)) == {}
        route = await sink.claim(ROUTE, "raw/0", 4)
        dedup = await sink.advance(await sink.claim(DEDUP, "raw/0", 0), 7, {"marks": {"raw/0": 2**62}}, NOTHING)
        other = await sink.claim(ROUTE, "raw/1", 0)
        await sink.claim(ROLLUP, "deltas/0", 0)
        found = {(claim.stage, claim.partition): claim.position for claim in (route, dedup, other)}
        assert await sink.positions((ROUTE, DEDUP)) == found
        assert await sink.positions((DEDUP,)) == {(DEDUP, "raw/0"): dedup.position}


class TestNotFinal:
    """Windows at 0 to 4 steps of ten minutes."""

    ALL = Span(WINDOW_MS, WINDOW_MS + 10 * 600_000, 0)

    @staticmethod
    def at(step: int) -> int:
        return WINDOW_MS + step * 600_000

    async def write(self, sink: Sink, *groups: Partials) -> None:
        claim = await sink.claim(ROLLUP, "deltas/0", 0)
        for number, group in enumerate(groups):
            claim = await sink.advance(claim, number + 1, {}, Writes(partials=(group,)))

    async def found(
        self, sink: Sink, span: Span = ALL, part: tuple[int, int] = (0, 1), partials_max: int = 1_000
    ) -> list[tuple[int, str, int]]:
        """(window step, region, count) over the whole span, in the order found."""
        rows: list[tuple[int, str, int]] = []
        rest: Span | None = span
        while rest is not None:
            before = rest
            frame, rest = await sink.not_final(SCHEMA, before, *part, partials_max)
            assert rest is None or rest < before
            assert frame.columns == ["window_ms", "tuple_key", *SCHEMA.tuple_columns, "count", "sum_bytes", "max_bytes"]
            rows += [((r["window_ms"] - WINDOW_MS) // 600_000, r["region"], r["count"]) for r in frame.to_dicts()]
        return rows

    async def test_nothing_from_nothing(self, sink: Sink) -> None:
        frame, rest = await sink.not_final(SCHEMA, self.ALL, 0, 1, 10)
        assert (frame.height, rest) == (0, None)

    async def test_the_latest_of_each_series_unless_it_is_final(self, sink: Sink) -> None:
        await self.write(
            sink,
            partials([(self.at(0), "eu", 1, "1", None), (self.at(1), "eu", 1, "1", None)], 1),
            partials([(self.at(0), "eu", 2, "2.50", "7"), (self.at(1), "eu", 1, "1", None)], 2, final=True),
            partials([(self.at(1), "us", 9, None, None)], 2, final=True),
            partials([(self.at(0), "eu", 3, "0.000000001", "8")], 3),
        )
        assert await self.found(sink) == [(0, "eu", 3)]
        frame, _ = await sink.not_final(SCHEMA, self.ALL, 0, 1, 100)
        assert (Decimal(frame["sum_bytes"][0]), frame["max_bytes"][0]) == (Decimal("1e-9"), "8")

    async def test_from_the_last_series_backwards_a_part_at_a_time(self, sink: Sink) -> None:
        rows = [(self.at(step), region, step, "1", None) for step in range(4) for region in ("eu", "us", "as")]
        keys_ = partials(rows).frame.select("window_ms", "tuple_key", "region").sort("window_ms", "tuple_key")
        wanted = [((ms - WINDOW_MS) // 600_000, region) for ms, _, region in keys_.reverse().iter_rows()]
        await self.write(sink, *(partials(rows, revision) for revision in range(3)))
        for partials_max in (1, 2, 5, 1_000):
            found = await self.found(sink, partials_max=partials_max)
            assert [(step, region) for step, region, _ in found] == wanted
        first, rest = await sink.not_final(SCHEMA, self.ALL, 0, 1, 1)
        assert (first.height, rest) == (1, self.ALL._replace(to_ms=self.at(3), to_key=first["tuple_key"][0]))

    async def test_only_within_the_span(self, sink: Sink) -> None:
        await self.write(sink, partials([(self.at(step), "eu", step, "1", None) for step in range(5)]))
        key = partials([(0, "eu", 0, None, None)]).frame["tuple_key"][0]
        assert await self.found(sink, Span(self.at(1), self.at(3), 0)) == [(2, "eu", 2), (1, "eu", 1)]
        assert await self.found(sink, Span(self.at(1), self.at(3), key)) == [(2, "eu", 2), (1, "eu", 1)]
        assert await self.found(sink, Span(self.at(3), self.at(3), key + 1)) == [(3, "eu", 3)]
        assert await self.found(sink, Span(self.at(3), self.at(3), 0)) == []
        assert len(await self.found(sink, Span(FIRST_MS, LAST_MS, 0))) == 5

    @pytest.mark.parametrize("partitions", [1, 2, 3, 7, 8, 255, 256])
    async def test_the_partition_is_the_exchanges(self, sink: Sink, partitions: int) -> None:
        """Keys of all sizes too, and where no series of a part read is wanted."""
        group = partials([(self.at(n % 3), f"r{n}", n, "1", None) for n in range(300)])
        extremes = [0, 1, 255, 256, (1 << 32) - 1, 1 << 32, 1 << 64, (1 << 96) + 5, (1 << 127) - 1, (1 << 128) - 1]
        odd = pl.Series("tuple_key", extremes, dtype=pl.UInt128)
        edges = partials([(self.at(0), f"e{n}", n, "1", None) for n in range(len(extremes))])
        await self.write(sink, group, Partials(edges.table, edges.frame.with_columns(odd)))
        all_rows = pl.concat([group.frame, edges.frame.with_columns(odd)])
        to = all_rows.with_columns(keys.partition_of("tuple_key", partitions).alias("to"))
        for partition in {0, 1 % partitions, partitions - 1}:
            wanted = set(to.filter(pl.col("to") == partition)["region"])
            found = await self.found(sink, part=(partition, partitions), partials_max=37)
            assert sorted(region for _, region, _ in found) == sorted(wanted)

    async def test_months_and_far_away_times(self, sink: Sink) -> None:
        steps = [-(10**6), -50_000, -4_000, 0, 4_000, 20_000]
        await self.write(sink, partials([(self.at(step), "eu", 1, "1", None) for step in steps]))
        span = Span(FIRST_MS, self.at(20_000), 0)
        for partials_max in (1, 4, 100):
            found = await self.found(sink, span, partials_max=partials_max)
            assert [step for step, *_ in found] == steps[-2::-1]


async def test_app_ids_do_not_share_rows(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    one, other = PostgresSink(pool, "one"), PostgresSink(pool, "other")
    claim = await one.claim(ROUTE, "raw/0", 0)
    await one.advance(claim, 5, {}, Writes(books=(Books("e", "raw/0", counted=1),)))
    assert await other.position(ROUTE, "raw/0") is None
    assert (await other.claim(ROUTE, "raw/0", 2)).next_offset == 2
    stolen = dataclasses.replace(await other.claim(ROUTE, "raw/0", 2))
    assert stolen.position.epoch == 2
    assert (await pool.fetchval("SELECT count(*) FROM rollup_engine.books WHERE app_id = 'one'")) == 1
