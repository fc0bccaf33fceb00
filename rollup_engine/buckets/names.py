"""Names of objects: relative to the store's URL, parts joined by '/'."""

import re

from rollup_engine.errors import StoreRefused

_HIDDEN = re.compile(r"(?:^|/)(?:[._]|$)")  # Spark's and Hadoop's rule for files that are no data, as _SUCCESS; folders
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # what Postgres takes in no text; a surrogate is a byte of no UTF-8


def is_hidden(name: str) -> bool:
    """Whether a part of it begins with '.' or '_', or it ends in '/'."""
    return _HIDDEN.search(name) is not None


def storable(name: str, url: str) -> str:
    """`name`. Raises `StoreRefused` where it is no UTF-8 text: leaving the object out in silence would lose events."""
    if _UNSTORABLE.search(name):
        raise StoreRefused(
            f"{url} holds an object whose name is no UTF-8 text: {name!r}",
            "Rename it, or give it a name that begins with '.' to leave it out.",
        )
    return name
