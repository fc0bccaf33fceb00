"""Closed windows as an analyst meets them: the latest partial of each group becomes final, and is the total."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable

from tests.acceptance.cli import Engine, until
from tests.acceptance.traffic import event, events, partials, recount, totals, yaml


def finals(url: str) -> Counter[tuple[str, str, str | None]]:
    """How many final partials each series has."""
    return Counter(
        (row["timestamp"].isoformat(), row["external_customer_id"], row["download_speed"])
        for row in asyncio.run(partials(url))
        if row["final"]
    )


def test_every_group_has_one_final_partial_once_its_topic_is_quiet(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(yaml(grace_period="1s"))
    url = engine.environment["ROLLUP_DATABASE_URL"]
    lines = sorted(events(5_000, seed=21), key=lambda line: str(json.loads(line)["download_timestamp"]))
    up = engine.up()
    engine.produce(lines)
    engine.settled(len(lines))
    expected = recount(lines)
    until("all windows are closed", lambda: finals(url).keys() == expected.keys())
    assert set(finals(url).values()) == {1}
    assert asyncio.run(totals(url)) == expected

    again = event(id="afterwards", customer="customer-1", download_timestamp="2022-08-14T16:30:00Z")
    engine.produce([again])
    engine.settled(len(lines) + 1)
    expected = recount([*lines, again])
    until("its window's partial", lambda: asyncio.run(totals(url)) == expected)
    assert up.stop() == 0, up.output
    series: dict[tuple[object, ...], int] = {}
    for row in asyncio.run(partials(url)):
        key = row["timestamp"], row["tuple_key"]
        assert row["revision"] > series.get(key, -1)
        series[key] = row["revision"]
