"""Keys and hashes: event ids, grouping tuples, idempotency keys. Stable over versions and machines.

Parts are length-prefixed and versioned, so that no two different lists of parts meet in one key. XXH3 is not
cryptographic: whoever may write raw events could construct a collision, and could as well write wrong events.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import polars_hash as plh

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = "1"  # of the keys of tuples and partials; a change makes other keys out of the same data
ID_VERSION = "2"  # of the keys of ids and the hashes of payloads
FIELDS_MASK = 0xFFFF  # of a payload hash: names the fields that were mapped; the rest hashes their values


def _prefixed(column: pl.Expr) -> pl.Expr:
    """`<bytes>:<text>`, and `-` for null."""
    return pl.when(column.is_null()).then(pl.lit("-")).otherwise(pl.format("{}:{}", column.str.len_bytes(), column))


def joined(parts: Sequence[pl.Series]) -> pl.Series:
    """One text column of the texts of several: `<bytes>:<text>:` for each but the last, and the last as it is. No two
    lists of as many parts give the same text. A single part is the text itself. Null where any part is."""
    if len(parts) == 1:
        return parts[0]
    named = {str(number): part for number, part in enumerate(parts)}
    texts: list[pl.Expr] = []
    for name in list(named)[:-1]:
        texts += [pl.col(name).str.len_bytes(), pl.lit(":"), pl.col(name), pl.lit(":")]
    return pl.DataFrame(named).select(pl.concat_str(*texts, pl.col(str(len(parts) - 1)))).to_series()


def split(text: str, parts: int) -> list[str]:
    """The parts that `joined` made a text of."""
    found: list[str] = []
    rest = text.encode()
    for _ in range(parts - 1):
        size, _, rest = rest.partition(b":")
        found.append(rest[: int(size)].decode())
        rest = rest[int(size) + 1 :]
    return [*found, rest.decode()]


def _hash128(text: pl.Expr) -> pl.Expr:
    return plh.concat_str(text).nchash.xxh3_128()


def id_hash(event: str, id_column: pl.Expr) -> pl.Expr:
    """UInt128 key of an event id within its event type."""
    return _hash128(pl.lit(f"{ID_VERSION}i{len(event.encode())}:{event}") + id_column)


def payload_hash(fields: Sequence[str], parts: Sequence[pl.Series | None]) -> pl.Series:
    """UInt64 hash of an event's mapped values, with the `fields` they come from in its last bits: under another YAML
    other fields are mapped, and their values say nothing about these. `parts` are text columns in a fixed order, None
    for one that is null throughout. Hashed are the numbers of those that are null, and the texts; U+0000, which no
    text may hold, parts them: lengths before them would take four times as long."""
    prefixed = b"".join(b"%d:%s" % (len(field.encode()), field.encode()) for field in fields)
    named = np.uint64(int.from_bytes(hashlib.sha256(prefixed).digest()[:8], "big") & FIELDS_MASK)
    present = [part.rename(str(number)) for number, part in enumerate(parts) if part is not None]
    nulls, texts = pl.lit(f"{ID_VERSION}p"), []
    for number, part in enumerate(parts):
        text = pl.lit("") if part is None else pl.col(str(number))
        if part is None:
            nulls += pl.lit(f"{number},")
        elif part.null_count():
            nulls += pl.when(text.is_null()).then(pl.lit(f"{number},")).otherwise(pl.lit(""))
            text = text.fill_null("")
        texts.append(text)
    hashed = pl.DataFrame(present).select(plh.concat_str(nulls, *texts, separator="\0").nchash.xxh3_64())
    values = hashed.to_series().to_numpy()
    return pl.Series("payload", values - values % np.uint64(FIELDS_MASK + 1) + named)


def tuple_key(columns: Sequence[str]) -> pl.Expr:
    """UInt128 key of a grouping tuple. Absent and null are the same, so a column added later changes no old key."""
    named = [  # null where the column is
        pl.concat_str(
            pl.lit(f"{len(name.encode())}:{name}"), pl.col(name).str.len_bytes(), pl.lit(":"), pl.col(name)
        ).fill_null("")
        for name in sorted(columns)
    ]
    return _hash128(pl.concat_str(pl.lit(f"{VERSION}t"), *named))


def idempotency_key(table: str) -> pl.Expr:
    """UInt128 key of one partial rollup: its table, window start, tuple and revision."""
    parts = [pl.col(name).cast(pl.String) for name in ("window_ms", "tuple_key", "revision")]
    return _hash128(pl.concat_str(pl.lit(f"{VERSION}k{len(table)}:{table}"), *map(_prefixed, parts)))


def to_bytes(keys: pl.Series) -> "NDArray[np.void]":
    """16 bytes of each UInt128, the greatest first; `tolist()` makes bytes objects of them."""
    high = (keys // (1 << 64)).cast(pl.UInt64)
    low = keys.cast(pl.UInt64, wrap_numerical=True)
    return pairs(high.to_numpy(), low.to_numpy())


def pairs(first: "NDArray[Any]", second: "NDArray[Any]") -> "NDArray[np.void]":
    """16 bytes of two 64-bit integers each, the greatest byte of both first."""
    made = np.empty((len(first), 2), dtype=">u8")
    made[:, 0], made[:, 1] = first, second.view(np.uint64)
    return made.view("V16").ravel()


def partition_of(key: str, partitions: int) -> pl.Expr:
    """The destination partition by the 128-bit key in column `key`."""
    return (pl.col(key) % pl.lit(partitions, dtype=pl.UInt128)).cast(pl.UInt32)


def spread(frame: pl.DataFrame, partition: pl.Expr) -> dict[int, pl.DataFrame]:
    """The frame's rows by destination partition, each in the frame's order."""
    to = frame.select(partition).to_series().to_numpy()
    parted = frame[to.argsort(kind="stable")]
    ends = np.bincount(to).cumsum().tolist() if frame.height else []
    return {
        number: parted[start:end]
        for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
        if start < end
    }
