"""Roles as forks of a template: they begin, end and are signalled as programs of their own would be."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rollup_engine.runtime import template
from tests.acceptance.cli import ROOT, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forked on Linux alone")

ROLE = """\
import os, signal, sys, time
from rollup_engine.runtime.processes import end_with_parent
end_with_parent(int(sys.argv[sys.argv.index("--parent") + 1]))
match sys.argv[1]:
    case "exits": sys.exit(int(sys.argv[2]))
    case "ends": pass
    case "says": sys.exit("why")
    case "fails": raise ValueError
    case "tells":
        assert os.getsid(0) == os.getpid() and os.environ["GIVEN"] == "this" and os.environ["OURS"] == "too"
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
        assert " -m role tells " in open("/proc/self/cmdline").read().replace("\\0", " ")
    case "waits": time.sleep(60)
"""
UP = """\
import os, signal, sys, time
from rollup_engine.runtime import template
template._command = lambda arguments, parent: [sys.executable, "-m", "role", *arguments, "--parent", str(parent)]
ours = template.Template(["rollup_engine.runtime.processes"])
start = ours.start
"""


def run(tmp_path: Path, body: str) -> "subprocess.Popen[str]":
    (tmp_path / "role.py").write_text(ROLE)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "OURS": "too"}
    return subprocess.Popen(
        [sys.executable, "-c", UP + body], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ends_well(tmp_path: Path, body: str) -> None:
    with run(tmp_path, body) as up:
        try:
            _, errors = up.communicate(timeout=30)
        finally:
            up.kill()
    assert up.returncode == 0, errors


def test_exit_statuses_are_those_of_programs(tmp_path: Path) -> None:
    ends_well(
        tmp_path,
        """
words = [["exits", "0"], ["exits", "2"], ["ends"], ["says"], ["fails"], ["tells"]]
for start in ours.start, template.spawn:
    found = [one.wait() for one in [start(arguments, {"GIVEN": "this"}) for arguments in words]]
    assert found == [0, 2, 0, 1, 1, 0], found
ours.close()
""",
    )


def test_signals_reach_the_one_they_are_for(tmp_path: Path) -> None:
    ends_well(
        tmp_path,
        """
one, other, third = [start(["waits"], {}) for _ in range(3)]
one.send_signal(signal.SIGTERM)  # perhaps before it has begun anything
assert one.wait() == -signal.SIGTERM
assert other.poll() is None and third.poll() is None
other.kill()
assert other.wait() == -signal.SIGKILL
other.kill()  # no more than a program that has ended
assert one.poll() == -signal.SIGTERM and third.poll() is None
os.kill(ours._pid, signal.SIGTERM)  # whoever signals everything: it is needed until the roles have ended
fourth = start(["exits", "3"], {})
assert fourth.wait() == 3 and isinstance(fourth, template._Fork)
ours.close()
""",
    )


def test_without_its_template_up_goes_on(tmp_path: Path) -> None:
    ends_well(
        tmp_path,
        """
one = start(["waits"], {})
os.kill(ours._pid, signal.SIGKILL)
assert one.wait() == -signal.SIGKILL  # as `up` sees it: SIGTERM has reached it
assert start(["exits", "3"], {}).wait() == 3
assert start(["waits"], {}).poll() is None
ours.close()
""",
    )


def test_roles_end_with_up(tmp_path: Path) -> None:
    up = run(tmp_path, "start(['waits'], {}), start(['waits'], {})\nprint('there', flush=True)\ntime.sleep(60)")
    assert up.stdout is not None
    assert up.stdout.readline() == "there\n"
    started = psutil.Process(up.pid).children(recursive=True)
    ours, *roles = started
    assert template.TITLE in " ".join(ours.cmdline())
    until("they have begun", lambda: all(" waits " in " ".join(role.cmdline()) for role in roles), 10)
    up.kill()
    up.communicate()
    until("the end of all it started", lambda: not any(one.is_running() for one in started), 10)
