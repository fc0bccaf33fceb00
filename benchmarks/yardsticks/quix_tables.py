"""A quixstreams application: regrouped by group through a topic, ids and totals in its RocksDB state with a changelog.

A group remembers its own ids, which spares a second regrouping and is kind: a repeat with another payload would be
counted in another group.
"""

from typing import Any

from quixstreams import Application, State

from benchmarks.yardsticks.common import Stopwatch, Task, task, window_ms


def main(task: Task) -> None:
    app = Application(
        broker_address=task.kafka,
        consumer_group="yardstick-quix",
        auto_offset_reset="earliest",
        state_dir=task.state,
        loglevel="WARNING",
    )
    watch, taken = Stopwatch(), 0
    totals: dict[str, tuple[int, int]] = {}
    seconds: list[float] = []

    def group(event: dict[str, Any]) -> str:
        watch.start()
        return f"{window_ms(event['at'])}|{event['customer']}|{event['speed']}"

    def add(event: dict[str, Any], key: Any, _at: int, _headers: object, state: State) -> None:
        nonlocal taken
        if not state.exists(event["id"]):
            state.set(event["id"], 1)
            count, size = state.get("total", (0, 0))
            totals[str(key)] = (count + 1, size + event["bytes"])
            state.set("total", totals[str(key)])
        taken += 1
        if taken == task.events:
            seconds.append(watch.seconds)
            app.stop()

    frame = app.dataframe(app.topic(task.topic, value_deserializer="json")).group_by(group, name="group")
    frame.apply(add, stateful=True, metadata=True)
    app.run()
    keys = ((key.split("|"), total) for key, total in totals.items())
    task.done(seconds[0], ((int(window), customer, speed, *total) for (window, customer, speed), total in keys))


main(task())
