"""Objects of buckets, read by real processes: every row once, whatever dies; what is wrong with an object is told."""

import asyncio
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import polars as pl
import pytest

from rollup_engine.runtime.embedded import adopt_broker
from tests.acceptance.cli import Engine, until
from tests.acceptance.traffic import event, events, recount, rows, totals, yaml
from tests.s3 import S3Server
from tests.unit.buckets.objects import compress

POLL = "1s"
Objects = list[dict[str, Any]]


def bucket_yaml(source: str, name: str = "file_download") -> str:
    content = yaml().replace("{topic: downloads}", source)
    return content.replace("event: file_download", f"event: {name}")


def source(url: str, format_: str = "ndjson", more: str = "") -> str:
    return f'{{{more}bucket: "{url}", format: {format_}, poll: {POLL}}}'


def put(directory: Path, name: str, content: bytes) -> None:
    """As a producer should: under a hidden name first. Old enough to be taken for whole at once."""
    directory.mkdir(parents=True, exist_ok=True)
    hidden = directory / f".{name}"
    hidden.write_bytes(content)
    hidden.rename(directory / name)


def ndjson(lines: Sequence[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def parts(lines: Sequence[str], number: int) -> list[list[str]]:
    return [list(lines[start::number]) for start in range(number)]


def as_csv(lines: Sequence[str]) -> bytes:
    return pl.DataFrame([json.loads(line) for line in lines]).write_csv().encode()


def as_parquet(lines: Sequence[str]) -> bytes:
    file = io.BytesIO()
    pl.DataFrame([json.loads(line) for line in lines]).write_parquet(file)
    return file.getvalue()


def objects(engine: Engine, *options: str) -> Objects:
    found: Objects = json.loads(engine.ok("bucket", "list", "--limit", "1000", "--format", "json", *options))
    return found


def status(engine: Engine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.ok("status", "--format", "json"))
    return found


def booked(engine: Engine, names: Iterable[str]) -> dict[str, Any] | None:
    """The status, once nothing of these event types is under way."""
    now = status(engine)
    return now if all(now["events"][name]["lag"] == 0 for name in names) else None


@pytest.fixture
def s3() -> Iterator[S3Server]:
    server = S3Server.start()
    yield server
    server.stop()


def test_every_format_and_store_with_whatever_is_wrong(make_engine: Callable[..., Engine], s3: S3Server) -> None:
    engine = make_engine()
    engine.environment |= s3.variables
    data = engine.directory / "data"
    urls = {"ndjson": f"file://{data}/ndjson/", "csv": f"file://{data}/csv/", "parquet": f"file://{data}/parquet/"}
    for format_, url in urls.items():
        (data / format_).mkdir(parents=True)
        name = "file_download" if format_ == "ndjson" else f"{format_}_download"
        (engine.config / f"{name}.yaml").write_text(bucket_yaml(source(url, format_), name))
    (engine.config / "s3.yaml").write_text(bucket_yaml(source("s3://events/in/"), "s3_download"))

    lines = {format_: events(600, seed) for seed, format_ in enumerate(("ndjson", "csv", "parquet", "s3"))}
    plain, gzipped, zstd = parts(lines["ndjson"], 3)
    put(data / "ndjson", "1.ndjson", ndjson(plain))
    put(data / "ndjson", "2.ndjson.gz", gzip.compress(ndjson(gzipped)))
    put(data / "ndjson", "3.ndjson.zst", compress(ndjson(zstd), ".zst"))
    whole = gzip.compress(ndjson(events(5_000, 9)), mtime=0)
    put(data / "ndjson", "4.ndjson.gz", whole[: len(whole) // 2])
    put(data / "ndjson", "5.ndjson", b"\x00\x01 garbage\n" + ndjson([event(id="")]) + b"[1]")
    for number, part in enumerate(parts(lines["csv"], 3)):
        put(data / "csv", f"{number}.csv", as_csv(part))
    for number, part in enumerate(parts(lines["parquet"], 3)):
        put(data / "parquet", f"{number}.parquet", as_parquet(part))
    put(data / "parquet", "9.parquet", as_parquet(lines["parquet"])[:-9])
    for number, part in enumerate(parts(lines["s3"], 3)):
        s3.put("events", f"in/2022/{number}.ndjson", ndjson(part))

    nowhere = bucket_yaml(source(f"file://{data}/missing/"), "nothing")
    (engine.config / "nothing.yaml").write_text(nowhere)

    up = engine.up()
    until("every object is read", lambda: sum(of(engine).values()) == 15 and None not in of(engine))
    states = {one["object"]: one for one in objects(engine)}
    damaged = states["4.ndjson.gz"]
    assert (damaged["state"], damaged["refused"]) == ("damaged", 1)
    assert f"line {damaged['rows']}" in damaged["note"]
    assert (states["5.ndjson"]["state"], states["5.ndjson"]["rows"], states["5.ndjson"]["refused"]) == ("read", 3, 3)
    assert (states["9.parquet"]["state"], states["9.parquet"]["refused"]) == ("damaged", 1)
    assert {name for name, one in states.items() if one["state"] != "read"} == {"4.ndjson.gz", "9.parquet"}

    url = engine.environment["ROLLUP_DATABASE_URL"]
    good = [*lines["ndjson"], *events(5_000, 9)[: damaged["rows"] - 1]]
    expected = {"file_download": good, **{f"{name}_download": lines[name] for name in ("csv", "parquet", "s3")}}
    now = until("all is in the books", lambda: booked(engine, expected))
    invalid = {"file_download": 4, "parquet_download": 1}
    for name, wanted in expected.items():
        books = {kind: now["events"][name][kind] for kind in ("counted", "invalid", "received", "lag")}
        bad = invalid.get(name, 0)
        assert books == {"counted": len(wanted), "invalid": bad, "received": len(wanted) + bad, "lag": 0}
        until(f"totals of {name}", lambda n=name, w=wanted: asyncio.run(totals(url, n)) == recount(w))
    (halt,) = now["halted"]
    assert "there is no directory" in halt["cause"]
    assert str(data / "missing") in halt["cause"]

    # A new one is found within `poll`, and the 2 s after which a file counts as written; a changed one is told.
    put(data / "ndjson", "0.ndjson", ndjson(events(10, 77)))
    (data / "ndjson" / "1.ndjson").write_bytes(ndjson(plain) + b"\n")
    until("the new one and the alarm", lambda: of(engine) == {"read": 13, "damaged": 2, "changed": 1}, 15)
    now = status(engine)
    assert {one["url"]: one["problems"] for one in now["buckets"]}[urls["ndjson"]] == 2
    assert "not read again" in engine.ok("status")
    assert engine.ok("bucket", "accept", f"{urls['ndjson']}1.ndjson")
    assert {one["object"] for one in objects(engine, "--problems")} == {"4.ndjson.gz", "9.parquet"}
    assert up.stop() == 0, up.output  # whatever is in a bucket is there the next time, too


def of(engine: Engine) -> dict[str | None, int]:
    """How many objects came to what; None: waiting or being read."""
    query = "SELECT outcome, count(*) AS n FROM rollup_engine.objects GROUP BY outcome"
    found = asyncio.run(rows(engine.environment["ROLLUP_DATABASE_URL"], query))
    return {row["outcome"]: row["n"] for row in found}


def in_the_middle(engine: Engine) -> bool:
    """Whether route's position is inside of an object."""
    query = "SELECT next_offset FROM rollup_engine.progress WHERE stage = 'route' AND source LIKE 'bucket.%'"
    found = asyncio.run(rows(engine.environment["ROLLUP_DATABASE_URL"], query))
    return any(row["next_offset"] % (1 << 36) for row in found)


async def forget_the_dead(engine: Engine) -> None:
    """What they held is free at once, instead of after 15 s."""
    connection = await asyncpg.connect(engine.environment["ROLLUP_DATABASE_URL"])
    try:
        await connection.execute("DELETE FROM rollup_engine.leases; UPDATE rollup_engine.buckets SET lister = NULL")
    finally:
        await connection.close()


def test_an_embedded_broker_that_died_takes_nothing_of_a_bucket_with_it(make_engine: Callable[..., Engine]) -> None:
    """Its topics are gone, in the midst of everything; each row is in the books once all the same."""
    engine = make_engine()
    data = engine.directory / "data"
    (engine.config / "file_download.yaml").write_text(bucket_yaml(source(f"file://{data}/")))
    lines = events(100_000, seed=22)
    for number, part in enumerate(parts(lines, 2)):  # route takes no more than 40,000 rows at once
        put(data, f"{number}.ndjson", ndjson(part))
    first = engine.up()
    until("it is in the middle", lambda: in_the_middle(engine))
    broker = adopt_broker(engine.state_dir)
    assert broker is not None
    for process in [*first.children(), first.popen]:
        process.kill()
    first.ends()
    broker.stop()
    asyncio.run(forget_the_dead(engine))
    put(data, "4.ndjson", ndjson([event(id="the last")]))
    again = engine.start("up", "--no-api", "--exit-when-idle", "1")
    assert again.ends() == 0, again.output
    assert "the embedded broker started anew" in again.output
    status = engine.status()
    assert {kind: status[kind] for kind in ("counted", "duplicate", "invalid", "lag")} == {
        "counted": len(lines) + 1,
        "duplicate": 0,
        "invalid": 0,
        "lag": 0,
    }
    assert len(objects(engine)) == 3
