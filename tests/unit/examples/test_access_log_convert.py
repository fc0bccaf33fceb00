"""The converter: no line lost, the totals of the real log, ids that are unique and never change."""

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from examples.access_log import convert
from examples.access_log.convert import LOG_PATH, DownloadEvent, UnreadableLine, event_of_line, events_of_log

LINE = '10.0.0.1 - - [17/May/2015:10:05:03 +0000] "GET /a.png HTTP/1.1" 200 203023 "http://b/" "Mozilla/5.0 (X11)"'


@pytest.fixture(scope="module")
def events() -> list[DownloadEvent]:
    return list(events_of_log())


def test_the_real_log_has_ten_thousand_downloads_by_1753_clients(events: list[DownloadEvent]) -> None:
    assert len(events) == 10_000
    assert len({event["customer"] for event in events}) == 1_753
    assert sum(event.get("bytes_downloaded", 0) for event in events) == 2_747_282_740
    assert sum("bytes_downloaded" not in event for event in events) == 669
    assert {event["event_name"] for event in events} == {"download"}


def test_ids_are_unique_uuids_and_the_same_every_time(events: list[DownloadEvent]) -> None:
    ids = [event["id"] for event in events]
    assert len(set(ids)) == len(ids)
    assert all(str(uuid.UUID(event_id)) == event_id for event_id in ids)
    assert ids[0] == "a8505115-77a4-5dbf-b35a-e43a75a300b9"
    assert ids == [event["id"] for event in events_of_log()]


def test_an_id_depends_on_number_and_content() -> None:
    same = event_of_line(1, LINE)["id"]
    assert event_of_line(1, LINE)["id"] == same
    assert event_of_line(2, LINE)["id"] != same
    assert event_of_line(1, LINE.replace("a.png", "b.png"))["id"] != same


def test_an_event_has_the_lines_fields() -> None:
    event = event_of_line(7, LINE)
    event_id = event.pop("id")  # type: ignore[misc]
    assert uuid.UUID(str(event_id)).version == 5
    assert event == {
        "event_name": "download",
        "download_timestamp": "2015-05-17T10:05:03+00:00",
        "customer": "10.0.0.1",
        "bytes_downloaded": 203_023,
        "status": "200",
        "method": "GET",
        "path": "/a.png",
        "agent": "Mozilla/5.0 (X11)",
    }


def test_a_size_of_none_is_left_out_and_a_size_of_zero_is_kept() -> None:
    assert "bytes_downloaded" not in event_of_line(1, LINE.replace("203023", "-"))
    assert event_of_line(1, LINE.replace("203023", "0"))["bytes_downloaded"] == 0


def test_the_logs_offset_is_kept() -> None:
    assert event_of_line(1, LINE.replace("+0000", "-0530"))["download_timestamp"] == "2015-05-17T10:05:03-05:30"


def test_quotes_inside_the_agent_and_a_lost_closing_quote_are_read() -> None:
    escaped = LINE.replace("Mozilla/5.0 (X11)", r"say \"hi\" \xe4")
    assert event_of_line(1, escaped)["agent"] == r"say \"hi\" \xe4"
    assert event_of_line(1, LINE[:-1])["agent"] == "Mozilla/5.0 (X11)"


def test_the_one_line_of_the_log_without_closing_quote(events: list[DownloadEvent]) -> None:
    lines = LOG_PATH.read_text(encoding="utf-8").splitlines()
    assert [number for number, line in enumerate(lines, start=1) if not line.endswith('"')] == [8_899]
    assert events[8_898]["agent"] == "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"[:-1]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "not a log line",
        LINE.replace("17/May/2015", "31/Feb/2015"),
        LINE.replace(" 200 ", " two "),
        LINE.replace("203023", "-5"),
        LINE + ' "extra"',
        LINE.replace("Mozilla", 'Moz"illa'),
    ],
)
def test_an_unreadable_line_stops_the_conversion_with_its_number(tmp_path: Path, line: str) -> None:
    log = tmp_path / "odd.log"
    log.write_text(f"{LINE}\n{line}\n{LINE}\n", encoding="utf-8")
    events = events_of_log(log)
    next(events)
    with pytest.raises(UnreadableLine, match=r"odd\.log: line 2 "):
        next(events)


def test_a_line_that_is_not_utf8_stops_the_conversion(tmp_path: Path) -> None:
    log = tmp_path / "odd.log"
    log.write_bytes(LINE.encode() + b"\n" + LINE.encode("utf-8").replace(b"X11", b"\xff\xfe") + b"\n")
    with pytest.raises(UnreadableLine, match="line 2 is not UTF-8"):
        list(events_of_log(log))


def _run(log: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, convert.__file__, str(log)], capture_output=True, check=False)


def test_the_script_writes_one_event_per_line(tmp_path: Path) -> None:
    log = tmp_path / "small.log"
    log.write_text(f"{LINE}\n{LINE}\n", encoding="utf-8")
    result = _run(log)
    assert (result.returncode, result.stderr) == (0, b"")
    assert [json.loads(line) for line in result.stdout.splitlines()] == list(events_of_log(log))


def test_the_script_fails_with_one_sentence_and_no_traceback(tmp_path: Path) -> None:
    log = tmp_path / "odd.log"
    log.write_text(f"{LINE}\nnonsense\n{LINE}\n", encoding="utf-8")
    result = _run(log)
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 1
    assert b"odd.log: line 2" in result.stderr
    assert b"Traceback" not in result.stderr
    missing = _run(tmp_path / "missing.log")
    assert missing.returncode == 1
    assert b"missing.log" in missing.stderr
    assert b"Traceback" not in missing.stderr
