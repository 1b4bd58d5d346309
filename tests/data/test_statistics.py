"""Statistics of pictures: computed once, saved beside them, never used for other pictures."""

from __future__ import annotations

import errno
import io
import os
import random
from pathlib import Path

import numpy as np
import pytest
from helpers.flat_pictures import CLASSES, encode, make_pictures
from PIL import Image

from cconvnet import data
from cconvnet.data import statistics
from cconvnet.data.color_noise import color_components
from cconvnet.data.statistics import Statistics, fingerprint, gather, statistics_file


@pytest.fixture
def gathered(tmp_path: Path) -> Path:
    """A folder of pictures beside which both statistics are kept."""
    make_pictures(tmp_path / "train", dict.fromkeys(CLASSES, 9), (5, 4))
    said: list[str] = []
    found = gather(data.open_source(tmp_path), colors=True, say=said.append)
    assert said == [f"data: statistics of the pictures are saved in {tmp_path / '.cconvnet-5x4x3.npz'}"]
    assert found.mean is not None and found.colors is not None
    return tmp_path


def computed_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, **asked: bool
) -> tuple[Statistics, list[str]]:
    """The statistics of a folder and which of them had to be computed."""
    made: list[str] = []
    with monkeypatch.context() as patch:
        for name in ("mean_image", "color_components"):
            compute = getattr(statistics, name)
            patch.setattr(
                statistics, name, lambda *a, name=name, compute=compute: made.append(name) or compute(*a)
            )
        return gather(data.open_source(root), **asked), made


def test_statistics_are_computed_once(gathered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = (entry for entry in gathered.iterdir() if entry.is_file())
    assert file.name == ".cconvnet-5x4x3.npz"
    said: list[str] = []
    source = data.open_source(gathered)
    gather(source, say=said.append)
    assert said == [f"data: statistics of the pictures are read from {file}"]
    found, made = computed_again(gathered, monkeypatch, colors=True)
    assert made == []
    assert found.mean is not None and found.mean.tobytes() == data.mean_image(source.train).tobytes()
    assert found.colors is not None and found.colors.tobytes() == color_components(source.train).tobytes()
    # Streamed or in memory, the pictures are the same.
    assert fingerprint(data.open_source(gathered, cache_bytes=0)) == fingerprint(source)


def test_only_what_is_missing_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pictures(tmp_path / "train", dict.fromkeys(CLASSES, 9))
    assert computed_again(tmp_path, monkeypatch)[1] == ["mean_image"]
    assert computed_again(tmp_path, monkeypatch, colors=True)[1] == ["color_components"]
    assert computed_again(tmp_path, monkeypatch, colors=True)[1] == []


@pytest.mark.parametrize(
    "change", ["other pixels", "one more", "one less", "another name", "another class", "another decoder"]
)
def test_statistics_of_other_pictures_are_not_used(
    gathered: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = gathered / "train" / CLASSES[0] / "0000.png"
    content = file.read_bytes()
    if change == "other pixels":
        status = file.stat()
        file.write_bytes(encode(Image.new("RGB", (4, 5), (99, 0, 7))))
        assert file.stat().st_size == status.st_size  # so that it is told by its time alone
    elif change == "one more":
        (file.parent / "more.png").write_bytes(content)
    elif change == "one less":
        file.unlink()
    elif change == "another name":
        file.rename(file.parent / "another.png")
    elif change == "another class":
        file.rename(gathered / "train" / CLASSES[1] / "9999.png")
    else:
        monkeypatch.setattr("cconvnet.data.sources.describe_decoder", lambda decoder: "another 1.0")
    _, made = computed_again(gathered, monkeypatch, colors=True)
    assert made == ["mean_image", "color_components"]
    assert computed_again(gathered, monkeypatch, colors=True)[1] == []


def test_a_size_of_its_own_has_a_file_of_its_own(gathered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gather(data.open_source(gathered, 3))
    assert {file.name for file in gathered.iterdir() if file.is_file()} == {
        ".cconvnet-5x4x3.npz",
        ".cconvnet-3x3x3.npz",
    }
    assert computed_again(gathered, monkeypatch)[1] == []


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped", "shape", "nan"])
def test_damaged_statistics_are_computed_again(
    gathered: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = gathered / ".cconvnet-5x4x3.npz"
    content = bytearray(file.read_bytes())
    with np.load(file) as arrays:
        values = dict(arrays)
    if damage == "flipped":
        at = content.index(values["mean"].tobytes())
        content[at + 5] ^= 1
    elif damage in ("shape", "nan"):
        values["mean"] = values["mean"][:-1] if damage == "shape" else values["mean"] * np.float32(np.nan)
        buffer = io.BytesIO()
        np.savez(buffer, **values)
        content = bytearray(buffer.getvalue())
    else:
        content = {"cut": content[:-30], "empty": bytearray(), "text": bytearray(b"mean")}[damage]
    file.write_bytes(content)
    found, made = computed_again(gathered, monkeypatch)
    assert made == ["mean_image"]
    assert found.mean is not None
    assert found.mean.tobytes() == data.mean_image(data.open_source(gathered).train).tobytes()


def test_no_damage_to_statistics_is_believed_or_stops_a_run(gathered: Path) -> None:
    file = gathered / ".cconvnet-5x4x3.npz"
    content, source = file.read_bytes(), data.open_source(gathered)
    expected, chance = gather(source, colors=True), random.Random(5)
    for _ in range(500):
        damaged = bytearray(content)
        for _ in range(chance.choice([1, 1, 3])):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        found = gather(source, colors=True)
        assert found.mean is not None and expected.mean is not None
        assert found.colors is not None and expected.colors is not None
        assert found.mean.tobytes() == expected.mean.tobytes()
        assert found.colors.tobytes() == expected.colors.tobytes()


def test_a_folder_that_moves_keeps_its_statistics(gathered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = gathered.rename(gathered.with_name("moved"))
    assert computed_again(moved, monkeypatch, colors=True)[1] == []


def test_statistics_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pictures(tmp_path / "train", dict.fromkeys(CLASSES, 3))
    error = OSError(errno.EROFS, os.strerror(errno.EROFS))

    def refuse(path: Path, pieces: object) -> None:
        raise error

    monkeypatch.setattr(statistics, "write_output", refuse)
    said: list[str] = []
    found = gather(data.open_source(tmp_path), say=said.append)
    assert found.mean is not None
    assert said == [
        f"data: statistics of the pictures are saved in the run only: {tmp_path / '.cconvnet-6x6x3.npz'}: "
        "Read-only file system"
    ]


def test_statistics_of_arrays_are_not_kept() -> None:
    found = gather(data.open_source(), colors=True)
    assert statistics_file(data.open_source()) is None
    assert found.mean is not None and found.colors is not None and found.colors.shape == (1, 1)
