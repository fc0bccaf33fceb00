"""The engine as its users run it: real processes through the command line, waited for by condition and deadline."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 60
POLL_SECONDS = 0.05


def until(what: str, condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """The condition's first true answer; fails with `what` when it does not come."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := condition():
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(POLL_SECONDS)


class Process:
    """A command that goes on running; its output is in a file, so that no pipe fills up."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "rollup_engine", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
            )
        self._process = psutil.Process(self.popen.pid)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def says(self, text: str, times: int = 1) -> None:
        """Waits until the output holds `text` so often."""

        def said() -> bool:
            assert self.popen.poll() is None or self.output.count(text) >= times, f"it ended:\n{self.output}"
            return self.output.count(text) >= times

        try:
            until(f"{text!r} in the output", said)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from None

    def child(self, role: str) -> psutil.Process | None:
        """The process of a role that `up` started."""
        for process in self.children():
            with suppress(psutil.Error):
                if role in " ".join(process.cmdline()).split():  # a fork's is one word
                    return process
        return None

    def children(self) -> list[psutil.Process]:
        return [process for process in self._process.children(recursive=True) if process.is_running()]

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def ends(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Waits for the end; the exit status."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.output}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.send(number)
        return self.ends()


class Engine:
    """One state directory, one database, and the commands on them."""

    def __init__(self, directory: Path, config: Path, **settings: str) -> None:
        """`settings`: names without prefix, e.g. `database_url`. `directory` is for the state and logs."""
        self.directory, self.config, self.state_dir = directory, config, directory / "state"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("ROLLUP_")}
        self.environment |= {
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
            "ROLLUP_STATE_DIR": str(self.state_dir),
            "ROLLUP_CONFIG_DIR": str(config),
            "ROLLUP_PARTITIONS": "2",
            "ROLLUP_LOG_FORMAT": "json",
            **{f"ROLLUP_{name.upper()}": value for name, value in settings.items()},
        }
        self._processes: list[Process] = []

    def run(self, *arguments: str, timeout: float = PATIENCE_SECONDS) -> "subprocess.CompletedProcess[str]":
        """A command that ends by itself."""
        return subprocess.run(
            [sys.executable, "-m", "rollup_engine", *arguments],
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ok(self, *arguments: str) -> str:
        """The output of a command that must succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, *arguments: str, **settings: str) -> Process:
        """A command that goes on; ended with the engine at the latest."""
        extra = {f"ROLLUP_{name.upper()}": value for name, value in settings.items()}
        log = self.directory / f"{len(self._processes)}-{arguments[0]}.log"
        process = Process(arguments, self.environment | extra, log)
        self._processes.append(process)
        return process

    def up(self, *options: str) -> Process:
        """`up`, with every stage at work; without the API, which takes a second to start."""
        process = self.start("up", "--no-api", *options)
        process.says("Running.")
        process.says('"event": "ready"', times=2)
        return process

    def produce(self, lines: Sequence[str], topic: str = "downloads") -> None:
        file = self.directory / "events.ndjson"
        file.write_text("".join(line + "\n" for line in lines))
        self.ok("produce", str(file), "--topic", topic)

    def status(self, event: str = "file_download") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("status", "--format", "json"))["events"]
        return found.get(event, {})

    def settled(self, received: int, event: str = "file_download") -> dict[str, Any]:
        """The books, once so many have been received and nothing is under way."""
        latest: dict[str, Any] = {}

        def done() -> bool:
            nonlocal latest
            latest = self.status(event)
            return latest.get("received", 0) >= received and latest["lag"] == 0

        try:
            until(f"{received} in the books", done)
        except AssertionError as error:
            logs = "\n".join(process.output for process in self._processes)
            raise AssertionError(f"{error}; status is {latest}\n{logs}") from None
        return latest

    def endpoints(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.state_dir / "endpoints.json").read_text())
        return found

    def close(self) -> None:
        """End what still runs: what we started, and what that started."""
        for process in self._processes:
            if process.popen.poll() is None:
                left = process.children()
                process.popen.kill()
                process.popen.wait()
                for child in left:
                    with suppress(psutil.NoSuchProcess):
                        child.kill()


def get(url: str) -> tuple[int, str]:
    """(status, body) of an HTTP GET; status 0 where nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own page
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""
