"""Checkpoints: one file holds all that training needs to go on as if it had never stopped.

A checkpoint is a safetensors file (any safetensors reader opens it): the network's state as tensors, and in
the file's metadata a JSON text and the SHA-256 of the whole file, taken with the digest's own 64 digits as
zeros. So a flipped bit or a missing byte anywhere in the file, metadata included, is found before anything is
used. There is no pickle, and nothing that is read is run.

The file is written as it is put together, a few megabytes at a time: eight bytes that hold the length of the
header, the header in JSON, the tensors' bytes (https://github.com/huggingface/safetensors, "Format"), and at
last the digest.

A file is written beside its final name, synced to the disk and renamed: a kill or a full disk at any instant
leaves the old file or the new one, never a mixture.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.errors import CheckpointError
from cconvnet.system.outputs import replacing, write

Tensors = dict[str, np.ndarray[Any, Any]]

# What a checkpoint holds beside the network's tensors: the mean image, and the colour noise's components.
MEAN = "data.mean"
COLORS = "data.colors"

SUFFIX = ".safetensors"
KEEP = 2  # checkpoints that stay beside the best, if nothing else is asked for
_FORMAT = "cconvnet checkpoint 1"
_NO_DIGEST = b"0" * 64
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_NAME = re.compile(rf"step-([0-9]{{8}}|[1-9][0-9]{{8,}}){re.escape(SUFFIX)}")
_ASIDE = re.compile(r"set-aside-([0-9]+)")
_PIECE = 1 << 22  # bytes that are checked, hashed and written at a time, while a core's cache holds them


class NotFinite(ValueError):
    """A tensor that was to be saved holds a NaN or an infinity; `tensor` is its name."""

    def __init__(self, tensor: str) -> None:
        super().__init__(f"{tensor} holds values that are not finite")
        self.tensor = tensor


@dataclasses.dataclass
class Checkpoint:
    """The state of a run between two steps.

    Attributes
        tensors: the network's state (``Network.state()``) and what else training carries as arrays.
        spec: the network's description as JSON values.
        settings: the run's settings as JSON values.
        progress: counters of the run as JSON values; ``step`` is the number of steps done.
    """

    tensors: Mapping[str, np.ndarray[Any, Any]]
    spec: dict[str, Any]
    settings: dict[str, Any]
    progress: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.progress["step"])


# ---- one checkpoint ------------------------------------------------------------------------------------


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint.

    Each tensor is asked for twice, to describe it and to write it, and let go in between: a mapping may put
    them together as they are asked for.

    Raises
        NotFinite: a tensor holds a NaN or an infinity.
        OSError: it could not be written; the message says how much room was needed and what there was.
            Either way the old file is unchanged and no side file is left.
    """
    names, header = _header(checkpoint)
    found = _DIGEST.search(header)
    assert found is not None
    digest = hashlib.sha256(header)
    try:
        with replacing(path) as descriptor:
            write(descriptor, header)
            for name in names:
                # An array in another order would come back transposed.
                flat = np.ascontiguousarray(checkpoint.tensors[name]).reshape(-1)
                count = _PIECE // flat.itemsize
                for start in range(0, flat.size, count):
                    part = flat[start : start + count]
                    if not np.isfinite(part).all():
                        raise NotFinite(name)
                    piece = part.view(np.uint8).data
                    digest.update(piece)
                    write(descriptor, piece)
            os.lseek(descriptor, found.start(1), os.SEEK_SET)
            write(descriptor, digest.hexdigest().encode())
    except OSError as error:
        room = ""
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            needed = len(header) + sum(tensor.nbytes for tensor in checkpoint.tensors.values())
            room = f" ({needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free)"
        raise OSError(error.errno, f"{error.strerror}{room}", str(path)) from error


def _header(checkpoint: Checkpoint) -> tuple[list[str], bytes]:
    """The tensors' names in the order in which they are written, and all that stands before them.

    Those of wide elements come first, so that each begins at a multiple of its elements' size.
    """
    document = {
        "format": _FORMAT,
        "progress": checkpoint.progress,
        "settings": checkpoint.settings,
        "spec": checkpoint.spec,
    }
    metadata = {"sha256": _NO_DIGEST.decode(), "checkpoint": json.dumps(document)}
    described = {name: (t.dtype, t.shape, t.nbytes) for name, t in checkpoint.tensors.items()}
    names = sorted(described, key=lambda name: (-described[name][0].itemsize, name))
    header: dict[str, Any] = {"__metadata__": metadata}
    begin = 0
    for name in names:
        dtype, shape, size = described[name]
        kind = "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}"
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, begin + size]}
        begin += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return names, len(text).to_bytes(8, "little") + text


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint and checks every byte of it.

    Raises
        CheckpointError: the file is missing, damaged, or is not a checkpoint of this program.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    header_end = _header_end(data)
    if header_end > len(data):
        raise CheckpointError(f"checkpoint {path} is damaged: it is cut off or not a safetensors file")
    header = data[:header_end]
    found = _DIGEST.search(header)
    if found is None:
        raise CheckpointError(f"checkpoint {path} is damaged or not written by cconvnet: no SHA-256")
    digest = hashlib.sha256(header[: found.start(1)] + _NO_DIGEST + header[found.end(1) :])
    digest.update(memoryview(data)[header_end:])
    if digest.hexdigest().encode() != found[1]:
        raise CheckpointError(f"checkpoint {path} is damaged: its SHA-256 is not the one it was written with")

    from safetensors.numpy import load as from_bytes

    # From here on the bytes are the ones that save() wrote, unless another program made the file.
    try:
        document = json.loads(json.loads(header[8:])["__metadata__"]["checkpoint"])
        kind = document["format"]
        content = {key: document[key] for key in ("progress", "settings", "spec")}
        tensors = from_bytes(data)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of cconvnet: {error!r}") from error
    if kind != _FORMAT:
        raise CheckpointError(f"{path} is a {kind!r}; this version reads {_FORMAT!r}")
    return Checkpoint(tensors=tensors, **content)


