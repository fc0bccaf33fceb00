"""Where a row of a bucket stands in the log: an object's number in the order of listing, and the line in it.

    offset = number << 36 | line - 1        partition = number % 4

So offsets rise within a partition, and are far from dense. Behind an object's last row is `after` it. Must never
change: positions, marks and dead letters are made of it.
"""

from typing import Final

BUCKET_PARTITIONS: Final = 4
_LINE_BITS: Final = 36


def offset_of(number: int, line: int) -> int:
    """Of a row; lines count from 1."""
    return number << _LINE_BITS | (line - 1)


def after(number: int) -> int:
    """The position behind an object, however many rows it has."""
    return (number + 1) << _LINE_BITS


def number_of(offset: int) -> int:
    return offset >> _LINE_BITS


def line_of(offset: int) -> int:
    return (offset & ((1 << _LINE_BITS) - 1)) + 1


def next_number(partition: int, position: int) -> int:
    """The object that a partition's reader at `position` reads next, or is in the middle of."""
    number = number_of(position)
    return number + (partition - number) % BUCKET_PARTITIONS


def end(partition: int, objects: int) -> int:
    """The position behind a partition's last object, where the bucket has so many; 0 where it has none there."""
    last = objects - 1 - (objects - 1 - partition) % BUCKET_PARTITIONS
    return after(last) if last >= 0 else 0


def objects_between(partition: int, position: int, objects: int) -> int:
    """How many of a partition's objects are not wholly before `position`, where the bucket has so many."""
    first = next_number(partition, position)
    return max(0, (objects - 1 - first) // BUCKET_PARTITIONS + 1)
