"""Durations as people write them: `30s`, `10m`, `12h`, `7d`, `1h30m`, `200ms`.

Owns: the text form of a length of time, both ways. Must never decide which lengths make sense: the rules do.
"""

from __future__ import annotations

import re
from typing import Final

DAY_MS: Final = 86_400_000
DURATION_MS_MAX: Final = 3_650 * DAY_MS
"""Ten years, give or take: beyond it a duration is a typing mistake."""

HOW_TO_WRITE: Final = "Write whole numbers with the units d, h, m, s or ms, such as 30s, 10m or 1h30m."

_UNITS: Final = {"d": DAY_MS, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_PARTS = re.compile("".join(rf"(?:([0-9]{{1,12}}){unit})?" for unit in _UNITS))


def parse_duration(text: str) -> int:
    """Milliseconds, 0 to DURATION_MS_MAX. Larger units come first, each at most once. Raises ValueError otherwise."""
    match = _PARTS.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"not a duration: {text!r}")
    duration_ms = sum(int(part or 0) * unit_ms for part, unit_ms in zip(match.groups(), _UNITS.values(), strict=True))
    if duration_ms > DURATION_MS_MAX:
        raise ValueError(f"longer than {format_duration(DURATION_MS_MAX)}: {text!r}")
    return duration_ms


def format_duration(duration_ms: int) -> str:
    """Text that `parse_duration` reads back as the same milliseconds: `1h30m`, `0s`; `24h` and `25h`, but `7d`."""
    parts: list[str] = []
    if duration_ms % DAY_MS == 0 and duration_ms > DAY_MS:
        return f"{duration_ms // DAY_MS}d"
    for unit, unit_ms in list(_UNITS.items())[1:]:
        amount, duration_ms = divmod(duration_ms, unit_ms)
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts) or "0s"
