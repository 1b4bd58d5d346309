"""Tars of pictures whose colours identify them."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cconvnet.data.datasets import Dataset, imagenet

IDS = ["n02000001", "n01000002", "n03000003"]  # in the devkit's order, which is not theirs
WORDS = ["cock", "ant, emmet", "zebra"]
CLASSES = sorted(IDS)
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def picture(label: int, number: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 5), (label * 40, number, 7)).save(file, kind)
    return file.getvalue()


def told(pictures: npt.NDArray[np.uint8]) -> list[tuple[int, int]]:
    """The (label, number) that flat pictures tell by their colour."""
    assert (pictures == pictures[:, :1, :1]).all() and (pictures[..., 2] == 7).all()
    return [(int(red) // 40, int(green)) for red, green in pictures[:, 0, 0, :2]]


def member(name: str, kind: bytes = tarfile.REGTYPE, **values: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in values.items():
        setattr(info, key, value)
    return info


Members = list[tuple[str | tarfile.TarInfo, bytes]]


def packed(members: Members, form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for info, content in members:
            info = member(info) if isinstance(info, str) else info
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def unchanged(root: Path) -> Callable[[], bool]:
    """Return a function that is True while the files under a folder are unchanged."""

    def state() -> list[tuple[str, int, int]]:
        return sorted(
            (str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in root.rglob("*") if f.is_file()
        )

    before = state()
    return lambda: state() == before


def check_within(dataset: Dataset) -> None:
    """Every stretch lies within its file, every label is a class's, every name is another and printable."""
    for pictures in (dataset.train, dataset.test):
        if pictures is None:
            continue
        ranges = pictures.ranges
        assert ranges is not None
        sizes = np.array([Path(file).stat().st_size for file in ranges.files])
        assert (ranges.offset >= 0).all() and (ranges.length >= 0).all()
        assert (ranges.offset + ranges.length <= sizes[ranges.file]).all()
        assert len(pictures.names) == len(ranges) == len(set(pictures.names))
        assert all(name.isprintable() for name in pictures.names)
        assert pictures.labels.dtype == np.int32
        assert (pictures.labels >= 0).all() and (pictures.labels < len(dataset.classes)).all()


def devkit(ids: list[str] = IDS, words: list[str] = WORDS, truth: str = "3\n1\n2\n3\n") -> Members:
    """As the true one: the classes' table, which goes on with what is no class, and the labels of val."""
    io_module = pytest.importorskip("scipy.io")
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number + 1, *row, 0) for number, row in enumerate(zip(ids, words, strict=True))]
    table = np.array([*rows, (len(ids) + 1, "n09999999", "whole", 2)], fields).reshape(-1, 1)
    meta = io.BytesIO()
    io_module.savemat(meta, {"synsets": table}, do_compression=True)
    root = "ILSVRC2012_devkit_t12"
    return [
        (member(f"{root}/data", tarfile.DIRTYPE), b""),
        (f"{root}/readme.txt", b"hello"),
        (f"{root}/{imagenet.META}", meta.getvalue()),
        (f"{root}/{imagenet.TRUTH}", truth.encode()),
    ]


def train_members(label: int, count: int = 4) -> Members:
    # Not in the order of their names.
    names = [f"{CLASSES[label]}_{number}.JPEG" for number in range(count)]
    return [(names[number], picture(label, number)) for number in [*range(1, count), 0]]


def val_members(truth: str = "3\n1\n2\n3\n") -> Members:
    labels = [CLASSES.index(IDS[int(line) - 1]) for line in truth.split()]
    files = [(f"ILSVRC2012_val_{n + 1:08}.JPEG", picture(label, n)) for n, label in enumerate(labels)]
    return [*files[1:], *files[:1]]


def make_imagenet(
    root: Path,
    form: int = tarfile.GNU_FORMAT,
    train: dict[str, Members] | None = None,
    val: Members | None = None,
    kit: Members | None = None,
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    train = train or {name: train_members(label) for label, name in enumerate(CLASSES)}
    inner: Members = [(f"{name}.tar", packed(members, form)) for name, members in train.items()]
    (root / imagenet.TRAIN).write_bytes(packed(inner[1:] + inner[:1], form))
    (root / imagenet.VAL).write_bytes(packed(val_members() if val is None else val, form))
    (root / imagenet.DEVKIT).write_bytes(gzip.compress(packed(kit or devkit(), form)))
    return root


def samples(labels: list[int], first: int = 0) -> Members:
    members: Members = []
    for number, label in enumerate(labels, first):
        members += [(f"s{number:03}.png", picture(label, number)), (f"s{number:03}.cls", str(label).encode())]
    return members


def shard(file: Path, members: Members, form: int = tarfile.PAX_FORMAT) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(packed(members, form))
    return file
