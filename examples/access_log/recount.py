"""The oracle of the demo: adds up the raw log file in plain Python.

It must never share code with what it checks: nothing of `rollup_engine`, and not the converter either, so it takes
the lines apart in its own way (by splitting, where the converter uses a pattern).
"""

from calendar import timegm
from pathlib import Path

WINDOW_MS = 600_000

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def recount(log_path: Path) -> dict[tuple[int, str, str, str], tuple[int, int]]:
    """Downloads and bytes per (window start in ms UTC, client, status, method), as (count, bytes).

    Windows are 10 minutes. Bytes are 0 for a group in which every line has `-`.

    Raises:
        ValueError: a line's fields are not where Apache's combined format has them.
        OSError: the file cannot be read.
    """
    totals: dict[tuple[int, str, str, str], tuple[int, int]] = {}
    for line in log_path.read_text(encoding="utf-8").split("\n"):
        if not line:
            continue
        # 1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET /path HTTP/1.1" 200 203023 "referrer" "agent"
        before, request, after, *_ = line.split('"')
        client = before.split(" ", 1)[0]
        time_ms = _time_ms(before[before.index("[") + 1 : before.index("]")])
        method = request.split(" ", 1)[0]
        status, size = after.split()
        key = (time_ms - time_ms % WINDOW_MS, client, status, method)
        count, size_sum = totals.get(key, (0, 0))
        totals[key] = (count + 1, size_sum + (0 if size == "-" else int(size)))
    return totals


def _time_ms(text: str) -> int:
    """`17/May/2015:10:05:03 +0000` in ms UTC since the epoch."""
    local, offset = text.split(" ")
    date, hour, minute, second = local.split(":")
    day, month, year = date.split("/")
    local_s = timegm((int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second)))
    offset_s = int(offset[1:3]) * 3600 + int(offset[3:5]) * 60
    return (local_s + offset_s if offset[0] == "-" else local_s - offset_s) * 1000
