"""Cursors: where the next page begins, opaque to the client, and good for the request they were given for only.

A cursor is no permission: it says where to go on, and the key says what may be read. So it is checked, not signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping

import msgspec

from rollup_engine.api.problems import Problem

_LENGTH_MAX = 8_192


class Cursor(msgspec.Struct, array_like=True, frozen=True):
    """`request`: digest of the request without cursor and limit. `token`: of the snapshot that the page before was cut
    from; `offset`: rows before the next page; `after`: where a page can begin by itself, the position of the row before
    it."""

    request: str
    token: str = ""
    offset: int = 0
    after: list[str | None] = []


def digest(request: Mapping[str, object]) -> str:
    """A short name for what is asked: equal for equal requests."""
    text = json.dumps(request, sort_keys=True, default=str)
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:12]).decode()


def encode(cursor: Cursor) -> str:
    """Raises `Problem` 422 for one that would not be taken back: it goes into an address, and these are not long."""
    text = base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")
    if len(text) > _LENGTH_MAX:
        raise Problem(
            422,
            "This page ends at a row whose values are too long for a cursor. Ask with another `limit`, for a shorter"
            " period, or without that `group_by`.",
        )
    return text


def decode(text: str | None, request: str) -> Cursor:
    """The cursor of a request of this digest; without one, its first page. Raises `Problem` 422."""
    if text is None:
        return Cursor(request)
    try:
        if len(text) > _LENGTH_MAX:
            raise ValueError("too long")
        found = msgspec.json.decode(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True), type=Cursor)
    except (ValueError, binascii.Error, msgspec.MsgspecError) as error:
        raise Problem(422, "`cursor` is not one that was given out. Take `next_cursor` as it is.") from error
    if found.request != request or found.offset < 0:
        raise Problem(422, "`cursor` belongs to another request. Repeat that one, with nothing but the cursor changed.")
    return found
