"""Polars over the same events as a file: a batch, of everything at once, by the streaming engine."""

import polars as pl

from benchmarks.yardsticks.common import Stopwatch, Task, task

SCHEMA = {"id": pl.String, "customer": pl.String, "at": pl.String, "bytes": pl.Int64, "speed": pl.String}


def main(task: Task) -> None:
    watch = Stopwatch()
    watch.start()
    at = pl.col("at").str.to_datetime("%Y-%m-%dT%H:%M:%S%.3fZ", time_unit="ms")
    groups = (
        pl.scan_ndjson(task.file, schema=SCHEMA)
        .with_columns(at.dt.truncate("10m").dt.epoch("ms").alias("window_ms"))
        .group_by("id")
        .agg(pl.first("window_ms", "customer", "speed", "bytes"))
        .group_by("window_ms", "customer", "speed")
        .agg(pl.len(), pl.col("bytes").sum())
        .collect(engine="streaming")
    )
    task.done(watch.seconds, groups.rows())


main(task())
