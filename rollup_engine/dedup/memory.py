"""Remembered ids in a dictionary: the simulation's store, and the definition the RocksDB store is tested against."""

from collections.abc import Sequence

from rollup_engine.dedup.verdicts import last_seen_ms


class MemoryIds:
    """Implements `ports.SeenIds`; `copy` is a disk image to roll back to."""

    def __init__(self) -> None:
        self.ids: dict[bytes, bytes] = {}
        self._position = 0
        self._incarnation = ""

    @property
    def position(self) -> int:
        return self._position

    @property
    def incarnation(self) -> str:
        return self._incarnation

    def get(self, keys: list[bytes]) -> list[bytes | None]:
        return [self.ids.get(key) for key in keys]

    def write(self, keys: Sequence[bytes], values: Sequence[bytes], position: int, incarnation: str) -> None:
        self.ids.update(zip(keys, values, strict=True))
        self._position, self._incarnation = position, incarnation

    async def flush(self) -> None:
        pass

    def expire(self, before_ms: int, steps_max: int) -> int:
        gone = [key for key, value in self.ids.items() if last_seen_ms(value) < before_ms]
        for key in gone:
            del self.ids[key]
        return len(gone)

    def clear(self) -> None:
        self.ids.clear()
        self._position, self._incarnation = 0, ""

    def close(self) -> None:
        pass

    def copy(self) -> "MemoryIds":
        image = MemoryIds()
        image.ids, image._position, image._incarnation = dict(self.ids), self._position, self._incarnation
        return image
