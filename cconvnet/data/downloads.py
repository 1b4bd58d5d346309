"""Downloads of public datasets, each file checked against a known length and SHA-256.

Files are downloaded and archives are unpacked in a temporary folder next to the requested one. It is renamed
to the requested name only after all checks have passed. So a data folder is complete or does not exist. An
interrupted download resumes at the next call.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cconvnet
from cconvnet.data import datasets
from cconvnet.data.datasets import Dataset
from cconvnet.data.splits import Progress
from cconvnet.errors import DataError
from cconvnet.system.outputs import check_folder

MIRROR = "CCONVNET_DATA_MIRROR"
_OF_A_DOWNLOAD = {"files", "unpacked"}  # the contents of the temporary folder of an incomplete download
TRIES = 5  # consecutive ones that bring no new bytes
TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 2**18


class DownloadError(RuntimeError):
    """A file that cannot be downloaded. The text names its address and the reason."""


@dataclass(frozen=True)
class Remote:
    """A file on a server, whose length and SHA-256 are always checked."""

    url: str
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Collection:
    """A public dataset: its files and its kind.

    Attributes:
        kind: the kind of the dataset that the files contain.
        files: the files and their addresses.
        inside: the folder to extract from a single archive.
    """

    kind: str
    files: tuple[Remote, ...]
    inside: str = ""


# Lengths and SHA-256 sums are those of TensorFlow Datasets (its url_checksums/cifar10.txt and mnist.txt,
# datasets/imagenette/checksums.tsv). Three independent projects have the same sums: gomlx/gomlx,
# examples/cifar/cifar.go; in pytorch/vision, torchvision/prototype/datasets/_builtin/mnist.py; and in
# FluxML/FastAI.jl, src/datasets/datadeps/imageclassification.jl.
_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist"
COLLECTIONS = {
    "cifar10": Collection(
        "cifar10",
        (
            Remote(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
        "cifar-10-batches-bin",
    ),
    "mnist": Collection(
        "mnist",
        (
            Remote(
                f"{_MNIST}/train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            Remote(
                f"{_MNIST}/train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            Remote(
                f"{_MNIST}/t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            Remote(
                f"{_MNIST}/t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
    ),
    "imagenette": Collection(
        "pictures",
        (
            Remote(
                "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz",
                341_663_724,
                "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c",
            ),
        ),
        "imagenette2-320",
    ),
}


def get(
    name: str,
    out: Path,
    *,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[str], Progress] | None = None,
) -> Dataset:
    """Download one of COLLECTIONS into the folder `out` and open it.

    If `out` already contains it, nothing is downloaded. The environment variable CCONVNET_DATA_MIRROR may
    give the address of a folder to download from instead. A mirror may use http, because the SHA-256 of each
    file is checked.

    Args:
        name: One of COLLECTIONS.
        out: The folder to create.
        say: Receives messages for the user.
        progress: Called with a file's name. It returns a function to call with the bytes downloaded and their
            total.

    Raises:
        DataError: The name is unknown, or `out` contains something else.
        DownloadError: A file cannot be downloaded.
        OSError: A file cannot be written.
    """
    if name not in COLLECTIONS:
        raise DataError(f"NAME must be one of {', '.join(COLLECTIONS)}, not {name!r}")
    out = out.absolute()
    if out.exists():
        if not out.is_dir():
            raise DataError(f"--out must be a folder; {out} is a file")
        if any(out.iterdir()):
            dataset = _already(name, out)
            say(f"{out} already exists; remove it to download {name} again")
            return dataset
    collection, mirror = COLLECTIONS[name], os.environ.get(MIRROR, "").rstrip("/")
    work = out.with_name(f"{out.name}.partial")
    if work.exists() and not (work.is_dir() and {file.name for file in work.iterdir()} <= _OF_A_DOWNLOAD):
        raise DataError(f"{work} is in the way: it contains files that no download left there; move it away")
    check_folder(work)
    ready = work / "files"
    ready.mkdir(parents=True, exist_ok=True)
    _check_room(work, collection)
    for remote in collection.files:
        url = f"{mirror}/{remote.name}" if mirror else remote.url
        where = Remote(url, remote.bytes, remote.sha256)
        download(where, ready / remote.name, say, progress and progress(remote.name), insecure=bool(mirror))
    if collection.inside:
        say(f"unpacking {collection.files[0].name}")
        ready = _unpacked(ready / collection.files[0].name, work / "unpacked", collection.inside)
    ready.replace(out)
    shutil.rmtree(work)
    return datasets.open_dataset(out)


def _already(name: str, out: Path) -> Dataset:
    with contextlib.suppress(DataError):
        dataset = datasets.open_dataset(out)
        if dataset.kind == COLLECTIONS[name].kind:
            return dataset
    raise DataError(f"--out must be a new folder; {out} contains something other than {name}")


def _check_room(folder: Path, collection: Collection) -> None:
    # These archives contain compressed pictures, or pixels that compress badly. So the unpacked data is
    # hardly longer than the archive.
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    needed = sum(remote.bytes for remote in collection.files) * (2 if collection.inside else 1)
    free = shutil.disk_usage(folder).free
    if free < needed - there:
        raise DownloadError(f"{folder} needs {needed / 1e6:,.0f} MB; there is room for {free / 1e6:,.0f} MB")


def _unpacked(archive: Path, folder: Path, inside: str) -> Path:
    shutil.rmtree(folder, ignore_errors=True)  # the rest of an interrupted call
    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DownloadError(f"{archive} cannot be unpacked into {folder}: {error}") from error
    if not (folder / inside).is_dir():
        raise DownloadError(f"{archive} contains no folder {inside}")
    return folder / inside


# ---- one file ---------------------------------------------------------------------------------------------


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect handler that never follows a redirect from https to an unencrypted address."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise DownloadError(f"{req.full_url} leads to {newurl}, which is not https; it is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Again(Exception):
    """A failed try that may be repeated; the text is the reason."""


def download(
    remote: Remote,
    file: Path,
    say: Callable[[str], None] = lambda text: None,
    progress: Progress | None = None,
    *,
    insecure: bool = False,
    wait: float = 1.0,
) -> None:
    """Download a file, unless it exists.

    FILE.part contains the bytes received so far. A later call resumes from them.

    Args:
        remote: The file on the server.
        file: The path to write.
        say: Receives messages for the user.
        progress: Receives bytes fetched and in all.
        insecure: Whether http is allowed.
        wait: Seconds before the second try. They double before each further try.

    Raises:
        DownloadError: After TRIES tries that brought no new bytes, or at once after an error that no further
            try can fix.
    """
    if not remote.url.startswith("https:") and not insecure:
        raise DownloadError(f"{remote.url} is not https")
    if file.exists():
        if _sum(file) == remote.sha256:
            return
        file.unlink()
    part = file.with_name(f"{file.name}.part")
    most, failed, wrong = _length(part), 0, 0
    while True:
        try:
            _fetch(remote, part, progress)
            if _sum(part) == remote.sha256:
                part.replace(file)
                return
            # The part that existed may belong to another file. So start from the beginning, but only once.
            part.unlink()
            wrong += 1
            if wrong == 2:
                raise DownloadError(
                    f"{remote.url} has other contents than it had: the SHA-256 is not {remote.sha256}"
                )
            raise _Again("its SHA-256 is wrong")
        except _Again as error:
            failed = 1 if _length(part) > most else failed + 1
            most = max(most, _length(part))
            if failed == TRIES:
                raise DownloadError(
                    f"{remote.url} cannot be downloaded: {error}. {most:,} of {remote.bytes:,} bytes have "
                    "arrived; the same command resumes from them"
                ) from error
            say(f"{remote.name}: {error}; trying again")
            time.sleep(wait * 2 ** (failed - 1))


def _fetch(remote: Remote, part: Path, progress: Progress | None) -> None:
    """Download the missing part of a file, or all of it if the server cannot send a part."""
    have = _length(part)
    if have > remote.bytes:
        part.unlink()
        have = 0
    if have == remote.bytes:
        return
    request = urllib.request.Request(remote.url, headers={"User-Agent": f"cconvnet/{cconvnet.__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.build_opener(_SafeRedirects).open(request, timeout=TIMEOUT) as answer:
            have = _begin(remote, part, have, answer.status, answer.headers)
            with part.open("ab" if have else "wb") as out:
                while chunk := answer.read(_CHUNK):
                    have += len(chunk)
                    if have > remote.bytes:
                        out.truncate(0)
                        raise DownloadError(f"{remote.url} is longer than the {remote.bytes:,} bytes it had")
                    _write(out, chunk, part)
                    if progress is not None:
                        progress(have, remote.bytes)
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            if error.code == 416:  # the part is too long, so it is of another file
                part.unlink()
            if error.code in (408, 416, 429) or error.code >= 500:
                raise _Again(f"the server answered {error.code} {error.reason}") from error
            raise DownloadError(f"{remote.url}: the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.filename is not None:  # of the disk, not the network
            raise
        reason = getattr(error, "reason", None) or error
        raise _Again(str(reason) or type(error).__name__) from error
    if have < remote.bytes:
        raise _Again(f"the connection ended after {have:,} of {remote.bytes:,} bytes")


def _write(out: IO[bytes], chunk: bytes, file: Path) -> None:
    try:
        out.write(chunk)
        out.flush()
    except OSError as error:
        raise DownloadError(f"{file} cannot be written: {error.strerror}") from error


def _begin(remote: Remote, part: Path, have: int, status: int, headers: http.client.HTTPMessage) -> int:
    """Return the offset in the file of a response's first byte."""
    if status == 206:
        # Content-Range: bytes FIRST-LAST/LENGTH
        span, _, length = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if span.partition("-")[0] != str(have):
            part.unlink()
            raise _Again("the server sent another part than it was asked for")
    else:
        length, have = headers.get("Content-Length", ""), 0
    if length.isdigit() and int(length) != remote.bytes:
        raise DownloadError(f"{remote.url} has {int(length):,} bytes; it had {remote.bytes:,}")
    return have


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _sum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
