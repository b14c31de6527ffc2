"""Downloads from a real HTTP server that does what hubs, mirrors and networks do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hub.fake_hub import FakeHub, Fault, cut, other, page, status
from wingbeat.hub import download as module
from wingbeat.hub.download import DownloadError, Fetched, Watch, client, download
from wingbeat.hub.part import Part
from wingbeat.hub.source import Source, Wanted, from_repository
from wingbeat.progress import Show

DATA = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(DATA).hexdigest()
PLACE = "owner/repo/model.pth"


class Onlooker:
    """Keeps what is said and shown, and does not wait."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.waited: list[float] = []
        self.shown: dict[str, list[tuple[int, int]]] = {}
        self.watch = Watch(self._bar, self.said.append, self.waited.append)

    @contextmanager
    def _bar(self, what: str) -> Iterator[Show]:
        moves = self.shown.setdefault(what.split()[0], [])
        yield lambda done, total: moves.append((done, total))


def fetch(
    hub: FakeHub, folder: Path, *, sha256: str | None = SHA256, onlooker: Onlooker | None = None, replace: bool = False
) -> Fetched:
    found = from_repository(PLACE, hub.url)
    wanted = Wanted("model.pth", found.sources, len(DATA) if sha256 else None, sha256)
    with client("0") as http:
        return download(http, wanted, folder / "model.pth", (onlooker or Onlooker()).watch, replace=replace)


def parts(folder: Path) -> list[Path]:
    return list(folder.glob("*.part"))


@pytest.fixture(autouse=True)
def _published(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.publish(PLACE, DATA)
    monkeypatch.delenv("HF_TOKEN", raising=False)


def test_a_file_comes_whole_verified_and_alone(hub: FakeHub, tmp_path: Path) -> None:
    onlooker = Onlooker()
    fetched = fetch(hub, tmp_path, onlooker=onlooker)
    assert fetched == Fetched(tmp_path / "model.pth", len(DATA), SHA256, True)
    assert fetched.path.read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]
    assert onlooker.shown["Fetching"][-1] == (len(DATA), len(DATA))
    assert onlooker.said == []
    assert set(hub.asked("accept-encoding")) == {"identity"}


@pytest.mark.parametrize("tells", [True, False])
def test_the_hub_may_know_the_hash_where_we_do_not(hub: FakeHub, tmp_path: Path, tells: bool) -> None:
    hub.tells_sha256 = tells
    assert fetch(hub, tmp_path, sha256=None).verified == tells


def test_what_an_earlier_process_left_is_continued(hub: FakeHub, tmp_path: Path) -> None:
    with Part(tmp_path / "model.pth", SHA256[:12]) as part:
        part.append(DATA[:300_000])
    onlooker = Onlooker()
    assert fetch(hub, tmp_path, onlooker=onlooker).path.read_bytes() == DATA
    assert hub.asked("range") == ["bytes=0-0", "bytes=300000-"]
    assert onlooker.shown["Checking"][-1] == (300_000, 300_000)
    assert onlooker.shown["Fetching"][0] == (300_000, len(DATA))


def test_a_connection_that_is_cut_is_taken_up_again(hub: FakeHub, tmp_path: Path) -> None:
    onlooker = Onlooker()
    hub.faults = [None, cut(200_000), cut(0), cut(100_000)]
    assert fetch(hub, tmp_path, onlooker=onlooker).path.read_bytes() == DATA
    assert hub.asked("range") == ["bytes=0-0", None, "bytes=200000-", "bytes=200000-", "bytes=300000-"]
    assert onlooker.waited == [1, 2, 1]  # what brings bytes begins anew
    assert len(onlooker.said) == 3


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_a_server_without_ranges(hub: FakeHub, tmp_path: Path, sha256: str | None) -> None:
    hub.ranges, onlooker = False, Onlooker()
    hub.faults = [None, cut(200_000)]
    assert fetch(hub, tmp_path, sha256=sha256, onlooker=onlooker).path.read_bytes() == DATA
    assert "The hub cannot resume: beginning anew." in onlooker.said


def test_a_server_that_tells_no_size(hub: FakeHub, tmp_path: Path) -> None:
    hub.ranges = hub.tells_size = False
    assert fetch(hub, tmp_path, sha256=None).path.read_bytes() == DATA


def test_a_file_that_changes_meanwhile_is_begun_anew(hub: FakeHub, tmp_path: Path) -> None:
    hub.tells_sha256 = False
    changed = DATA[::-1]

    def change(handler: object) -> bool:
        hub.publish(PLACE, changed)
        return False

    hub.faults = [None, cut(200_000), change]
    assert fetch(hub, tmp_path, sha256=None).path.read_bytes() == changed


def test_a_part_of_another_version_is_left_alone(hub: FakeHub, tmp_path: Path) -> None:
    with Part(tmp_path / "model.pth", "another") as part:
        part.append(b"x" * 100)
    assert fetch(hub, tmp_path).path.read_bytes() == DATA
    assert hub.asked("range") == ["bytes=0-0", None]
    assert [path.name for path in parts(tmp_path)] == ["model.pth.another.part"]


