"""Remembered ids in RocksDB: a disposable copy of what the events topic says, per events partition.

One directory per slot; a second process on the same disk, whose predecessor still holds the lock, takes the next slot.
Ids and position go in together, in one WriteBatch or one file. Never written before the sink's advance is committed, so
never ahead of it. RocksDB's own TTL is not used: it reads the wall clock. Nor is its write-ahead log, unless the broker
is in memory: the events topic already is the log, and after a crash the store is at an earlier position, a consistent
one, and brought up from there. What is corrupt is discarded, and rebuilt from the topic as well: RocksDB's checksums
tell, and nothing is answered from it.
"""

import asyncio
import re
import shutil
from bisect import bisect
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from operator import gt
from pathlib import Path

import msgspec
import structlog
from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Env,
    IngestExternalFileOptions,
    Options,
    Rdict,
    ReadOptions,
    SstFileWriter,
    WriteBatch,
    WriteOptions,
)

from rollup_engine.dedup.verdicts import KEY_BYTES, last_seen_ms
from rollup_engine.errors import PartitionHalted, RollupError

log = structlog.get_logger(__name__)
META = b"meta"  # any key that is not KEY_BYTES long
SLOTS_MAX = 8
_CACHE_BYTES = 64 << 20  # shared by all partitions of a process
# Ids go into a small table in memory, where finding their place misses few of the processor's caches, and several such
# tables to disk as one large file, for there is the less to merge: 0.5 µs an id, and 1.1 into tables of 32 MB.
WRITE_BUFFER_BYTES = 5 << 20
_BUFFERS_A_FILE = 6
WRITE_BUFFERS_MAX = _BUFFERS_A_FILE + 2  # one being filled, and one filled meanwhile: with more, writes wait
_FORMAT = 2
_NONE_MS = 1 << 62
_FILE_IDS_MIN = 100_000  # written at once: a batch that is judged has fewer, a full one of a rebuild more
_NEW_FILE = "ids.new"
_LEVEL0_FILES_MAX = 12  # at 20 RocksDB slows writes down, at 36 it stops them, and all that runs beside them
_FLUSH_POLL_SECONDS = 0.01
_REST_MS_MAX = 3_600_000  # between two rounds at the most, however young all that was kept
_cache: list[Cache] = []
_LOCKED = re.compile("IO error: (?:While )?lock")
_BROKEN = re.compile("Corruption|IO error: No such file")  # a file of it is missing
_NO_ROOM = re.compile(r"(?:IO error: |\[Errno \d+\] )?(?:No space left on device|Disk quota exceeded)")


class _Meta(msgspec.Struct, array_like=True):
    format: int
    position: int
    incarnation: str
    oldest_ms: int = 0  # about the time of the oldest id held: until it is due, a round to expire would find nothing


def _options(buffer_bytes: int = WRITE_BUFFER_BYTES) -> Options:
    if not _cache:
        _cache.append(Cache(_CACHE_BYTES))
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(buffer_bytes)
    options.set_min_write_buffer_number_to_merge(_BUFFERS_A_FILE)
    options.set_max_write_buffer_number(WRITE_BUFFERS_MAX)
    options.set_max_background_jobs(2)
    threads = Env()  # the process's one, for all stores: of the two jobs above, it lets one thread flush
    threads.set_high_priority_background_threads(2)
    options.set_env(threads)
    options.set_memtable_prefix_bloom_ratio(0.015)  # most ids are new: a miss costs a quarter with a filter in memory
    options.set_memtable_whole_key_filtering(True)
    options.set_compression_type(DBCompressionType.none())  # it saves 8 of an id's 43 bytes, for a sixth of the time
    options.set_allow_concurrent_memtable_write(False)  # one writer
    options.set_keep_log_file_num(2)
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)  # and so on disk; kept in memory, 1.5 bytes an id: the cache would thrash on them
    table.set_block_cache(_cache[0])
    options.set_block_based_table_factory(table)
    return options


