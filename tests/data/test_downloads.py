"""Downloads from a local server that cuts connections, ignores ranges and sends other files."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import http.server
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cconvnet import data
from cconvnet.data import DataError, downloads
from cconvnet.data.downloads import Collection, DownloadError, Remote, download

CONTENT = np.random.default_rng(1).bytes(1_000_003)


@dataclass
class Server:
    """`files` by name. Each connection ends after `cut` bytes; the first answers are `errors`."""

    files: dict[str, bytes]
    cut: int | None = None
    stall: int | None = None  # after so many bytes an answer waits for its end
    ranges: bool = True
    lengths: bool = True
    shift: int = 0  # ranges begin so many bytes later than they were asked for
    errors: list[int] = field(default_factory=list)
    leads_to: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""
    resume: threading.Event = field(default_factory=threading.Event)

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.asked.append((handler.path, asked))
        assert handler.headers["User-Agent"].startswith("cconvnet/")
        if self.errors:
            return handler.send_error(self.errors.pop(0))
        if self.leads_to:
            handler.send_response(302)
            handler.send_header("Location", self.leads_to)
            return handler.end_headers()
        content = self.files.get(handler.path.removeprefix("/"))
        if content is None:
            return handler.send_error(404)
        start = 0
        if asked is not None and self.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-")) + self.shift
            if start >= len(content):
                return handler.send_error(416)
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        if self.lengths:
            handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        end = len(content) if self.cut is None else start + self.cut
        if self.stall is not None:
            handler.wfile.write(content[start : self.stall])
            handler.wfile.flush()
            start = self.stall
            self.resume.wait(60)
        with contextlib.suppress(ConnectionError):  # nobody may be there any more
            handler.wfile.write(content[start:end])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server({"a.bin": CONTENT})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        state.url = f"http://127.0.0.1:{listening.server_address[1]}"
        threading.Thread(target=listening.serve_forever, args=[0.01], daemon=True).start()
        yield state
        state.resume.set()
        listening.shutdown()


def remote(server: Server, name: str = "a.bin", content: bytes = CONTENT) -> Remote:
    return Remote(f"{server.url}/{name}", len(content), hashlib.sha256(content).hexdigest())


def fetch(server: Server, file: Path, **wanted: object) -> list[str]:
    """Downloads and gives back what was said."""
    said: list[str] = []
    download(remote(server, **wanted), file, said.append, insecure=True, wait=0.001)  # type: ignore[arg-type]
    return said


def names_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


# ---- one file --------------------------------------------------------------------------------------------


def test_download(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    seen: list[tuple[int, int]] = []
    download(remote(server), file, progress=lambda *state: seen.append(state), insecure=True)
    assert file.read_bytes() == CONTENT and names_in(tmp_path) == ["a.bin"]
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen) and len(seen) > 3
    # What is there is not fetched again, unless it is something else.
    assert fetch(server, file) == [] and len(server.asked) == 1
    file.write_bytes(b"x")
    fetch(server, file)
    assert file.read_bytes() == CONTENT and len(server.asked) == 2


@pytest.mark.parametrize("lengths", [True, False])
def test_cut_connections_are_resumed(server: Server, tmp_path: Path, lengths: bool) -> None:
    server.cut, server.lengths = 150_000, lengths
    said = fetch(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [
        None,
        *(f"bytes={start}-" for start in range(150_000, len(CONTENT), 150_000)),
    ]
    assert len(said) == 6
    assert said[0] == "a.bin: the connection ended after 150,000 of 1,000,003 bytes; trying again"


def test_a_later_call_goes_on(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:900_000])
    fetch(server, tmp_path / "a.bin")
    assert server.asked == [("/a.bin", "bytes=900000-")]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and names_in(tmp_path) == ["a.bin"]


def test_a_killed_download_goes_on(server: Server, tmp_path: Path) -> None:
    server.stall = 500_000
    file = tmp_path / "a.bin"
    code = (
        "import sys; from pathlib import Path; from cconvnet.data.downloads import Remote, download; "
        "download(Remote(sys.argv[1], int(sys.argv[2]), sys.argv[3]), Path(sys.argv[4]), insecure=True)"
    )
    wanted = remote(server)
    arguments = [wanted.url, str(wanted.bytes), wanted.sha256, str(file)]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    part = tmp_path / "a.bin.part"
    while not (part.exists() and part.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait(timeout=200)
    have = part.stat().st_size
    assert 0 < have <= 500_000 and not file.exists()
    server.stall = None
    fetch(server, file)
    assert server.asked[1:] == [("/a.bin", f"bytes={have}-")] and file.read_bytes() == CONTENT


def test_a_whole_part_needs_no_server(tmp_path: Path) -> None:
    """It was interrupted after the last byte and before its sum was known."""
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    fetch(Server({}, url="http://127.0.0.1:9"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_begins_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "a.bin.part").write_bytes(b"x" * 900_000)
    fetch(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and len(server.asked) == 1
    # One that always cuts too never ends; it is given up.
    server.cut, server.asked = 100_000, []
    with pytest.raises(DownloadError, match=r"ended after 100,000 of 1,000,003 bytes\. 100,000 of 1,000,003"):
        fetch(server, tmp_path / "b.bin", name="a.bin")
    assert len(server.asked) == downloads.TRIES


@pytest.mark.parametrize("have", [b"x" * 400_000, CONTENT + b"x", b"x" * len(CONTENT)])
def test_what_was_there_is_of_something_else(server: Server, tmp_path: Path, have: bytes) -> None:
    (tmp_path / "a.bin.part").write_bytes(have)
    fetch(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and names_in(tmp_path) == ["a.bin"]


def test_a_server_that_sends_another_part(server: Server, tmp_path: Path) -> None:
    server.shift = 5
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:1000])
    assert "another part" in fetch(server, tmp_path / "a.bin")[0]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_wrong_bytes_are_never_believed(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(DownloadError, match=r"a\.bin has other contents than it had: the SHA-256 is not"):
        fetch(server, tmp_path / "a.bin")
    assert len(server.asked) == 2 and names_in(tmp_path) == []


@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize("more", [b"x", b"x" * 10_000_000])
def test_a_longer_file_is_refused(server: Server, tmp_path: Path, more: bytes, lengths: bool) -> None:
    server.files["a.bin"], server.lengths = CONTENT + more, lengths
    message = "has 1.* bytes; it had 1,000,003" if lengths else "is longer than the 1,000,003 bytes it had"
    with pytest.raises(DownloadError, match=message):
        fetch(server, tmp_path / "a.bin")
    assert len(server.asked) == 1
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= len(CONTENT)


def test_a_shorter_file_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = CONTENT[:-1]
    with pytest.raises(DownloadError, match="has 1,000,002 bytes; it had 1,000,003"):
        fetch(server, tmp_path / "a.bin")
    server.lengths = False
    with pytest.raises(DownloadError, match=r"the server answered 416|ended after 1,000,002 of"):
        fetch(server, tmp_path / "a.bin")


@pytest.mark.parametrize("code", [403, 404, 410])
def test_what_no_try_mends_is_said_at_once(server: Server, tmp_path: Path, code: int) -> None:
    server.errors = [code]
    with pytest.raises(DownloadError, match=rf"/a\.bin: the server answered {code} "):
        fetch(server, tmp_path / "a.bin")
    assert len(server.asked) == 1


def test_a_server_in_trouble_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.errors = [503, 500, 429, 408]
    said = fetch(server, tmp_path / "a.bin")
    assert [re.search(r"\d+", line)[0] for line in said] == ["503", "500", "429", "408"]  # type: ignore[index]
    server.errors = [503] * 5
    with pytest.raises(DownloadError, match=r"503 .*\. 0 of 1,000,003 bytes have arrived; the same command"):
        fetch(server, tmp_path / "b.bin")


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"cannot be downloaded: .*refused"):
        fetch(Server({}, url="http://127.0.0.1:9"), tmp_path / "a.bin")


def test_only_https(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="is not https"):
        download(remote(server), tmp_path / "a.bin")
    assert server.asked == []
    follow = downloads._SafeRedirects().redirect_request
    secure, plain = (urllib.request.Request(f"{scheme}://a.org/x") for scheme in ("https", "http"))
    for leads_to in ("http://a.org/y", "file:///etc/passwd", "ftp://a.org/y"):
        with pytest.raises(DownloadError, match=f"leads to {leads_to}, which is not https"):
            follow(secure, io.BytesIO(), 302, "Found", Message(), leads_to)  # type: ignore[arg-type]
    for request, leads_to in ((secure, "https://b.org/y"), (plain, "http://b.org/y")):
        found = follow(request, io.BytesIO(), 302, "Found", Message(), leads_to)  # type: ignore[arg-type]
        assert found is not None and found.full_url == leads_to


def test_redirects(server: Server, tmp_path: Path) -> None:
    server.leads_to = "file:///etc/hostname"
    with pytest.raises(DownloadError):
        fetch(server, tmp_path / "a.bin")
    assert names_in(tmp_path) == []


def test_a_full_disk_is_said(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, content: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", lambda self, mode: Full())
    with pytest.raises(DownloadError, match=r"a\.bin\.part cannot be written: No space left"):
        fetch(server, tmp_path / "a.bin")
    assert len(server.asked) == 1


# ---- collections -----------------------------------------------------------------------------------------


def mnist_files() -> dict[str, bytes]:
    files = {}
    for prefix, count in (("train", 30), ("t10k", 20)):
        pixels = bytes((0, 0, 8, 3, *count.to_bytes(4, "big"), 0, 0, 0, 2, 0, 0, 0, 2)) + bytes(count * 4)
        labels = bytes((0, 0, 8, 1, *count.to_bytes(4, "big"))) + bytes(range(10)) * (count // 10)
        files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(pixels)
        files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(labels)
    return files


def tgz(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def cifar_files() -> dict[str, bytes]:
    inside = "cifar-10-batches-bin"
    names = [f"{inside}/data_batch_{number}.bin" for number in range(1, 6)]
    files = {name: bytes([number, *bytes(3072)]) for number, name in enumerate(names)}
    files |= {f"{inside}/test_batch.bin": bytes(3073), f"{inside}/batches.meta.txt": b"a\nb\nc\nd\ne\n"}
    return {"cifar-10-binary.tar.gz": tgz(files)}


def imagenette_files() -> dict[str, bytes]:
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "JPEG")
    names = [f"imagenette2-320/{part}/n01440764/{n}.JPEG" for part in ("train", "val") for n in range(3)]
    return {"imagenette2-320.tgz": tgz(dict.fromkeys(names, picture.getvalue()))}


MAKE = {"mnist": mnist_files, "cifar10": cifar_files, "imagenette": imagenette_files}
COUNTS = {"mnist": (30, 20), "cifar10": (5, 1), "imagenette": (3, 3)}


@pytest.fixture(params=list(MAKE))
def collection(request: pytest.FixtureRequest, server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A collection's name; the server has small files by the names of its own."""
    name: str = request.param
    server.files = MAKE[name]()
    real = downloads.COLLECTIONS[name]
    assert [remote.name for remote in real.files] == list(server.files)
    files = tuple(
        Remote(r.url, len(server.files[r.name]), hashlib.sha256(server.files[r.name]).hexdigest())
        for r in real.files
    )
    monkeypatch.setitem(downloads.COLLECTIONS, name, Collection(real.kind, files, real.inside))
    monkeypatch.setenv(downloads.MIRROR, f"{server.url}/")
    return name


