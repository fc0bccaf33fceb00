"""A pathway dataflow: JSON read by its own reader, each id once, then added up; the whole topic at once (`static`)."""

from typing import Any

import pathway as pw

from benchmarks.yardsticks.common import WINDOW_SECONDS, Stopwatch, Task, task


class Event(pw.Schema):
    event: str
    customer: str
    at: str
    bytes: int
    speed: str


def main(task: Task) -> None:
    events = pw.io.kafka.read(
        {"bootstrap.servers": task.kafka, "group.id": "yardstick-pathway", "auto.offset.reset": "earliest"},
        task.topic,
        schema=Event,
        format="json",
        json_field_paths={"event": "/id"},  # `id` is the name of pathway's own key
        mode="static",
    )
    seconds = events.at.dt.strptime("%Y-%m-%dT%H:%M:%S.%fZ").dt.timestamp(unit="s")
    events = events.with_columns(window=pw.cast(int, seconds) // WINDOW_SECONDS * (WINDOW_SECONDS * 1_000))
    once = events.groupby(pw.this.event, pw.this.window, pw.this.customer, pw.this.speed, pw.this.bytes).reduce(
        pw.this.window, pw.this.customer, pw.this.speed, pw.this.bytes
    )
    totals = once.groupby(pw.this.window, pw.this.customer, pw.this.speed).reduce(
        pw.this.window,
        pw.this.customer,
        pw.this.speed,
        count=pw.reducers.count(),
        size=pw.reducers.sum(pw.this.bytes),
    )
    found: dict[pw.Pointer, tuple[int, str, str, int, int]] = {}

    def changed(key: pw.Pointer, row: dict[str, Any], time: int, is_addition: bool) -> None:
        if is_addition:
            found[key] = (row["window"], row["customer"], row["speed"], row["count"], row["size"])

    pw.io.subscribe(totals, on_change=changed)
    watch = Stopwatch()
    watch.start()  # nothing tells of the first event: what starting takes counts, some tenths of a second
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    task.done(watch.seconds, found.values())


main(task())
