"""Damaged and hostile pictures: decoded, or skipped and counted by name and reason.

Never a crash, a hang, much memory or a label that shifts.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.damaged_pictures import KINDS, damaged, encoded, sized
from PIL import Image

from cconvnet import data
from cconvnet.data import images, splits
from cconvnet.data.byte_ranges import ByteRange
from cconvnet.data.images import BrokenImage, decode_image
from cconvnet.data.workers import DecodePool, Decoding
from cconvnet.errors import DataError

SIZE = 48
# A whole set of them may take this much more of a worker's memory than one picture of the largest allowed.
ROOM = 128 << 20
LARGEST = images.MAX_PIXELS * 3

PICTURES = [
    pytest.param(range(44), id="44"),
    pytest.param(range(1000, 1500), id="500", marks=pytest.mark.long),
]


def outcome(content: bytes, decoder: str) -> tuple[bool, str]:
    """Return True if an image is decoded, else False and the reason."""
    try:
        pixels = decode_image(content, SIZE, decoder)
    except BrokenImage as error:
        return False, str(error)
    assert pixels.shape == (SIZE, SIZE, 3) and pixels.dtype == np.uint8
    return True, ""


def write_set(root: Path, seeds: range) -> dict[str, int]:
    """A damaged picture in front of each of as many good ones, whose colour is (label, number, 7)."""
    good = {}
    for number, seed in enumerate(seeds):
        label = number % 3
        folder = root / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:04d}-a.JPEG").write_bytes(damaged(seed))
        file = folder / f"{number:04d}-b.png"
        Image.new("RGB", (SIZE, SIZE), (label * 80, number % 256, 7)).save(file)
        good[str(file)] = number
    return good


@pytest.mark.parametrize("seeds", PICTURES)
def test_each_is_decoded_or_skipped_and_no_label_shifts(
    tmp_path: Path, seeds: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write_set(tmp_path, seeds)
    source = data.open_source(tmp_path, SIZE, cache_bytes=0)
    split = source.train
    assert len(split) == 2 * len(seeds)
    monkeypatch.setattr(splits, "broken_allowed", lambda count: count)
    with data.Loader(split, 16, shuffle=False, drop_last=False, workers=2) as loader:
        batches = list(loader.epoch(0))
    seen = np.concatenate([batch.indices for batch in batches])
    assert sorted([*seen.tolist(), *split.skipped]) == list(range(len(split)))
    for batch in batches:
        assert np.array_equal(batch.labels, split.labels[batch.indices])
        for index, label, pixels in zip(batch.indices.tolist(), batch.labels, batch.images, strict=True):
            assert Path(split.file(index)).parent.name == f"class{label}"
            if (number := good.get(split.file(index))) is not None:
                assert (pixels == (label * 80, number % 256, 7)).all()
    # A good picture is never skipped; of the others are those that cannot be decoded, with the reason.
    report = {skip.file: skip.reason for skip in source.report()}
    assert not report.keys() & good.keys()
    decoder = images.default_decoder()
    for index in range(len(split)):
        file = split.file(index)
        content = Path(file).read_bytes()
        decoded, reason = outcome(content, decoder) if content else (False, "the file is empty")
        assert report.get(file, "") == reason and decoded == (file not in report)
    kinds = Counter(report[file] for file in report)
    assert len(seeds) // 3 < len(report) < len(seeds) and len(kinds) > 8

    monkeypatch.undo()
    with (
        data.Loader(data.open_source(tmp_path, SIZE, cache_bytes=0).train, 16, workers=2) as loader,
        pytest.raises(DataError, match=r"images are broken; remove or replace them:\n.*-a\.JPEG: \w"),
    ):
        list(loader.epoch(0))


@pytest.mark.skipif(images.simplejpeg is None, reason="simplejpeg is not installed")
@pytest.mark.parametrize("seeds", PICTURES)
def test_decoders_agree_on_what_is_broken(seeds: range) -> None:
    for seed in seeds:
        content = damaged(seed)
        results = [outcome(content, decoder)[0] for decoder in images.DECODERS]
        assert results[0] == results[1], f"damaged({seed})"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
@pytest.mark.parametrize("seeds", PICTURES)
def test_they_take_no_time_and_memory(tmp_path: Path, seeds: range) -> None:
    """In a worker, whose largest memory so far the system knows."""
    files = []
    for seed in seeds:
        files.append(tmp_path / f"{seed}.JPEG")
        files[-1].write_bytes(damaged(seed))
    decoding = Decoding(SIZE, (SIZE, SIZE, 3), images.default_decoder())
    with DecodePool(decoding, 1) as pool:
        out = np.zeros((len(files), SIZE, SIZE, 3), np.uint8)
        small = tmp_path / "small.png"
        Image.new("RGB", (9, 9)).save(small)
        pool.submit([ByteRange(str(small))], out[:1])[0].result(timeout=60)
        before = most_memory(pool.pids[0])
        for future in pool.submit([ByteRange(str(file)) for file in files], out):
            future.result(timeout=120)  # a hang, not slowness
        assert most_memory(pool.pids[0]) - before < LARGEST + ROOM


def most_memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("decoder", images.DECODERS)
def test_a_picture_of_thousands_of_scans_is_refused_at_once(decoder: str) -> None:
    """libjpeg would go over all 64 million pixels for each."""
    seed = next(seed for seed in range(len(KINDS)) if KINDS[seed].__name__ == "_many_scans")
    decoded, reason = outcome(sized(damaged(seed), 8192, 8192), decoder)
    assert not decoded and "scans, more than 100" in reason


def test_what_stands_before_a_picture_is_not_counted_among_its_scans() -> None:
    content = encoded(Image.new("RGB", (30, 20)), "JPEG")
    segment = b"Exif\0\0" + b"\xff\xda" * 200
    marker = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment
    for decoder in images.DECODERS:
        assert outcome(content[:2] + marker + content[2:], decoder) == (True, "")


def test_progressive_pictures_of_all_scripts_have_few_scans() -> None:
    chance = np.random.default_rng(1)
    for mode, quality in (("RGB", 95), ("L", 40), ("CMYK", 75)):
        image = Image.fromarray(chance.integers(0, 256, (200, 300, 3), np.uint8)).convert(mode)
        content = encoded(image, "JPEG", quality=quality, progressive=True)
        assert 1 < content.count(b"\xff\xda") <= 20
        assert outcome(content, images.default_decoder())[0]


def test_seeds_are_what_they_were() -> None:
    """A failure is repeated by its seed."""
    assert damaged(9) == damaged(9) != damaged(9 + len(KINDS))