def test_get(collection: str, server: Server, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    said: list[str] = []
    dataset = downloads.get(collection, out, say=said.append)
    test = dataset.test
    assert test is not None and (len(dataset.train), len(test)) == COUNTS[collection]
    assert names_in(tmp_path / "new") == ["folder"]
    assert len(data.open_source(out).train) == COUNTS[collection][0]
    asked = len(server.asked)
    again = downloads.get(collection, out, say=said.append)
    assert len(again.train) == COUNTS[collection][0] and len(server.asked) == asked
    assert said[-1] == f"{out} already exists; remove it to download {collection} again"


@pytest.mark.parametrize("collection", ["cifar10", "imagenette"], indirect=True)
def test_what_was_interrupted_while_unpacking(collection: str, server: Server, tmp_path: Path) -> None:
    out = tmp_path / "data"
    work = tmp_path / "data.partial"
    (name,) = server.files
    for folder in ("files", "unpacked"):
        (work / folder).mkdir(parents=True)
    (work / "files" / name).write_bytes(server.files[name])
    (work / "unpacked" / "litter").write_text("of the call before")
    downloads.get(collection, out)
    assert server.asked == [] and names_in(tmp_path) == ["data"]
    assert not list(out.rglob("litter"))


def test_a_folder_of_the_users_is_not_taken_for_work(server: Server, tmp_path: Path) -> None:
    mine = tmp_path / "data.partial" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(DataError, match=r"data\.partial is in the way"):
        downloads.get("mnist", tmp_path / "data")
    assert server.asked == [] and mine.read_text() == "mine" and names_in(tmp_path) == ["data.partial"]


def test_nothing_comes_to_be_of_wrong_bytes(collection: str, server: Server, tmp_path: Path) -> None:
    name = list(server.files)[-1]
    server.files[name] = bytes(len(server.files[name]))
    with pytest.raises(DownloadError, match=f"{name} has other contents"):
        downloads.get(collection, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_out_must_be_new(collection: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(DataError, match=r"--out must be a folder; .*file is a file"):
        downloads.get(collection, tmp_path / "file")
    with pytest.raises(DataError, match=f"new folder; .*other contains something other than {collection}"):
        downloads.get(collection, tmp_path / "other")
    downloads.get(collection, tmp_path / "empty")
    assert (tmp_path / "other" / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 3


def test_other_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="NAME must be one of cifar10, mnist, imagenette, not 'svhn'"):
        downloads.get("svhn", tmp_path / "a")


def test_no_room(collection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 10))  # type: ignore[attr-defined]
    with pytest.raises(DownloadError, match=r"data\.partial needs 0 MB; there is room for 0 MB"):
        downloads.get(collection, tmp_path / "data")


def test_an_archive_cannot_leave_its_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one of the right sum."""
    for name in ("inside/../../../evil", "/evil"):
        content = tgz({name: b"x"})
        server.files = {"a.tgz": content}
        files = (remote(server, "a.tgz", content),)
        monkeypatch.setitem(downloads.COLLECTIONS, "evil", Collection("cifar10", files, "inside"))
        monkeypatch.setenv(downloads.MIRROR, server.url)
        with pytest.raises(DownloadError, match=r"a\.tgz (cannot be unpacked|contains no folder)"):
            downloads.get("evil", tmp_path / "deep" / "er" / "data")
        # "/evil" may become "evil" where archives are unpacked.
        assert all("data.partial/unpacked" in str(found) for found in tmp_path.rglob("evil"))
        assert not Path("/evil").exists()
        shutil.rmtree(tmp_path / "deep")


def test_collections_are_pinned() -> None:
    for collection in downloads.COLLECTIONS.values():
        for pinned in collection.files:
            assert pinned.url.startswith("https://") and pinned.bytes > 0
            assert re.fullmatch("[0-9a-f]{64}", pinned.sha256)


def test_get_as_a_command(server: Server, tmp_path: Path) -> None:
    names = [pinned.name for pinned in downloads.COLLECTIONS["mnist"].files]
    server.files = dict.fromkeys(names, b"x" * 100)
    for name, code, error in (
        ("mnist", 1, f"error: {server.url}/{names[0]} has 100 bytes; it had 9,912,422\n"),
        ("mnits", 2, "error: NAME must be one of cifar10, mnist, imagenette, not 'mnits'\n"),
    ):
        command = [sys.executable, "-m", "cconvnet", "data", "get", name, "--out", str(tmp_path / "m")]
        environment = {**os.environ, downloads.MIRROR: server.url}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code and done.stderr.startswith(error)


def test_real_mnist_is_the_pinned_one(real: Path) -> None:
    sums = {remote.name: remote for remote in downloads.COLLECTIONS["mnist"].files}
    for file in (real / "mnist-t10k").glob("*.gz"):
        content = file.read_bytes()
        assert sums[file.name].sha256 == hashlib.sha256(content).hexdigest()
        assert sums[file.name].bytes == len(content)
