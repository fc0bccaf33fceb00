r"""A request's body to the bytes of its events: what both shapes, Orb's and CloudEvents', have in common.

Owns: that one event's text costs no other event anything. Half a surrogate pair (`\ud800` alone) is well-formed by
JSON's grammar (RFC 8259, 8.2) and yet stands for no text: only the event that has it is refused, and named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

UNDECODABLE: Final = (msgspec.MsgspecError, RecursionError)
"""What decoding raises for a value that is not of the type asked for, or nested too deep."""

# What is no half, some of it at a time: that bounds memory. Python 3.11.2 gets it wrong with possessive quantifiers.
_HALF: Final = re.compile(
    rb"((?:[^\\]+|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\(?!u[dD][89a-fA-F]).){1,1000})"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}",
    re.DOTALL,
)
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_REPLACEMENT: Final = rb"\ufffd"


class Unreadable(ValueError):
    """A body that holds no events; the text says why, and what to send."""


class Found(NamedTuple):
    """One event's bytes, and what is wrong with its text."""

    value: bytes
    errors: Sequence[str] = ()


def events_of(
    body: bytes, decode: Callable[[bytes], Sequence[msgspec.Raw]], shape: str, events_max: int
) -> list[Found]:
    """The events of a body, in order. `shape`: what the body must be, in words. Raises `Unreadable`."""
    try:
        body.decode()  # what is skipped would be passed on unread
        try:
            found = [Found(bytes(raw)) for raw in decode(body)]
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            if not _SURROGATE.search(body):
                raise
            found = _without_halves(body, decode)
    except UnicodeDecodeError as error:
        raise Unreadable("The body is not UTF-8.") from error
    except msgspec.ValidationError as error:
        raise Unreadable(f"{shape}: {error}.") from error
    except msgspec.DecodeError as error:
        raise Unreadable(f"The body is not JSON: {error}.") from error
    except RecursionError as error:
        raise Unreadable("The body is nested too deep.") from error
    if len(found) > events_max:
        raise Unreadable(f"The body has {len(found):,} events; {events_max:,} are allowed in one call. Send several.")
    return found


def _without_halves(body: bytes, decode: Callable[[bytes], Sequence[msgspec.Raw]]) -> list[Found]:
    """Decoded with a mark for each half: the events that bear it are told apart from those that do not."""
    lower = body.lower()
    mark = next(mark for number in range(0xE000, 0xF900) if (mark := rb"\u%04x" % number) not in lower)
    found = []
    for raw in decode(_HALF.sub(lambda part: part[1] or mark, body)):
        value = bytes(raw)
        errors = ["its text holds half a surrogate pair, as in \\ud800"] if mark in value else ()
        found.append(Found(value.replace(mark, _REPLACEMENT), errors))
    return found
