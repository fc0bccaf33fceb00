"""API keys: made, listed, revoked, and recognised again by their hash.

Owns: the form of a key, `rk_<id>_<secret>`. The id finds its row and is no secret; the secret is 256 random bits, so
one round of SHA-256 keeps it: slow hashes are for passwords that can be guessed, and would only make requests slow.
Must never: store, log or print a key, but for the one time that `create` gives it out.
"""

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from rollup_engine.errors import UsageError
from rollup_engine.runtime import sql

SCOPES: Final = ("read", "query", "ingest", "admin")
NAME_LENGTH_MAX: Final = 100

_LETTERS: Final = string.ascii_letters + string.digits  # a double click selects all of it
_SECRET_LENGTH: Final = 43  # 62^43 > 2^256
_FORM: Final = re.compile(r"rk_([0-9a-f]{12})_[A-Za-z0-9]{43}")
_ID: Final = re.compile(r"[0-9a-f]{12}")
_NO_HASH: Final = bytes(32)  # of no key: compared with where there is none, so that this takes as long


@dataclass(frozen=True)
class ApiKey:
    """What is known of a key. `customer` None: it may see all. `revoked_at` None: it is good."""

    id: str
    name: str
    scopes: frozenset[str]
    customer: str | None
    created_at: datetime
    revoked_at: datetime | None = None

    def may(self, scope: str) -> bool:
        """Whether it has the scope; `admin` stands for all of them."""
        return scope in self.scopes or "admin" in self.scopes


def hash_of(key: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).digest()


async def create(
    pool: "asyncpg.Pool[asyncpg.Record]", app_id: str, name: str, scopes: Collection[str], customer: str | None
) -> str:
    """Make a key and return it: it cannot be had again. Raises `UsageError` for bad words and a name in use."""
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        what = f"--scope {unknown[0]!r} is not known" if unknown else "A key needs a --scope at least"
        raise UsageError(f"{what}. Write one or more of {', '.join(SCOPES)}.")
    if not name.isprintable() or not name.strip() or len(name) > NAME_LENGTH_MAX or _ID.fullmatch(name):
        raise UsageError(f"A key's name is 1 to {NAME_LENGTH_MAX} printable characters, and no id: not {name!r}.")
    if customer is not None and (not customer or "\0" in customer):
        raise UsageError("--customer is empty or holds U+0000, and no event has such a customer. Leave it out for all.")
    number = secrets.token_hex(6)
    key = f"rk_{number}_{''.join(secrets.choice(_LETTERS) for _ in range(_SECRET_LENGTH))}"
    made = await pool.fetchval(
        sql.queries("api_keys")["create"], number, app_id, name, hash_of(key), sorted(set(scopes)), customer
    )
    if made is None:
        raise UsageError(f"There is a key named {name!r} already. Choose another name, or revoke that one first.")
    return key


async def listed(pool: "asyncpg.Pool[asyncpg.Record]", app_id: str) -> list[ApiKey]:
    """All keys there ever were, the oldest first."""
    return [_key(row) for row in await pool.fetch(sql.queries("api_keys")["keys"], app_id)]


async def revoke(pool: "asyncpg.Pool[asyncpg.Record]", app_id: str, name_or_id: str) -> str:
    """End a key, for all requests from now on; returns its name. Raises `UsageError` where there is none."""
    row = await pool.fetchrow(sql.queries("api_keys")["revoke"], app_id, name_or_id)
    if row is None:
        raise UsageError(
            f"There is no key {name_or_id!r} that could be revoked. `rollup-engine api-keys list` shows them."
        )
    return str(row["name"])


async def find(pool: "asyncpg.Pool[asyncpg.Record]", app_id: str, key: str) -> ApiKey | None:
    """The key, if it is good; asked anew each time, so that a revocation holds at once.

    What is not a key's form costs the database nothing; an unknown id and a wrong secret look and take the same.
    """
    form = _FORM.fullmatch(key)
    if form is None:
        return None
    row = await pool.fetchrow(sql.queries("api_keys")["find"], app_id, form[1])
    same = hmac.compare_digest(hash_of(key), _NO_HASH if row is None else row["hash"])
    return _key(row) if same and row is not None else None


def _key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(
        row["id"], row["name"], frozenset(row["scopes"]), row["customer"], row["created_at"], row["revoked_at"]
    )
