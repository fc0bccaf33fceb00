"""How far a session of route that was cut off may have sent beyond its position, to some of the events partitions."""

from rollup_engine.exchange import read_range
from rollup_engine.ports import Log, Sink
from rollup_engine.progress import DEDUP
from rollup_engine.topology import Topology, events_topic, source_name


async def half_sent_to(log: Log, sink: Sink, topology: Topology, source: str, position: int) -> int:
    """The greatest source offset that any events partition was sent up to: by dedup's marks for what it has taken in,
    by the records themselves for what it has not. `position` where nothing went further."""
    topic, reached = events_topic(topology.app_id), position
    for number in range(topology.partitions):
        row = await sink.position(DEDUP, source_name(topic, number))
        start, end = await log.bounds(topic, number)
        if row is not None:
            marks = row.state.get("marks")
            reached = max(reached, marks.get(source, position) if isinstance(marks, dict) else position)
            start = max(start, row.next_offset)
        async for batch in read_range(log, topic, number, start, end):
            reached = max([reached, *(packed.end for _, packed in batch if packed.source == source)])
    return reached
