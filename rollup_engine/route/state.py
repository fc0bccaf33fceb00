"""What route keeps per raw partition, in the sink's row: for the next session, and for all who ask how far it is."""

import msgspec

NO_WATERMARK_MS = -(1 << 62)


class RouteState(msgspec.Struct, frozen=True):
    """What route keeps per raw partition, in the sink's row."""

    watermarks: dict[str, int] = {}  # largest event time so far, per event type
    clock_ms: int = 0  # running maximum of the records' own time
    records: int = 0  # raw records routed so far
    received: dict[str, int] = {}  # of them per event type (or `topic:<name>`): what the books must come to
    last_offset: int = -1  # of the last record read, and its checksum: tells another life of the topic
    last_crc: int = 0
    quiet_ms: int = 0  # elapsed since its last record, told now and then while there is none to read
    generation: int = 0  # of the YAML under which everything after the position was or will be sent
    gaps: list[tuple[int, int]] = []  # [start, end): raw records lost before they were read, as an operator accepted
