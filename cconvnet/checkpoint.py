"""Checkpoints: one file holds all that training needs to go on as if it had never stopped.

A checkpoint is a safetensors file (any safetensors reader opens it): the network's state as tensors, and in
the file's metadata a JSON text and the SHA-256 of the whole file, taken with the digest's own 64 digits as
zeros. So a flipped bit or a missing byte anywhere in the file, metadata included, is found before anything is
used. There is no pickle, and nothing that is read is run.

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

Tensors = dict[str, np.ndarray[Any, Any]]

SUFFIX = ".safetensors"
_FORMAT = "cconvnet checkpoint 1"
_NO_DIGEST = b"0" * 64
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another network; the text names the file and what is wrong."""


@dataclasses.dataclass
class Checkpoint:
    """The state of a run between two steps.

    Attributes
        tensors: the network's state (``Network.state()``) and what else training carries as arrays.
        spec: the network's description as JSON values.
        settings: the run's settings as JSON values.
        progress: counters of the run as JSON values; ``step`` is the number of steps done.
    """

    tensors: Tensors
    spec: dict[str, Any]
    settings: dict[str, Any]
    progress: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.progress["step"])


# ---- files that are either old or new ------------------------------------------------------------------


def side_file(path: Path) -> Path:
    """The name under which `path` is written before it is renamed."""
    return path.with_name(f".{path.name}.partial")


def write_atomically(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Writes `path` so that a kill at any instant leaves the old file or the new one.

    Raises
        OSError: the file could not be written; the old one is unchanged and no side file is left.
    """
    side = side_file(path)
    try:
        descriptor = os.open(side, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            # Without this, the rename could reach the disk before the data does.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        side.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            side.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_atomically(path, [(json.dumps(value, indent=2) + "\n").encode()])


# ---- one checkpoint ------------------------------------------------------------------------------------


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint.

    Raises
        OSError: it could not be written; the message says how much room was needed and what there was.
    """
    from safetensors.numpy import save as to_bytes

    document = json.dumps(
        {
            "format": _FORMAT,
            "progress": checkpoint.progress,
            "settings": checkpoint.settings,
            "spec": checkpoint.spec,
        }
    )
    metadata = {"sha256": _NO_DIGEST.decode(), "checkpoint": document}
    # safetensors writes an array's memory as it lies, so one in another order would come back transposed.
    tensors = {name: np.asarray(tensor, order="C") for name, tensor in checkpoint.tensors.items()}
    data = to_bytes(tensors, metadata)
    header_end = _header_end(data)
    header = data[:header_end]
    payload = memoryview(data)[header_end:]
    digest = hashlib.sha256(header)
    digest.update(payload)
    found = _DIGEST.search(header)
    assert found is not None
    signed = header[: found.start(1)] + digest.hexdigest().encode() + header[found.end(1) :]
    try:
        write_atomically(path, [signed, payload])
    except OSError as error:
        room = ""
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            room = f" ({len(data) / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free)"
        raise OSError(error.errno, f"{error.strerror}{room}", str(path)) from error


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
    """The checkpoints of one run: the last two, and the one with the lowest test error."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, step: int) -> Path:
        return self.path / f"step-{step:08d}{SUFFIX}"

    def files(self) -> list[Path]:
        """The checkpoints' files, oldest first; side files and a user's own copies are not among them."""
        files = [file for file in self.path.glob(f"step-*{SUFFIX}") if _step_of(file) >= 0]
        return sorted(files, key=_step_of)

    def clean(self) -> None:
        """Removes what a killed process left half written."""
        for side in self.path.glob(".*.partial"):
            side.unlink()

    def save(self, checkpoint: Checkpoint, best_step: int | None = None) -> Path:
        """Writes a checkpoint, then removes those no longer needed.

        Later ones go too: they are damaged, or of a course of the run that was left.
        """
        path = self.file(checkpoint.step)
        save(path, checkpoint)
        files = self.files()
        here = files.index(path)
        kept = {path, *files[max(0, here - 1) : here]}
        if best_step is not None:
            kept.add(self.file(best_step))
        for file in files:
            if file not in kept or _step_of(file) > checkpoint.step:
                file.unlink()
        return path

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
    digits = path.name.removeprefix("step-").removesuffix(SUFFIX)
    return int(digits) if digits.isdigit() else -1


def load_offering_previous(path: Path) -> Checkpoint:
    """Reads the checkpoint a user named; if it is damaged, the error names the newest sound one before it."""
    try:
        return load(path)
    except CheckpointError as error:
        previous, _, _ = Folder(path.parent).newest(below=path)
        if previous is None:
            raise
        raise CheckpointError(f"{error}; the one before it is sound: {previous}") from None
