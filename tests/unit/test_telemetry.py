"""The log as the engine's processes write it, its own lines and those of libraries, in either form."""

import json
import subprocess
import sys

PROGRAM = """
import logging, structlog, sys
from rollup_engine.telemetry import configure_logging
configure_logging("INFO", sys.argv[1])
structlog.contextvars.bind_contextvars(source="downloads/3")
def fail():
    password = "hun" + "ter2"
    raise ValueError("no such topic")
for log in structlog.get_logger(), logging.getLogger("aiokafka.client"):
    log.warning("an odd answer")
    try:
        fail()
    except ValueError:
        log.exception("it failed")
logging.getLogger("aiokafka.client").info("of no interest")
"""


def _lines(form: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, form], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    assert "hunter2" not in done.stderr, "what variables held is nobody's business"
    return done.stderr.splitlines()


def test_json_is_one_object_a_line_whoever_speaks() -> None:
    found = [json.loads(line) for line in _lines("json")]
    assert [(line["event"], line["level"], line.get("logger")) for line in found] == [
        ("an odd answer", "warning", None),
        ("it failed", "error", None),
        ("an odd answer", "warning", "aiokafka.client"),
        ("it failed", "error", "aiokafka.client"),
    ]
    for line in found:
        assert line["source"] == "downloads/3"
        assert line["timestamp"].endswith("Z")
        assert ("ValueError: no such topic" in line.get("exception", "")) == (line["event"] == "it failed")


def test_people_read_the_same_lines_and_a_plain_traceback() -> None:
    lines = _lines("console")
    heads = [line for line in lines if "source=downloads/3" in line]
    assert ["[aiokafka.client]" in line for line in heads] == [False, False, True, True]
    assert lines.count("ValueError: no such topic") == 2
