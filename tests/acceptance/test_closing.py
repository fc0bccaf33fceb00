"""Closed windows as an analyst meets them: the latest partial of each group becomes final, and is the total."""

import asyncio
import json
from collections.abc import Callable

from tests.acceptance.cli import Engine, until
from tests.acceptance.traffic import Group, event, events, partials, recount, totals, yaml


def finals(url: str) -> dict[Group, list[int]]:
    """Events in each series' final partials, in the order they were written."""
    found: dict[Group, list[int]] = {}
    for row in asyncio.run(partials(url)):
        if row["final"]:
            series = row["timestamp"].isoformat(), row["external_customer_id"], row["download_speed"]
            found.setdefault(series, []).append(row["count"])
    return found


def test_every_groups_total_is_final_once_its_topic_is_quiet(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(yaml(grace_period="1s"))
    url = engine.environment["ROLLUP_DATABASE_URL"]
    lines = sorted(events(5_000, seed=21), key=lambda line: str(json.loads(line)["download_timestamp"]))
    up = engine.up()
    engine.produce(lines)
    engine.settled(len(lines))
    expected = recount(lines)
    counts = {series: count for series, (count, _) in expected.items()}
    until("all totals are final", lambda: {series: found[-1] for series, found in finals(url).items()} == counts)
    # Which raw partition gives its first event first is chance, and one that has had none holds no window open. So
    # there may be a second final partial, of what the others added; never one that says the same again.
    assert all(found == sorted(set(found)) for found in finals(url).values())
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
