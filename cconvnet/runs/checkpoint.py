"""Checkpoints: one file contains all that a training needs to resume as if it had never stopped.

A checkpoint is a safetensors file, which any safetensors reader opens. It contains the network's state as
tensors. Its metadata contain a JSON text and the SHA-256 of the whole file, taken with the digest's own 64
digits as zeros. So a flipped bit or a missing byte anywhere, metadata included, is found before anything is
used. There is no pickle, and nothing that is read is run.

The file is written a few megabytes at a time, in the format of https://github.com/huggingface/safetensors:
eight bytes with the length of the header, the header in JSON, and the tensors' bytes. The digest comes last.

A file is written under another name, synced to the disk and renamed. So a kill or a full disk at any moment
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
from cconvnet.formats.safetensors_files import header_of
from cconvnet.system.outputs import replacing, write

Tensors = dict[str, np.ndarray[Any, Any]]

# The tensors in addition to the network's own: the mean image, and the components of the colour noise.
MEAN = "data.mean"
COLORS = "data.colors"

SUFFIX = ".safetensors"
KEEP = 2  # checkpoints that stay by default, in addition to the best
_FORMAT = "cconvnet checkpoint 1"
_NO_DIGEST = b"0" * 64
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_NAME = re.compile(rf"step-([0-9]{{8}}|[1-9][0-9]{{8,}}){re.escape(SUFFIX)}")
_ASIDE = re.compile(r"set-aside-([0-9]+)")
_BYTES_PER_PIECE = 1 << 22  # checked, hashed and written at a time, so that they stay in a core's cache


class NotFinite(ValueError):
    """A tensor that was to be saved contains a NaN or an infinity.

    Attributes:
        tensor: Its name.
    """

    def __init__(self, tensor: str) -> None:
        super().__init__(f"{tensor} contains values that are not finite")
        self.tensor = tensor


@dataclasses.dataclass
class Checkpoint:
    """The state of a run between two steps.

    Attributes:
        tensors: The network's state (``Network.state()``), and the run's MEAN and COLORS.
        spec: The network's description as JSON values.
        settings: The run's settings as JSON values.
        progress: Counters of the run as JSON values; ``step`` is the number of steps done.
    """

    tensors: Mapping[str, np.ndarray[Any, Any]]
    spec: dict[str, Any]
    settings: dict[str, Any]
    progress: dict[str, Any]

    @property
    def step(self) -> int:
        """The number of steps done."""
        return int(self.progress["step"])


# ---- one checkpoint ------------------------------------------------------------------------------------


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint.

    Each tensor is read twice, once for the header and once for its bytes, and released in between. So a
    mapping may assemble its tensors on demand.

    Args:
        path: The file; an older one of this name is replaced.
        checkpoint: Its content.

    Raises:
        NotFinite: A tensor contains a NaN or an infinity.
        OSError: The file could not be written; the message contains the room that was needed and that was
            free. After either error the old file is unchanged and no other file is left.
    """
    names, header = _header(checkpoint)
    found = _DIGEST.search(header)
    assert found is not None
    digest = hashlib.sha256(header)
    try:
        with replacing(path) as descriptor:
            write(descriptor, header)
            for name in names:
                # The bytes of an array in another order would be read back transposed.
                flat = np.ascontiguousarray(checkpoint.tensors[name]).reshape(-1)
                count = _BYTES_PER_PIECE // flat.itemsize
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
    """Return the tensors' names in the order of the file, and the bytes before the tensors."""
    document = {
        "format": _FORMAT,
        "progress": checkpoint.progress,
        "settings": checkpoint.settings,
        "spec": checkpoint.spec,
    }
    metadata = {"sha256": _NO_DIGEST.decode(), "checkpoint": json.dumps(document)}
    kinds = {name: (tensor.dtype, tensor.shape) for name, tensor in checkpoint.tensors.items()}
    return header_of(dict(sorted(kinds.items())), metadata)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and check every byte of it.

    Raises:
        CheckpointError: The file is missing, damaged, or not a checkpoint of this program.
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

    # From here on the bytes are those that save() wrote, unless another program made the file.
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


def is_checkpoint(path: Path) -> bool:
    """Return True if a file looks like a checkpoint of this program; nothing of it is checked.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(8 + 256)
    return start[8:].startswith(b'{"__metadata__":{"sha256":') and _DIGEST.search(start) is not None


def _header_end(data: bytes) -> int:
    """Return the offset of the tensors' bytes; the first eight bytes contain the length of the header."""
    return 8 + int.from_bytes(data[:8], "little")


def check_tensors(path: Path, tensors: Tensors, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors that are not those of a network.

    Args:
        path: The checkpoint's file, for the error.
        tensors: The tensors of the checkpoint.
        expected: The name and shape of each tensor of the network, in its order.

    Raises:
        CheckpointError: The text names the file and the first tensor that differs.
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
    """The checkpoints of one run: the last `keep`, and the one with the lowest test error.

    Attributes:
        path: The folder.
        keep: The number of checkpoints that stay, in addition to the best.
    """

    def __init__(self, path: Path, keep: int = KEEP) -> None:
        self.path = path
        self.keep = keep

    def file(self, step: int) -> Path:
        """Return the file of the checkpoint after `step` steps."""
        return self.path / f"step-{step:08d}{SUFFIX}"

    def files(self) -> list[Path]:
        """Return the checkpoints' files, oldest first, without unfinished files and a user's own copies."""
        files = [file for file in self.path.glob(f"step-*{SUFFIX}") if _step_of(file) >= 0]
        return sorted(files, key=_step_of)

    def later(self, step: int) -> list[Path]:
        """Return the files of checkpoints after `step`, oldest first."""
        return [file for file in self.files() if _step_of(file) > step]

    def clean(self) -> None:
        """Remove files that a killed process left unfinished."""
        for side in self.path.glob(f".step-*{SUFFIX}.partial"):
            side.unlink()

    def save(self, checkpoint: Checkpoint, best_step: int | None = None) -> Path:
        """Write a checkpoint, then remove earlier ones that are no longer needed.

        Args:
            checkpoint: Its content.
            best_step: The step of the checkpoint with the lowest test error, which stays.

        Returns:
            The file.

        Raises:
            NotFinite, OSError: As :func:`save`.
        """
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
        """Return the name of the next folder for checkpoints that are set aside; it is not made yet."""
        numbers = [int(found[1]) for path in self.path.glob("*") if (found := _ASIDE.fullmatch(path.name))]
        return self.path / f"set-aside-{max(numbers, default=0) + 1}"

    def newest(self, below: Path | None = None) -> tuple[Path | None, Checkpoint | None, list[str]]:
        """Find the newest sound checkpoint.

        Args:
            below: Only checkpoints of earlier steps than this file count.

        Returns:
            Its file and its content, None if there is none, and the reasons why newer ones were skipped.
        """
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
    """Return True if a folder contains checkpoints that were set aside when their run was resumed earlier."""
    return _ASIDE.fullmatch(folder.name) is not None and folder.parent.name == "checkpoints"


def load_offering_previous(path: Path) -> Checkpoint:
    """Read a checkpoint that a user named; if it is damaged, the error names the newest sound one before it.

    Raises:
        CheckpointError: The file is missing, damaged, or not a checkpoint of this program.
    """
    try:
        return load(path)
    except CheckpointError as error:
        previous, _, _ = Folder(path.parent).newest(below=path)
        if previous is None:
            raise
        raise CheckpointError(f"{error}; the one before it is sound: {previous}") from None
