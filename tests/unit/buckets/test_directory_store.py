"""A directory as a store: listing in order and in windows, files that are not settled, one etag or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollup_engine.buckets import directory, listing
from rollup_engine.buckets.store import Found, ObjectChanged, ObjectGone, Store, open_store
from rollup_engine.errors import StoreRefused, StoreUnavailable, UsageError

PART = st.text(st.sampled_from("ab-./0é😀ￂ _"), min_size=1, max_size=4).map(lambda part: part.replace("/", ""))
NAMES = st.lists(st.lists(PART, min_size=1, max_size=3).map("/".join), max_size=30)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test has just written counts as written."""
    monkeypatch.setattr(directory, "SETTLED_SECONDS", 0.0)


async def listed(store: Store, after: str = "") -> list[Found]:
    return [found async for page in store.pages(after) for found in page]


def wanted(name: str) -> bool:
    return all(part and part[0] not in "._" for part in name.split("/"))


class TestListing:
    @settings(max_examples=50)
    @given(names=NAMES, after=st.lists(PART, max_size=3).map("/".join), window=st.integers(1, 5))
    def test_files_come_in_the_order_of_their_whole_names(self, names: list[str], after: str, window: int) -> None:
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as root:
            patch.setattr(listing, "WINDOW", window)
            made = {name for name in names if make(Path(root), name)}
            expected = sorted(
                (name for name in made if wanted(name) and name.encode() > after.encode()), key=str.encode
            )
            assert list(listing.files(root, after)) == expected

    @pytest.mark.usefixtures("settled")
    async def test_pages(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(directory, "PAGE_MAX", 4)
        for number in range(10):
            (tmp_path / f"{number}.csv").write_text("x" * number)
        store = open_store(tmp_path.as_uri())
        pages = [page async for page in store.pages()]
        assert [len(page) for page in pages] == [4, 4, 2]
        assert [(found.name, found.size) for page in pages for found in page] == [(f"{n}.csv", n) for n in range(10)]
        assert [found.name for found in await listed(store, "7.csv")] == ["8.csv", "9.csv"]
        assert len({found.etag for page in pages for found in page}) == 10

    @pytest.mark.usefixtures("settled")
    async def test_only_files_that_are_there(self, tmp_path: Path) -> None:
        (tmp_path / "real").write_text("x")
        (tmp_path / "link").symlink_to("real")
        (tmp_path / "dangling").symlink_to("nowhere")
        (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
        os.mkfifo(tmp_path / "pipe")
        assert [found.name for found in await listed(open_store(tmp_path.as_uri()))] == ["link", "real"]

    async def test_a_file_just_changed_is_left_out_until_it_is_settled(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "x").write_text("x")
        os.utime(tmp_path / "x", (0, 0))  # a copy may keep the time of its original
        store = open_store(tmp_path.as_uri())
        assert (await listed(store), store.unsettled) == ([], True)
        monkeypatch.setattr(directory, "SETTLED_SECONDS", 0.0)
        assert [found.name for found in await listed(store)] == ["x"]
        assert not store.unsettled

    @pytest.mark.usefixtures("settled")
    async def test_many_files_in_one_directory_take_the_memory_of_a_window(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listing, "WINDOW", 200)
        for number in range(2_000):
            (tmp_path / f"{number:040}").touch()
        count = 0
        tracemalloc.start()
        try:
            async for page in open_store(tmp_path.as_uri()).pages():
                count += len(page)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert count == 2_000
        assert peak < 600_000

    async def test_no_such_directory(self, tmp_path: Path) -> None:
        with pytest.raises(StoreRefused, match=rf"^there is no directory {tmp_path}/nowhere\."):
            await listed(open_store(f"{tmp_path.as_uri()}/nowhere/"))
        (tmp_path / "file").touch()
        with pytest.raises(StoreRefused, match=rf"^there is no directory {tmp_path}/file\."):
            await listed(open_store(f"{tmp_path.as_uri()}/file"))

    @pytest.mark.parametrize(
        ("error", "raised", "says"),
        [
            (PermissionError(13, "Permission denied"), StoreRefused, "no permission to read .*; it is tried again"),
            (OSError(5, "Input/output error"), StoreUnavailable, "cannot be read: Input/output error"),
        ],
    )
    async def test_a_directory_that_cannot_be_read_is_never_an_empty_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, raised: type[Exception], says: str
    ) -> None:
        def fail(path: bytes) -> None:
            error.filename = path + b"\xff/"
            raise error

        monkeypatch.setattr(listing.os, "scandir", fail)
        with pytest.raises(raised, match=says) as said:
            await listed(open_store(tmp_path.as_uri()))
        assert f"{tmp_path}/\\xff" in str(said.value)  # text that can be stored and logged

    @pytest.mark.usefixtures("settled")
    async def test_a_directory_replaced_while_it_is_listed_is_listed_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else what is not listed because of it would be taken for deleted."""
        monkeypatch.setattr(directory, "PAGE_MAX", 1)
        for name in ("a", "b/c"):
            (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "d" / name).touch()
        pages = open_store(f"{tmp_path.as_uri()}/d").pages()
        assert [found.name for found in await anext(pages)] == ["a"]
        (tmp_path / "d").rename(tmp_path / "away")
        (tmp_path / "d").mkdir()
        with pytest.raises(StoreUnavailable, match=rf"^{tmp_path}/d/ was mounted or replaced while it was listed"):
            await anext(pages)

    @pytest.mark.usefixtures("settled")
    async def test_a_name_that_is_no_text_is_said_and_not_passed_over(self, tmp_path: Path) -> None:
        (tmp_path / os.fsdecode(b"\xff.csv")).touch()
        with pytest.raises(StoreRefused, match=r"no UTF-8 text: '.udcff.csv'"):
            await listed(open_store(tmp_path.as_uri()))


def make(root: Path, name: str) -> bool:
    """Make a file of this name, unless a part of it is a file already, or it a directory."""
    path = root / name
    if any(part in ("", ".", "..") for part in name.split("/")):
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError:
        return False
    return path.is_file()


@pytest.mark.usefixtures("settled")
class TestReading:
    async def only(self, path: Path) -> tuple[Store, Found]:
        store = open_store(path.as_uri())
        (found,) = await listed(store)
        return store, found

    async def test_a_file_is_read_at_its_etag(self, tmp_path: Path) -> None:
        (tmp_path / "a b?#%.csv").write_bytes(b"0123456789")
        store, found = await self.only(tmp_path)
        with store.open(found.name, found.etag) as stream:
            assert stream.read(4) == b"0123"
            assert stream.seek(-2, 2) == 8
            assert stream.read() == b"89"
        assert stream.raw.closed  # type: ignore[attr-defined]

    async def test_a_directory_may_have_any_name(self, tmp_path: Path) -> None:
        (tmp_path / "ä ?#%41").mkdir()
        (tmp_path / "ä ?#%41" / "x").write_bytes(b"1")
        store, found = await self.only(tmp_path / "ä ?#%41")
        assert store.open(found.name, found.etag).read() == b"1"
        assert store.url == (tmp_path / "ä ?#%41").as_uri() + "/"

    async def test_another_file_under_its_name(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"old")
        store, found = await self.only(tmp_path)
        (tmp_path / "new").write_bytes(b"new")
        (tmp_path / "new").rename(tmp_path / "x")
        with pytest.raises(ObjectChanged):
            store.open(found.name, found.etag)

    async def test_a_copy_of_the_same_time_and_size_is_the_same_object(self, tmp_path: Path) -> None:
        """As after a restore, or a move to another disk."""
        (tmp_path / "x").write_bytes(b"old")
        store, found = await self.only(tmp_path)
        shutil.copy2(tmp_path / "x", tmp_path / "copy")
        (tmp_path / "copy").rename(tmp_path / "x")
        assert await listed(store) == [found]
        assert store.open(found.name, found.etag).read() == b"old"

    async def test_a_directory_that_is_away_takes_no_file_along(self, tmp_path: Path) -> None:
        root = tmp_path / "d"
        root.mkdir()
        (root / "x").write_bytes(b"old")
        store, found = await self.only(root)
        root.rename(tmp_path / "away")
        with pytest.raises(StoreRefused, match=rf"^there is no directory {root}\. Make it, mount it"):
            store.open(found.name, found.etag)
        (tmp_path / "away").rename(root)
        assert store.open(found.name, found.etag).read() == b"old"

    async def test_a_file_that_is_gone_or_a_directory_now(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"old")
        store, found = await self.only(tmp_path)
        (tmp_path / "x").unlink()
        with pytest.raises(ObjectGone):
            store.open(found.name, found.etag)
        (tmp_path / "x").mkdir()
        with pytest.raises(ObjectChanged):
            store.open(found.name, found.etag)

    @pytest.mark.parametrize("change", ["append", "overwrite", "truncate"])
    async def test_a_change_while_it_is_read(self, tmp_path: Path, change: str) -> None:
        (tmp_path / "x").write_bytes(b"old" * 1_000_000)
        store, found = await self.only(tmp_path)
        stream = store.open(found.name, found.etag)
        assert stream.read(3) == b"old"
        with (tmp_path / "x").open("r+b") as file:
            if change == "truncate":
                file.truncate(2_000_000)
            else:
                file.seek(0, os.SEEK_END if change == "append" else os.SEEK_SET)
                file.write(b"new")
        with pytest.raises(ObjectChanged):
            stream.read(2_000_000)

    async def test_another_size_is_another_file_whatever_its_time(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"old")
        store, found = await self.only(tmp_path)
        changed_ns = (tmp_path / "x").stat().st_mtime_ns
        (tmp_path / "x").write_bytes(b"longer")
        os.utime(tmp_path / "x", ns=(0, changed_ns))
        with pytest.raises(ObjectChanged):
            store.open(found.name, found.etag)

    @pytest.mark.parametrize("change", ["rename", "unlink"])
    async def test_an_open_file_stays_what_it_is(self, tmp_path: Path, change: str) -> None:
        (tmp_path / "x").write_bytes(b"old" * 1_000_000)
        store, found = await self.only(tmp_path)
        stream = store.open(found.name, found.etag)
        assert stream.read(3) == b"old"
        (tmp_path / "y").write_bytes(b"new")
        (tmp_path / "y").rename(tmp_path / "x") if change == "rename" else (tmp_path / "x").unlink()
        assert stream.read() == b"old" * 999_999


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "s3://",
        "s3:///p",
        "s3://b/p?x",
        "s3://[",
        "file:///d#x",
        "file:///d?x",
        "gs://b/p",
        "file://host/d",
        "file:relative",
        "/d",
        "http://b/p",
    ],
)
def test_a_url_that_names_no_bucket(url: str) -> None:
    with pytest.raises(UsageError, match=r"names no bucket that can be read\. Write s3://bucket/prefix/"):
        open_store(url)
