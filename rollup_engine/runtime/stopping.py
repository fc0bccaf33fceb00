"""SIGTERM and SIGINT for a process that has something to finish."""

import asyncio
import signal
from collections.abc import Callable

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """At first, while nothing is under way, a signal ends the task that made this, wherever it waits: it must expect
    `CancelledError`, with `at_once` true. After `in_order` a signal just sets `asked`."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = False
        self._task = asyncio.current_task()
        self.calls(self._end)

    def _end(self) -> None:
        assert self._task is not None
        self.at_once = True
        self._task.cancel()

    def in_order(self) -> None:
        self.calls(self.asked.set)

    def calls(self, action: Callable[[], object]) -> None:
        """What the next signal does."""
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, action)
