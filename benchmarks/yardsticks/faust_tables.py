"""A Faust agent with Tables, as its documentation has it: one for the ids, one for the totals per 10-minute window.

`expires=None`: windows expire by the wall clock, and historic data would silently vanish. One worker holds every
partition, so a repeat in another partition is found without regrouping by id first: kind.
"""

import faust

from benchmarks.yardsticks.common import WINDOW_SECONDS, Stopwatch, Task, task


class Event(faust.Record, serializer="json"):
    id: str
    customer: str
    at: str
    bytes: int
    speed: str


def main(task: Task) -> None:
    app = faust.App(
        "yardstick-faust",
        broker=f"kafka://{task.kafka}",
        store="memory://",
        datadir=str(task.state),
        topic_partitions=task.partitions,
        topic_replication_factor=1,
        topic_disable_leader=True,
        web_enabled=False,
        stream_buffer_maxsize=32_768,
    )
    raw = app.topic(task.topic, value_type=Event, key_type=bytes)
    seen = app.Table("seen", default=bool, partitions=task.partitions)
    totals = app.Table("totals", default=lambda: (0, 0), partitions=task.partitions)
    windows = totals.tumbling(WINDOW_SECONDS, expires=None).relative_to_field(Event.at)
    watch, taken = Stopwatch(), 0

    @app.agent(raw)
    async def add(events: faust.StreamT[Event]) -> None:
        nonlocal taken
        async for event in events:
            watch.start()
            if not seen[event.id]:
                seen[event.id] = True
                key = f"{event.customer}|{event.speed}"
                count, size = windows[key].value()
                windows[key] = (count + 1, size + event.bytes)
            taken += 1
            if taken == task.events:
                report(watch.seconds)

    def report(seconds: float) -> None:
        rows = []
        for (key, (start, _)), (count, size) in totals.data.items():
            customer, _, speed = key.partition("|")
            rows.append((int(start) * 1_000, customer, speed, count, size))
        task.done(seconds, rows)

    faust.Worker(app, loglevel="ERROR").execute_from_commandline()


main(task())
