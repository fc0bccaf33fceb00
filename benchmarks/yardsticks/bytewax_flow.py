"""A bytewax dataflow, one worker: records decoded by the batch, then keyed by group, ids and totals as keyed state.

`--variant recovery` keeps snapshots in a recovery store at the default epoch of ten seconds. A group remembers its own
ids, which spares a second exchange and is kind: a repeat with another payload would be counted in another group.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main

from benchmarks.yardsticks.common import Stopwatch, Task, task, window_ms

State = tuple[frozenset[str], int, int]
Total = tuple[str, tuple[int, int]]
EPOCH = timedelta(seconds=10)
watch = Stopwatch()


class Group(StatefulBatchLogic[tuple[str, int], tuple[int, int], State]):
    """One group: the ids it has seen, count and sum; tells the new total once a batch."""

    def __init__(self, state: State | None) -> None:
        ids, self._count, self._sum = state or (frozenset(), 0, 0)
        self._ids = set(ids)

    def on_batch(self, values: list[tuple[str, int]]) -> tuple[Iterable[tuple[int, int]], bool]:
        for event_id, size in values:
            if event_id not in self._ids:
                self._ids.add(event_id)
                self._count += 1
                self._sum += size
        return [(self._count, self._sum)], StatefulBatchLogic.RETAIN

    def snapshot(self) -> State:
        return frozenset(self._ids), self._count, self._sum


class Latest(DynamicSink[Total]):
    """The latest total of each group."""

    def __init__(self) -> None:
        self.totals: dict[str, tuple[int, int]] = {}

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSinkPartition[Total]:
        totals = self.totals

        class Partition(StatelessSinkPartition[Total]):
            def write_batch(self, items: list[Total]) -> None:
                totals.update(items)

        return Partition()


def decoded(messages: list[KafkaSourceMessage[Any, Any]]) -> Iterable[tuple[str, tuple[str, int]]]:
    watch.start()
    for message in messages:
        event = orjson.loads(message.value)
        key = f"{window_ms(event['at'])}|{event['customer']}|{event['speed']}"
        yield key, (event["id"], event["bytes"])


def main(task: Task) -> None:
    flow, latest = Dataflow("usage"), Latest()
    raw = op.input("raw", flow, KafkaSource([task.kafka], [task.topic], tail=False, batch_size=10_000))
    keyed = op.flat_map_batch("decode", raw, decoded)
    op.output("out", op.stateful_batch("total", keyed, Group), latest)
    recovery = None
    if task.variant == "recovery":
        init_db_dir(task.state, 1)
        recovery = RecoveryConfig(str(task.state))
    cluster_main(flow, [], 0, epoch_interval=EPOCH, recovery_config=recovery)
    seconds = watch.seconds
    keys = ((key.split("|"), total) for key, total in latest.totals.items())
    task.done(seconds, ((int(window), customer, speed, *total) for (window, customer, speed), total in keys))


main(task())
