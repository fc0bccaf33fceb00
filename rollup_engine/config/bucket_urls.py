"""The address of a bucket as people write it, and the one spelling that it has here.

Owns: which addresses there are. Must never look whether there is anything at one: validating a YAML reaches no network.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

HOW_TO_WRITE: Final = "Write s3://name/prefix/ or file:///directory/."

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # Amazon S3 User Guide, "General purpose bucket naming rules"
_FILE = re.compile(r"[^/]*\.(ndjson|jsonl|json|csv|tsv|parquet|gz|zst)", re.IGNORECASE)
_WILDCARD = re.compile(r"[*?]")


class BucketUrlError(ValueError):
    """An address that cannot be a bucket's; the text says why, `hint` what to write instead."""

    def __init__(self, why: str, hint: str = HOW_TO_WRITE) -> None:
        super().__init__(why)
        self.hint = hint


def parse_bucket_url(text: str) -> str:
    """`s3://name/prefix/` or `file:///directory/`, always ending in a slash: a prefix is a folder, so that `logs` does
    not take `logs-old/` as well. One bucket has one spelling, for its name in the books is made of it.

    Raises BucketUrlError for anything else.
    """
    if odd := next((one for one in text if not one.isprintable()), None):
        raise BucketUrlError(f"holds the character U+{ord(odd):04X}", "Remove it.")
    scheme, colon, rest = text.partition(":")
    if not colon or "/" in scheme:
        hint = f"Write file://{_folder(text)}." if text.startswith("/") else HOW_TO_WRITE
        raise BucketUrlError("does not begin with s3:// or file://", hint)
    if scheme not in ("s3", "file"):
        near = "s3" if scheme.lower() in ("s3", "s3a", "s3n") else "file" if scheme.lower() == "file" else None
        hint = (
            f"Write {near}:{rest}." if near else "Buckets of S3's protocol (s3://) and directories (file://) are read."
        )
        raise BucketUrlError(f"begins with {scheme}:", hint)
    if found := _WILDCARD.search(rest):
        before = rest[: found.start()].rpartition("/")[0]
        raise BucketUrlError(f"holds the wildcard '{found[0]}'", f"Write the folder: {scheme}:{before}/.")
    return _s3(rest) if scheme == "s3" else _file(rest)


def _s3(rest: str) -> str:
    name, _, prefix = rest.lstrip("/").partition("/")
    if not rest.startswith("//") or rest.startswith("///") or not name:
        raise BucketUrlError("names no bucket", "Write s3://name/prefix/.")
    if not _NAME.fullmatch(name):
        hint = "S3 allows 3 to 63 of the characters a-z, 0-9, '.' and '-', a letter or digit at both ends."
        raise BucketUrlError(f"has {name!r} for the bucket's name", hint)
    if "//" in f"/{prefix}":
        tidy = re.sub("/+", "/", f"{name}/{prefix}")
        raise BucketUrlError("holds a folder without a name ('//')", f"Write s3://{_folder(tidy)}.")
    _no_single_file(f"{name}/{prefix}", "s3://")
    return "s3://" + _folder(f"{name}/{prefix}" if prefix else name)


def _file(rest: str) -> str:
    path = rest.removeprefix("//")
    if not path.startswith("/"):  # also file://host/dir
        hint = "Write the whole path, from the root on, as in file:///srv/events/."
        raise BucketUrlError("is relative, so it would depend on where each process was started", hint)
    whole = _folder(posixpath.normpath("/" + path.lstrip("/")))
    if whole == "/":
        raise BucketUrlError("is all of the file system", "Write a directory's path, as in file:///srv/events/.")
    if not rest.startswith("//") or _folder(path) != whole:
        raise BucketUrlError("is not the plain path of a directory", f"Write file://{whole}.")
    _no_single_file(path, "file://")
    return "file://" + whole


def _no_single_file(path: str, scheme: str) -> None:
    folder, _, last = path.rpartition("/")
    if _FILE.fullmatch(last):
        hint = f"Write its folder: {scheme}{_folder(folder)}. A folder named like this ends with '/'."
        raise BucketUrlError(f"names one file, {last!r}", hint)


def _folder(path: str) -> str:
    return path if path.endswith("/") else path + "/"
