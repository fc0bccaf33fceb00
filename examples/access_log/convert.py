"""Turns lines of an Apache access log (combined format) into usage events, one JSON object per line.

Owns the mapping from a log line to an event, and nothing else: standard library only, so that it also runs as a
script. It must never drop a line in silence: a line it cannot read stops the conversion with its number.

    python examples/access_log/convert.py [LOG] > events.ndjson
"""

import argparse
import json
import os
import re
import sys
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NotRequired, TypedDict

LOG_PATH = Path(__file__).with_name("apache_access.log")

# Ids are UUIDs of version 5 in this namespace, so the same log always gives the same ids.
_ID_NAMESPACE = uuid.UUID("6f0f3c1e-5d0a-5b0e-9f35-2d6f5c9c7a10")

# Apache writes a quote inside a quoted field as \" and other odd bytes as \xhh; such escapes are kept as they are.
# The closing quote of the last field may be missing: line 8,899 of the sample log was cut there, and only there.
_QUOTED = r"(?:[^\"\\]|\\.)*"
_LINE = re.compile(
    r"(?P<client>\S+) \S+ \S+ "
    r"\[(?P<time>[^\]]+)\] "
    r"\"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/\d\.\d\" "
    r"(?P<status>\d{3}) (?P<bytes>\d+|-) "
    rf"\"{_QUOTED}\" "
    rf"\"(?P<agent>{_QUOTED})\"?"
)


class UnreadableLine(ValueError):
    """A line of the log is not in the combined format; the message names file and line."""


class DownloadEvent(TypedDict):
    """One usage event. `bytes_downloaded` is absent where the log has `-`: such a download counts and adds no bytes."""

    event_name: str
    id: str
    download_timestamp: str
    customer: str
    bytes_downloaded: NotRequired[int]
    status: str
    method: str
    path: str
    agent: str


def event_of_line(line_number: int, line: str) -> DownloadEvent:
    """The event of one log line without its line end.

    The id is made from the line's number (from 1) and its content: 19 lines of the sample log repeat an earlier
    one word for word, and each is a download of its own.

    Raises:
        UnreadableLine: the line is not in the combined format, or its time is not a time.
    """
    match = _LINE.fullmatch(line)
    if match is None:
        raise UnreadableLine(f"line {line_number} is not in Apache's combined log format: {line[:200]!r}")
    try:
        time = datetime.strptime(match["time"], "%d/%b/%Y:%H:%M:%S %z")
    except ValueError as error:
        raise UnreadableLine(f"line {line_number} has a time that cannot be read: {match['time']!r}") from error
    event: DownloadEvent = {
        "event_name": "download",
        "id": str(uuid.uuid5(_ID_NAMESPACE, f"{line_number}:{line}")),
        "download_timestamp": time.isoformat(),
        "customer": match["client"],
        "status": match["status"],
        "method": match["method"],
        "path": match["path"],
        "agent": match["agent"],
    }
    if match["bytes"] != "-":
        event["bytes_downloaded"] = int(match["bytes"])
    return event


def events_of_log(log_path: Path = LOG_PATH) -> Iterator[DownloadEvent]:
    """The events of a log file in its order, one per line.

    Raises:
        UnreadableLine: at the first line that cannot be read; the message begins with `<file>: line <n>`.
        OSError: the file cannot be read.
    """
    with log_path.open("rb") as log:
        for line_number, raw in enumerate(log, start=1):
            try:
                yield event_of_line(line_number, raw.rstrip(b"\r\n").decode("utf-8"))
            except UnicodeDecodeError as error:
                raise UnreadableLine(f"{log_path}: line {line_number} is not UTF-8: {error}") from error
            except UnreadableLine as error:
                raise UnreadableLine(f"{log_path}: {error}") from error


def encode(event: DownloadEvent) -> bytes:
    """The event as the bytes of one raw record: compact JSON, UTF-8, no line end."""
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def main() -> int:
    """Writes the events of a log to standard output; 0 ok, 1 a line or the file cannot be read."""
    parser = argparse.ArgumentParser(description="Converts an Apache access log to usage events, one JSON per line.")
    parser.add_argument("log", nargs="?", type=Path, default=LOG_PATH, metavar="LOG", help="default: the sample log")
    log_path: Path = parser.parse_args().log
    try:
        for event in events_of_log(log_path):
            sys.stdout.buffer.write(encode(event) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # The reader, `head` for one, has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UnreadableLine, OSError) as error:
        print(f"convert: {error}. Nothing after it was converted; mend or remove the line.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