class RocksIds:
    """Implements `ports.SeenIds` below `directory`/<slot>."""

    def __init__(self, directory: Path, *, logged: bool = False, buffer_bytes: int = WRITE_BUFFER_BYTES) -> None:
        """`logged`: with a write-ahead log, where the events topic may be lost and this is the only copy.
        `buffer_bytes`: of each table in memory, `WRITE_BUFFERS_MAX` at most."""
        self._buffer_bytes = buffer_bytes
        self._db, self._path = _open(directory, buffer_bytes)
        self._meta = _Meta(_FORMAT, 0, "")
        self._cursor, self._oldest_in_round_ms = b"", _NONE_MS
        self._writing = WriteOptions()
        self._writing.disable_wal = not logged  # type: ignore[assignment,method-assign]  # the stub calls it a method
        stored = self._stored_meta()
        if stored is not None:
            try:
                self._meta = msgspec.msgpack.decode(stored, type=_Meta)
            except msgspec.MsgspecError:  # another format's
                self.clear()
            if self._meta.format != _FORMAT:
                self.clear()

    def _stored_meta(self) -> bytes | None:
        """Nothing has been answered yet: a store that cannot even say where it stands is discarded without ado."""
        try:
            stored: bytes | None = self._db.get(META)
        except Exception as error:  # rocksdict raises plain Exception for every fault
            if not _BROKEN.match(str(error)):
                raise
            log.warning("the remembered ids were corrupt, and are rebuilt: check the disk", error=str(error))
            self.clear()
            return None
        return stored

    @property
    def position(self) -> int:
        return self._meta.position

    @property
    def incarnation(self) -> str:
        return self._meta.incarnation

    def get(self, keys: list[bytes]) -> list[bytes | None]:
        with self._intact():
            found: list[bytes | None] = self._db.get(keys)  # type: ignore[arg-type,assignment]  # its stub: a union
        return found

    def write(self, keys: Sequence[bytes], values: Sequence[bytes], position: int, incarnation: str) -> None:
        oldest_ms = self._meta.oldest_ms
        if not oldest_ms and values:
            oldest_ms = last_seen_ms(values[0])
        meta = _Meta(_FORMAT, position, incarnation, oldest_ms)
        stored = msgspec.msgpack.encode(meta)
        with self._intact():
            if len(keys) < _FILE_IDS_MIN:
                batch = WriteBatch(raw_mode=True)
                deque(map(batch.put, keys, values), maxlen=0)
                batch.put(META, stored)
                self._db.write(batch, self._writing)
            else:
                keys, values = _in_order(keys, values)
                at = bisect(keys, META)
                self._add_file([*keys[:at], META, *keys[at:]], [*values[:at], stored, *values[at:]])
        self._meta = meta

    def _add_file(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """What a rebuild has so much of goes to disk as a sorted file, at less than half of the cost: past the memory
        table, and past its flush. The database takes the file in as a whole, META with it, or not at all."""
        writer, path = SstFileWriter(options=_options()), self._path / _NEW_FILE
        path.unlink(missing_ok=True)  # killed as it was moved, it is a second name of a file in use: no writing into it
        moved = IngestExternalFileOptions()
        moved.set_move_files(True)
        try:
            writer.open(str(path))
            deque(map(writer.__setitem__, keys, values), maxlen=0)
            writer.finish()
            self._db.ingest_external_file([str(path)], moved)
        finally:
            path.unlink(missing_ok=True)  # on a full disk the rest of it would be in the way

    async def flush(self) -> None:
        """In RocksDB's own threads, several stores side by side: to wait for one, rocksdict would hold the GIL. With
        that, until the files of a rebuild are merged so far that the next write need not wait."""
        with self._intact():
            self._db.flush(wait=False)
            while self._writing_back():
                if self._db.property_int_value("rocksdb.background-errors"):
                    break  # the next line says what
                await asyncio.sleep(_FLUSH_POLL_SECONDS)
            self._db.flush()

    def _writing_back(self) -> bool:
        """Whether memory is being flushed, or the files of a rebuild wait to be merged."""
        files = int(self._db.property_value("rocksdb.num-files-at-level0") or 0)
        return files > _LEVEL0_FILES_MAX or bool(self._db.property_int_value("rocksdb.num-immutable-mem-table"))

    def expire(self, before_ms: int, steps_max: int) -> int:
        """Goes round the keys, from where the last call stopped, once the oldest is due."""
        if before_ms <= self._meta.oldest_ms:
            return 0
        iterator = self._db.iter(ReadOptions())
        iterator.seek(self._cursor)
        batch, steps = WriteBatch(raw_mode=True), 0
        while steps < steps_max and iterator.valid():
            key, value = iterator.key(), iterator.value()
            if len(key) == KEY_BYTES:
                seen_ms = last_seen_ms(value)
                if seen_ms < before_ms:
                    batch.delete(key)
                else:
                    self._oldest_in_round_ms = min(self._oldest_in_round_ms, seen_ms)
            iterator.next()
            steps += 1
        if iterator.valid():
            self._cursor = iterator.key()
        else:  # the round is done: rest until what it kept is due
            self._meta.oldest_ms = max(before_ms, min(self._oldest_in_round_ms, before_ms + _REST_MS_MAX))
            self._cursor, self._oldest_in_round_ms = b"", _NONE_MS
        del iterator  # an open iterator keeps the lock after close
        gone = len(batch)
        if gone:
            with self._intact():
                self._db.write(batch, self._writing)
        return gone

    @contextmanager
    def _intact(self) -> Iterator[None]:
        """Raises `PartitionHalted` on a full disk, and where the store turns out to be corrupt: that one is discarded,
        and must be rebuilt."""
        try:
            yield
        except Exception as error:  # rocksdict raises plain Exception for every fault
            if _NO_ROOM.match(str(error)):
                raise _no_room(self._path, error) from error
            if not _BROKEN.match(str(error)):
                raise
            self.clear()
            raise PartitionHalted(
                cause=f"the remembered ids in {self._path} were corrupt, and are discarded ({error})",
                remedy="They are rebuilt from the events topic when the partition is tried again. Check the disk.",
            ) from error

    def clear(self) -> None:
        with suppress(Exception):  # it may fail to write what is to be deleted
            self._db.close()
        shutil.rmtree(self._path)
        self._db = _opened(self._path, self._buffer_bytes)
        self._meta, self._cursor, self._oldest_in_round_ms = _Meta(_FORMAT, 0, ""), b"", _NONE_MS

    def close(self) -> None:
        """What is in memory and cannot be written is lost, as in a crash: the store is at an earlier position."""
        try:
            self._db.close()
        except Exception as error:  # rocksdict raises plain Exception for every fault
            if not (_NO_ROOM.match(str(error)) or _BROKEN.match(str(error))):
                raise
            log.warning(
                "the latest ids were not stored, and will be read from the events topic again", error=str(error)
            )


def _in_order(keys: Sequence[bytes], values: Sequence[bytes]) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """By key, as the ids of one event type come already."""
    if not any(map(gt, keys, islice(keys, 1, None))):
        return keys, values
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return [keys[place] for place in order], [values[place] for place in order]


def _opened(path: Path, buffer_bytes: int) -> Rdict:
    """The database in `path`, made if need be. Raises `PartitionHalted` on a full disk."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / _NEW_FILE).unlink(missing_ok=True)
        options = _options(buffer_bytes)
        # Given for the column family too: without it, an existing one is opened with defaults.
        return Rdict(str(path), options, column_families={"default": options}, access_type=AccessType.read_write())
    except Exception as error:  # rocksdict raises plain Exception for every fault
        if _NO_ROOM.match(str(error)):
            raise _no_room(path, error) from error
        raise


def _no_room(path: Path, error: Exception) -> PartitionHalted:
    return PartitionHalted(
        cause=f"the disk of the remembered ids is full, at {path} ({error})",
        remedy="Make room on the disk of ROLLUP_STATE_DIR; the partition goes on by itself, and nothing is lost.",
    )


def _open(directory: Path, buffer_bytes: int) -> tuple[Rdict, Path]:
    refused = ""
    for slot in range(SLOTS_MAX):
        path = directory / str(slot)
        try:
            return _opened(path, buffer_bytes), path
        except PartitionHalted:
            raise
        except Exception as error:  # noqa: BLE001 - rocksdict raises plain Exception for every fault
            refused = str(error)
            if _LOCKED.match(refused):
                continue  # another process holds this slot
            if _BROKEN.match(refused):
                shutil.rmtree(path)  # disposable: it is rebuilt from the events topic
                return _opened(path, buffer_bytes), path
            break
    raise RollupError(f"The id store below {directory} cannot be opened: {refused}. Check the disk, or delete it.")