@pytest.mark.parametrize("left", [DATA + b"more", b"x" * len(DATA)])
def test_a_part_that_is_no_beginning_of_the_file(hub: FakeHub, tmp_path: Path, left: bytes) -> None:
    with Part(tmp_path / "model.pth", SHA256[:12]) as part:
        part.append(left)
    if len(left) > len(DATA):
        assert fetch(hub, tmp_path).path.read_bytes() == DATA
    else:
        with pytest.raises(DownloadError, match="has been deleted"):
            fetch(hub, tmp_path)
        assert list(tmp_path.iterdir()) == []
        assert fetch(hub, tmp_path).path.read_bytes() == DATA


def test_416_for_what_the_hub_has_less_of(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults = [None, cut(200_000), status(416)]
    assert fetch(hub, tmp_path).path.read_bytes() == DATA
    assert hub.asked("range")[-2:] == ["bytes=200000-", None]


@pytest.mark.parametrize(
    ("faults", "waited"),
    [
        ([status(429, retry_after="7")], [7]),
        ([status(503), status(500)], [1, 2]),
        ([None, status(502), status(429, retry_after="100000")], [1, 300]),
    ],
)
def test_what_may_pass_is_waited_for(hub: FakeHub, tmp_path: Path, faults: list[Fault | None], waited: list) -> None:
    onlooker = Onlooker()
    hub.faults = faults
    assert fetch(hub, tmp_path, onlooker=onlooker).path.read_bytes() == DATA
    assert onlooker.waited == waited


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ([status(401)], r"model\.pth: 401: not public, .* HF_TOKEN"),
        ([status(403)], "403: not public"),
        ([status(404)], "404: there is no such file"),
        ([status(418)], "418"),
        ([status(503)] * 3, "503 Service Unavailable"),
        ([None, *[status(500)] * 6], "500 Internal Server Error"),
        ([page], "a Web page came instead"),
        ([None, status(200, content_encoding="gzip")], "compressed"),
        ([None, status(206, content_range="bytes 5-9/10")], "the bytes from 5 on, not from 0"),
        ([None, status(206)], "does not say which part"),
        ([status(302, location="/owner/repo/resolve/main/model.pth")] * 30, "redirect"),
        ([None, other(DATA + b"more")], "more than the 1024000 bytes"),
        ([other(b"short")], "its size is 5, not 1024000 as in the catalogue"),
        ([other(DATA, sha256="a" * 64)], "its sha256 is aaaa.* another"),
        ([None, other(DATA[::-1])], "has the sha256 .* has been deleted"),
    ],
)
def test_what_cannot_be_had(hub: FakeHub, tmp_path: Path, faults: list[Fault | None], message: str) -> None:
    hub.faults = faults
    with pytest.raises(DownloadError, match=message):
        fetch(hub, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    wanted, onlooker = Wanted("model.pth", (Source("http://127.0.0.1:9/owner"),)), Onlooker()
    with client("0") as http, pytest.raises(DownloadError, match="cannot connect"):
        download(http, wanted, tmp_path / "model.pth", onlooker.watch)
    assert len(onlooker.waited) == 2


def test_the_next_source_has_it(hub: FakeHub, tmp_path: Path) -> None:
    sources = (Source(f"{hub.url}/nowhere"), *from_repository(PLACE, hub.url).sources)
    onlooker = Onlooker()
    with client("0") as http:
        download(http, Wanted("model.pth", sources, None, SHA256), tmp_path / "model.pth", onlooker.watch)
    assert (tmp_path / "model.pth").read_bytes() == DATA
    assert "404: there is no such file" in onlooker.said[0]


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.storage = f"http://localhost:{hub.port}"
    assert fetch(hub, tmp_path).path.read_bytes() == DATA
    assert hub.asked("authorization") == ["Bearer secret", None] * 2
    hub.faults = [status(403)]
    with pytest.raises(DownloadError, match="the token in HF_TOKEN does not give access"):
        fetch(hub, tmp_path, replace=True)


def test_nothing_is_overwritten(hub: FakeHub, tmp_path: Path) -> None:
    there = tmp_path / "model.pth"

    def appear(handler: object) -> bool:
        there.write_bytes(b"mine")
        return False

    hub.faults = [None, appear]
    with pytest.raises(FileExistsError):
        fetch(hub, tmp_path)
    assert there.read_bytes() == b"mine"
    assert fetch(hub, tmp_path, replace=True).path.read_bytes() == DATA
    assert hub.asked("range")[-1] == "bytes=0-0"  # it had been fetched already


def test_two_processes_do_not_write_the_same_part(hub: FakeHub, tmp_path: Path) -> None:
    with Part(tmp_path / "model.pth", SHA256[:12]), pytest.raises(DownloadError, match="by another process"):
        fetch(hub, tmp_path)


def test_a_disk_that_is_too_small(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE", 1 << 60)
    with pytest.raises(DownloadError, match=r"needs another 0\.00 GB, .* --models-dir"):
        fetch(hub, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_gets_full(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / f"model.pth.{SHA256[:12]}.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="is full: free space"):
        fetch(hub, tmp_path)
