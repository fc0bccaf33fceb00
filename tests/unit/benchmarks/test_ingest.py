"""The ingest benchmark's figures and events; the rest of it is a run."""

import json

from benchmarks import ingest
from benchmarks.traffic import Traffic


def test_rates_latencies_and_ratios() -> None:
    rows = ingest.with_ratios(
        [
            ingest.row("serve", 1_000, 2.0, [0.001 * n for n in range(1, 102)], cpu=1.0),
            ingest.row("straight", 1_000, 0.5, [0.002, 0.002]),
        ]
    )
    serve, straight = rows
    assert (serve["events/s"], straight["events/s"]) == (500.0, 2_000.0)
    assert (serve["serve to it"], straight["serve to it"]) == (1.0, 0.25)
    assert (round(float(serve["p50, ms"] or 0)), round(float(serve["p99, ms"] or 0))) == (51, 100)
    assert (serve["of its core, %"], serve["µs of CPU/event"]) == (50.0, 1_000.0)
    assert list(serve) == list(straight)


def test_the_events_are_the_other_benchmarks_in_orbs_shape() -> None:
    traffic = Traffic(200)
    for made, value in zip(ingest.events(traffic), traffic.values(), strict=True):
        event, plain = json.loads(made), json.loads(value)
        assert (event["idempotency_key"], event["timestamp"]) == (plain["id"], plain["at"])
        assert event["external_customer_id"] == plain["customer"]
        assert event["properties"] == {name: plain[name] for name in ("bytes", "speed", "path")}
