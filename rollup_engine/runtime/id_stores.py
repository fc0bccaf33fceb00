"""The id stores of one process, and how it parts with them.

At a clean stop totals come first: the ids that dedup leaves behind are written once all that follows has emitted. What
cannot be written is read from the events topic again.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import structlog

from rollup_engine.dedup.store import WRITE_BUFFER_BYTES, RocksIds
from rollup_engine.ports import SeenIds

log = structlog.get_logger(__name__)
FLUSH_SECONDS = 2.0
_GOLDEN = 0.618034  # its multiples' fractions are spread evenly, however many there are


class IdStores:
    """Implements `ports.Stores`: one below `directory` for each events partition."""

    def __init__(self, directory: Path, *, logged: bool) -> None:
        """`logged`: see `RocksIds`."""
        self._directory, self._logged = directory, logged
        self._left: dict[int, SeenIds] = {}

    def open(self, partition: int) -> SeenIds:
        left = self._left.pop(partition, None)  # by a session that ended: it still holds the lock
        if left is not None:
            return left
        # They fill at one pace: of different sizes, they are not all written to disk at once, for which others wait.
        buffer_bytes = int(WRITE_BUFFER_BYTES * (0.75 + partition * _GOLDEN % 1 / 2))
        return RocksIds(self._directory / str(partition), logged=self._logged, buffer_bytes=buffer_bytes)

    def leave(self, partition: int, store: SeenIds) -> None:
        self._left[partition] = store

    def let_go(self, partitions: Iterable[int]) -> None:
        """Close what was left of these at once: another worker may want it now."""
        for partition in partitions:
            if (store := self._left.pop(partition, None)) is not None:
                _close(store)

    async def close(self) -> None:
        """All side by side, in RocksDB's own threads; `close` writes too, but nothing else can run meanwhile."""
        stores, self._left = list(self._left.values()), {}
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*map(_flush, stores)), FLUSH_SECONDS)
        finally:
            for store in stores:
                _close(store)


async def _flush(store: SeenIds) -> None:
    try:
        await store.flush()
    except Exception as error:  # noqa: BLE001 - rocksdict raises plain Exception for every fault; all totals are safe
        _warn(error)


def _close(store: SeenIds) -> None:
    try:
        store.close()
    except Exception as error:  # noqa: BLE001 - the same: the stop goes on
        _warn(error)


def _warn(error: Exception) -> None:
    log.warning("ids were not stored, and are read from the events topic again", error=str(error))
