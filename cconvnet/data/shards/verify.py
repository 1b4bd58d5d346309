"""Checks shards to the last byte: files' SHA-256, pictures' CRC-32 and, where asked, their decoding."""

from __future__ import annotations

import hashlib
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cconvnet.data.images import default_decoder
from cconvnet.data.shards.format import Dataset, Names, Rows, is_shard, read_dataset, shard_name
from cconvnet.data.shards.reader import open_split
from cconvnet.data.splits import Progress
from cconvnet.data.workers import usable_cores
from cconvnet.errors import DataError

_MOST_THREADS = 8  # a disk serves no more; hashing goes at 1 to 2 GB/s in each
_BATCH = 256  # pictures that are decoded between two reports of progress


def verify(root: Path, workers: int | None = None, progress: Progress | None = None) -> list[str]:
    """What is damaged, a line for each: the file and what is wrong with it, or which picture in it.

    Args
        workers: threads; None chooses.
        progress: called with the bytes that were checked, and all.

    Raises
        DataError: dataset.json is missing or damaged, so nothing can be checked.
        OSError: a file cannot be read.
    """
    dataset = read_dataset(root)
    found: list[str] = []
    indices: dict[str, tuple[Rows, Names] | None] = {}
    for name in dataset.files:
        if not is_shard(name):
            try:
                dataset.content(name)
            except DataError as error:
                found.append(str(error))
    for split in dataset.pictures:
        try:
            indices[split] = dataset.rows(split), dataset.names(split)
        except DataError as error:
            indices[split] = None  # the shards' own SHA-256 are still there
            if str(error) not in found:
                found.append(str(error))
    parts = [(split, number) for split in dataset.pictures for number in range(len(dataset.shards(split)))]
    count = sum(file.bytes for file in dataset.files.values())
    done, lock = 0, threading.Lock()

    def check(part: tuple[str, int]) -> list[str]:
        nonlocal done
        split, number = part
        damages = _check_shard(dataset, split, number, indices[split])
        with lock:
            done += dataset.files[shard_name(split, number)].bytes
            if progress is not None:
                progress(done, count)
        return damages

    threads = min(usable_cores(), _MOST_THREADS) if workers is None else max(1, workers)
    with ThreadPoolExecutor(threads) as pool:
        for damages in pool.map(check, parts):
            found += damages
    return found


def _check_shard(dataset: Dataset, split: str, number: int, index: tuple[Rows, Names] | None) -> list[str]:
    name = shard_name(split, number)
    path, file = dataset.root / name, dataset.files[name]
    if not path.is_file():
        return [f"{path} is missing"]
    damages = []
    length = path.stat().st_size
    if length != file.bytes:
        damages.append(f"{path} has {length:,} bytes instead of {file.bytes:,}")
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        if index is not None:
            rows, names = index
            # They lie one after another, as they were written.
            for at in np.flatnonzero(rows["file"] == number).tolist():
                data = stream.read(int(rows["length"][at]))
                digest.update(data)
                if zlib.crc32(data) != rows["crc32"][at]:
                    label = dataset.classes[rows["label"][at]]
                    damages.append(f"{path}: picture {names[at]} of class {label} is damaged")
        while data := stream.read(2**20):
            digest.update(data)
    if not damages and digest.hexdigest() != file.sha256:
        damages.append(f"{path} is damaged: its SHA-256 differs")
    return damages


def verify_decoding(root: Path, workers: int | None = None, progress: Progress | None = None) -> list[str]:
    """Which pictures cannot be decoded, or are not the stored bytes, a line for each.

    Args
        workers: processes that decode; None chooses, 0 is none.
        progress: called with the pictures that were decoded, and all.

    Raises
        DataError: something else is damaged, a shard is missing.
        WorkerError: a process died.
    """
    dataset = read_dataset(root)
    found: list[str] = []
    before, count = 0, sum(dataset.pictures.values())
    for name in dataset.pictures:
        split = open_split(dataset, name, default_decoder())
        images = np.empty((_BATCH, *split.image_shape), np.uint8)
        reader = split.open_reader(workers)
        try:
            for first in range(0, len(split), _BATCH):
                numbers = np.arange(first, min(first + _BATCH, len(split)))
                for future in reader.start(numbers, images):
                    for place, reason in future.result():
                        found.append(f"{root / name}: {split.file(first + place)}: {reason}")
                if progress is not None:
                    progress(before + int(numbers[-1]) + 1, count)
        finally:
            reader.close()
        before += len(split)
    return found
