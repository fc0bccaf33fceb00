"""Rows of Parquet as JSON objects, through pyarrow: a row group at a time, of it a few thousand rows.

Owns: which JSON stands for which type, exactly. Integers, decimals and floats become JSON numbers of the same value
(decimals digit by digit; floats in the fewest digits that give the same float); timestamps RFC 3339 text in UTC, dates,
times and UUIDs text; structs and maps objects, lists arrays. A timestamp without time zone is taken for UTC: so Spark
(INT96) and pandas write instants. What JSON cannot say (NaN, infinities, binary, durations) makes its row a bad one.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from rollup_engine.buckets.arrow_json import values
from rollup_engine.buckets.compressed import is_compressed, no_memory
from rollup_engine.buckets.rows import KEPT_BYTES, Damaged, Row
from rollup_engine.ports import MALFORMED_PARQUET

READ_BYTES = 1 << 20  # per request and column
BATCH_BYTES = 1 << 20  # of Parquet, uncompressed
BATCH_ROWS_MAX = 4096


class _NotJson(Exception):
    pass


def _refuse(value: object) -> object:
    raise _NotJson(str(value))


_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=_refuse).encode
_encode_leniently = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode


def rows(stream: BinaryIO, name: str, from_line: int = 1) -> Iterator[list[Row]]:
    """See `rows.rows`. A row's line is its number in the file. `stream` must be seekable.

    A page of one column is held as a whole: one that claims 2 GB takes them. Damaged at line 1 where there is no
    readable footer; later, where a batch of rows cannot be read.
    """
    if is_compressed(name):
        raise Damaged(1, "a Parquet file is compressed in itself: .gz or .zst around it cannot be read in parts")
    line = 1  # the next to be given
    try:
        # Columns are read in turn: a buffer that reads ahead would be thrown away for each.
        source = stream.raw if isinstance(stream, io.BufferedReader) else stream
        file = pq.ParquetFile(source, buffer_size=READ_BYTES, pre_buffer=False, page_checksum_verification=True)
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise Damaged(1, f"two columns have one name, of {names}")
        for group in range(file.num_row_groups):
            described = file.metadata.row_group(group)
            count, size = described.num_rows, described.total_byte_size
            end = line + count
            if end <= from_line:
                line = end
                continue
            rows_max = max(1, min(BATCH_ROWS_MAX, BATCH_BYTES * count // max(size, 1)))
            for batch in file.iter_batches(rows_max, row_groups=[group], use_threads=False):
                if line + len(batch) > from_line:
                    skip = max(0, from_line - line)
                    yield _rows(batch.slice(skip), line + skip)
                line += len(batch)
            if line != end:
                raise Damaged(line, f"row group {group} has {line - end + count} rows, and says it has {count}")
    except MemoryError:  # Arrow's too
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if no_memory(error):
            raise MemoryError(str(error)) from error
        raise Damaged(line, f"the Parquet cannot be read: {' '.join(str(error).split())[:500]}") from error


def _rows(batch: pa.RecordBatch, first: int) -> list[Row]:
    names = batch.schema.names
    columns = [values(column, name) for column, name in zip(batch.columns, names, strict=True)]
    made = []
    for line, cells in enumerate(zip(*columns, strict=True), first):
        found = dict(zip(names, cells, strict=True))
        try:
            made.append(Row(line, _encode(found)))
        except _NotJson as unfit:
            made.append(Row(line, _encode_leniently(found)[:KEPT_BYTES], (MALFORMED_PARQUET, str(unfit))))
    return made