def _header_end(data: bytes) -> int:
    """Where the tensors' bytes begin: eight bytes hold the length of the JSON header that follows them."""
    return 8 + int.from_bytes(data[:8], "little")


def check_tensors(path: Path, tensors: Tensors, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses tensors that are not those of a network.

    Args
        expected: the name and shape of each tensor of the network, in its order.

    Raises
        CheckpointError: naming the file and the first tensor that differs.
    """

    def refuse(what: str) -> None:
        raise CheckpointError(f"checkpoint {path} is of another network: {what}")

    for name, shape in expected.items():
        if name not in tensors:
            refuse(f"it has no {name}, which should be {_shape(shape)}")
        if tensors[name].shape != tuple(shape):
            refuse(f"{name} is {_shape(tensors[name].shape)} there and {_shape(shape)} here")
    for name, tensor in tensors.items():
        if name not in expected:
            refuse(f"it has {name} of {_shape(tensor.shape)}, which this network lacks")


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


# ---- the checkpoints of a folder -----------------------------------------------------------------------


class Folder:
    """The checkpoints of one run: the last `keep`, and the one with the lowest test error."""

    def __init__(self, path: Path, keep: int = KEEP) -> None:
        self.path = path
        self.keep = keep

    def file(self, step: int) -> Path:
        return self.path / f"step-{step:08d}{SUFFIX}"

    def files(self) -> list[Path]:
        """The checkpoints' files, oldest first; side files and a user's own copies are not among them."""
        files = [file for file in self.path.glob(f"step-*{SUFFIX}") if _step_of(file) >= 0]
        return sorted(files, key=_step_of)

    def later(self, step: int) -> list[Path]:
        """The files of checkpoints after `step`, oldest first."""
        return [file for file in self.files() if _step_of(file) > step]

    def clean(self) -> None:
        """Removes what a killed process left half written."""
        for side in self.path.glob(f".step-*{SUFFIX}.partial"):
            side.unlink()

    def save(self, checkpoint: Checkpoint, best_step: int | None = None) -> Path:
        """Writes a checkpoint, then removes earlier ones that are no longer needed."""
        path = self.file(checkpoint.step)
        save(path, checkpoint)
        files = self.files()
        files = files[: files.index(path) + 1]
        kept = set(files[-self.keep :])
        if best_step is not None:
            kept.add(self.file(best_step))
        for file in files:
            if file not in kept:
                file.unlink(missing_ok=True)
        return path

    def new_aside(self) -> Path:
        """The folder for what is set aside next; it is not made yet."""
        numbers = [int(found[1]) for path in self.path.glob("*") if (found := _ASIDE.fullmatch(path.name))]
        return self.path / f"set-aside-{max(numbers, default=0) + 1}"

    def newest(self, below: Path | None = None) -> tuple[Path | None, Checkpoint | None, list[str]]:
        """The newest sound checkpoint (older than the file `below`), and why newer ones were skipped."""
        skipped: list[str] = []
        for path in reversed(self.files()):
            if below is not None and _step_of(path) >= _step_of(below):
                continue
            try:
                return path, load(path), skipped
            except CheckpointError as error:
                skipped.append(str(error))
        return None, None, skipped


def _step_of(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else -1


def is_aside(folder: Path) -> bool:
    """True if a folder holds checkpoints that were set aside when their run went back before them."""
    return _ASIDE.fullmatch(folder.name) is not None and folder.parent.name == "checkpoints"


def load_offering_previous(path: Path) -> Checkpoint:
    """Reads the checkpoint a user named; if it is damaged, the error names the newest sound one before it."""
    try:
        return load(path)
    except CheckpointError as error:
        previous, _, _ = Folder(path.parent).newest(below=path)
        if previous is None:
            raise
        raise CheckpointError(f"{error}; the one before it is sound: {previous}") from None
