"""The ledger of buckets: which objects there are, numbered in the order of listing, and what came of each.

Owns: what readers and listers ask of it. An adapter keeps it in the sink's database (`runtime.bucket_ledger`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from rollup_engine.buckets.store import Found

Outcome = Literal["read", "damaged", "changed", "gone"]


class Object(NamedTuple):
    """An object of a bucket. `begun`: a row of it may have been handed out, and so it is read at this etag or not on.

    `seen_ms`: when it was first listed; rises with the number, and is the time of its rows' records.
    """

    number: int
    name: str
    etag: str
    size: int
    seen_ms: int
    begun: bool
    outcome: Outcome | None


class Finished(NamedTuple):
    """What came of an object. `rows`: handed out of it, good or not. `note`: a sentence where it is a problem."""

    number: int
    rows: int
    outcome: Outcome
    note: str = ""


class Known(NamedTuple):
    """A bucket as far as it is known: it has objects 0 to `objects` - 1. `refusal`: (cause, remedy), where its store
    refuses to list it. `listed_ms`: by the ledger's clock, when the last complete listing began; None: there was none.

    Everything that was in the bucket at `listed_ms` is known. So whatever says that something is not there, or will not
    come, waits for a complete listing that began after the moment in question.
    """

    objects: int
    refusal: tuple[str, str] | None = None
    listed_ms: int | None = None


class Taken(NamedTuple):
    """What a page of a listing came to. `changed`: objects begun or read at another etag than the page has."""

    new: int
    changed: Sequence[tuple[Object, Found]]


class Lease(NamedTuple):
    """`held`: False where somebody else lists the bucket. `wanted`: somebody waits for a complete listing."""

    held: bool
    wanted: bool = False


class Ledger(Protocol):
    """Of all buckets of an app id, by their topics. Faults that pass are waited out."""

    async def known(self) -> Mapping[str, Known]:
        """All buckets. One cheap statement: it is asked several times a second."""
        ...

    async def objects(self, topic: str, numbers: Collection[int]) -> Sequence[Object]:
        """Those of these numbers that there are, in order."""
        ...

    async def begin(self, topic: str, number: int, etag: str) -> bool:
        """Reading begins, at this etag. False where the ledger has another one by now."""
        ...

    async def finish(self, topic: str, finished: Sequence[Finished]) -> None:
        """Objects are left behind. A problem that is there already stays when another session says `read`."""
        ...

    async def hold(self, topic: str, holder: str, seconds: float) -> Lease:
        """Become, or stay, the one who lists this bucket for so long."""
        ...

    async def release(self, topic: str, holder: str) -> None: ...

    async def now_ms(self) -> int:
        """The ledger's clock."""
        ...

    async def last_name(self, topic: str) -> str:
        """The greatest name there is, by its UTF-8 bytes; empty where there is none."""
        ...

    async def take_in(self, topic: str, page: Sequence[Found]) -> Taken:
        """Number what is new, in the order given; take over new etags of what was not begun. Two who list at once give
        no number twice."""
        ...

    async def changed(self, topic: str, number: int, etag: str, note: str) -> bool:
        """An object that was read is another by now: an alarm, once per etag. False where it is known."""
        ...

    async def waiting(self, topic: str) -> bool:
        """Whether there is an object of which it is not known yet what came of it."""
        ...

    async def listed(self, topic: str, started_ms: int) -> int:
        """All that was there at that time is taken in. Returns how many problems wait to be seen to."""
        ...

    async def refused(self, topic: str, cause: str, remedy: str) -> None:
        """The store refuses to be listed: readers halt, once they have read what is known."""
        ...
