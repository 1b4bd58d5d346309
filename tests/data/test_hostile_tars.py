"""Damaged and hostile tars: no member leads out of its archive, and nothing outside is read."""

from __future__ import annotations

import contextlib
import gzip
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.tar_files import (
    CLASSES,
    FORMATS,
    Members,
    check_within,
    make_imagenet,
    member,
    packed,
    picture,
    samples,
    shard,
    told,
    train_members,
    unchanged,
)

from cconvnet import data
from cconvnet.data import DataError, datasets
from cconvnet.data.byte_ranges import ByteRange
from cconvnet.data.datasets import imagenet, tars
from cconvnet.data.images import BrokenImage, read_bytes


def with_header(content: bytes, at: int, **fields: bytes) -> bytes:
    """A tar whose header at `at` has other fields and the sum that belongs to them."""
    places = {"name": 0, "size": 124, "kind": 156, "magic": 257, "prefix": 345, "extended": 482}
    header = bytearray(content[at : at + 512])
    for field, value in fields.items():
        header[places[field] : places[field] + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:at] + bytes(header) + content[at + 512 :]


MEMBERS: dict[str, tuple[tarfile.TarInfo, str]] = {
    "absolute": (member("/etc/passwd.png"), "leads out of the archive"),
    "above": (member("a/../../x.png"), "leads out of the archive"),
    "above on Windows": (member("..\\x.png"), "leads out of the archive"),
    "symbolic link": (member("x.png", tarfile.SYMTYPE, linkname="/etc/passwd"), "a link"),
    "hard link": (member("x.png", tarfile.LNKTYPE, linkname="s000.png"), "a link"),
    "character device": (member("x.png", tarfile.CHRTYPE, devmajor=1, devminor=5), "a device"),
    "block device": (member("x.png", tarfile.BLKTYPE, devmajor=8), "a device"),
    "pipe": (member("x.png", tarfile.FIFOTYPE), "a device"),
    "again": (member("s003.png"), "an earlier member of this name"),
    "another kind": (member("x.png", b"V"), "a member, which is not read"),
    "sparse by pax": (member("x.png", pax_headers={"GNU.sparse.size": "9"}), "a sparse file"),
}


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("kind", ["webdataset", "imagenet"])
def test_a_hostile_member_is_left_out(tmp_path: Path, kind: str, name: str) -> None:
    info, reason = MEMBERS[name]
    contents = b"" if info.type not in (b"0", b"V") else picture(1, 250)
    evil = (info, contents)
    root = tmp_path / "data"
    if kind == "webdataset":
        shard(root / "train.tar", [*samples([0, 1] * 10), evil, *samples([1, 0] * 10, 20)])
        count = 40 - (name == "again")  # its picture may be either
    else:
        train = {name: train_members(label, 20) for label, name in enumerate(CLASSES)}
        if name == "again":
            info = member(f"{CLASSES[1]}_3.JPEG")
        train[CLASSES[1]][7:7] = [(info, contents)]
        make_imagenet(root, train=train, form=tarfile.PAX_FORMAT)
        count = 60
    same = unchanged(tmp_path)
    dataset = datasets.open_dataset(root)
    check_within(dataset)
    (left,) = dataset.train.left_out
    assert reason in left.reason and left.name.isprintable() and info.name in left.name
    source = data.open_source(root, cache_bytes=0)
    images, labels = source.train.read(np.arange(len(source.train)))
    assert len(images) == count and [label for label, _ in told(images)] == labels.tolist()
    assert 250 not in [number for _, number in told(images)]
    assert [skip.file for skip in source.report()] == [left.name]
    assert same()


def test_a_name_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    shard(tmp_path / "train.tar", [*samples([0, 1] * 5), ("\x1b[2Jx.png", b""), ("\x1b[2Jx.cls", b"x")])
    (left,) = datasets.open_dataset(tmp_path).train.left_out
    assert left.name == "train.tar/%1B[2Jx"


def pax_header(records: bytes, size: int | None = None) -> bytes:
    info = member("PaxHeader", tarfile.XHDTYPE, size=len(records) if size is None else size)
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


GOOD = packed(samples([0, 1] * 10), tarfile.USTAR_FORMAT)
DAMAGED = {
    "empty": b"",
    "a text": b"no tar" * 1000,
    "compressed with gzip": gzip.compress(GOOD),
    "a wrong sum": GOOD[:20] + b"x" + GOOD[21:],
    "a wrong sum later": GOOD[:1044] + b"x" + GOOD[1045:],
    "a size beyond the file": with_header(GOOD, 0, size=b"77777777777\0"),
    "a size of 2^95": with_header(GOOD, 0, size=b"\x80" + b"\xff" * 11),
    "a size below zero": with_header(GOOD, 0, size=b"\xff" * 12),
    "a size of -1": with_header(GOOD, 0, size=b"-0000000001\0"),
    "a size of 0x10": with_header(GOOD, 0, size=b"0x10\0"),
    "a size of 1_0": with_header(GOOD, 0, size=b"1_0\0"),
    "a size below zero of what is empty": with_header(member("a.png").tobuf(), 0, size=b"\xff" * 12) + GOOD,
    "a size that hides a header": with_header(GOOD, 0, size=b"%011o\0" % (len(GOOD) - 512)),
    "a long name without end": with_header(GOOD, 0, kind=b"L", size=b"77777777777\0"),
    "a long name of 2 MiB": with_header(GOOD, 0, kind=b"L", size=b"%011o\0" % 2**21) + bytes(2**21),
    "a long name that is cut off": with_header(GOOD[:1024], 0, kind=b"L", size=b"%011o\0" % 4096),
    "records without end": pax_header(b"", 2**30) + GOOD,
    "records of no length": pax_header(b"0 path=x\n") + GOOD,
    "records without numbers": pax_header(b"xx path=x\n") + GOOD,
    "records longer than all": pax_header(b"99 path=x\n") + GOOD,
    "records without =": pax_header(b"10 path+x\n") + GOOD,
    "records that end early": pax_header(b"8 path=x\n") + GOOD,
    "a record of a size below zero": pax_header(b"11 size=-1\n") + GOOD,
    "a record of a huge size": pax_header(b"30 size=99999999999999999999\n") + GOOD,
    "a record of a long size": pax_header(b"110 size=" + b"9" * 100 + b"\n") + GOOD,
    "a sparse file without end": with_header(GOOD, 0, kind=b"S", extended=b"\1") + b"\1" * 1024,
    "one name for all": with_header(pax_header(b"10 path=x\n"), 0, kind=b"g") + GOOD,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_tar_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / "train.tar"
    file.write_bytes(DAMAGED[name])
    with pytest.raises(DataError, match=r"train\.tar") as caught:
        datasets.open_dataset(tmp_path)
    if "gzip" in name:
        assert "compressed with gzip" in str(caught.value) and "gunzip" in str(caught.value)
    if "beyond" in name:
        assert "should have 8,589,934,591 bytes, of which 8,589," in str(caught.value)


@pytest.mark.parametrize("name", ["sound", *DAMAGED])
def test_nothing_outside_a_tar_is_read(name: str) -> None:
    """Not even of the tar that it is in, of which what follows may be a member too."""
    content = DAMAGED.get(name, GOOD)
    whole = b"\x55" * 2048 + content + GOOD
    end = 2048 + len(content)

    def read(offset: int, length: int) -> bytes:
        assert offset >= 2048 and offset + length <= end
        return whole[offset : offset + length]

    found = []
    with contextlib.suppress(DataError):
        for member in tars.members(read, 2048, end, name):
            found.append(member)
            assert member.offset >= 2048 and 0 <= member.size <= end - member.offset
    assert (len(found) == 40) == (name == "sound")


def test_sizes_of_what_has_no_contents(tmp_path: Path) -> None:
    """A link's size says nothing of the tar; nor does one that an extended header overrules."""
    link = with_header(member("x.png", tarfile.SYMTYPE).tobuf(), 0, size=b"77777777777\0")
    (tmp_path / "train.tar").write_bytes(link + GOOD)
    (left,) = datasets.open_dataset(tmp_path).train.left_out
    assert left.name == "train.tar/x.png"
    size = len(samples([0])[0][1])
    record = b"%d size=%d\n" % (len(str(size)) + 9, size)
    for said in (0, 8**11 - 1):
        content = pax_header(record) + with_header(GOOD, 0, size=b"%011o\0" % said)
        (tmp_path / "train.tar").write_bytes(content)
        assert told(data.open_source(tmp_path).train.read([0, 5])[0]) == [(0, 0), (1, 5)]


def test_tars_of_old(tmp_path: Path) -> None:
    """Without a magic word, with a folder that only its slash tells, with sizes in binary and long names."""
    old = with_header(GOOD, 0, magic=bytes(8), kind=b"\0")
    folder = with_header(member("d").tobuf(), 0, name=b"d/", kind=b"\0", magic=bytes(8))
    size = len(samples([0])[0][1])
    binary = with_header(old, 0, size=b"\x80" + struct.pack(">11s", size.to_bytes(11, "big")))
    sparse = with_header(member("x.bin").tobuf(tarfile.GNU_FORMAT), 0, kind=b"S", extended=b"\1") + bytes(512)
    for content in (
        old,
        folder + old,
        binary,
        sparse + old,
        GOOD + b"what comes after the end does not count",
    ):
        (tmp_path / "train.tar").write_bytes(content)
        dataset = datasets.open_dataset(tmp_path)
        check_within(dataset)
        assert dataset.train.labels.tolist() == [0, 1] * 10
        assert told(data.open_source(tmp_path).train.read([0, 5])[0]) == [(0, 0), (1, 5)]
    name = "/".join(["long" * 20] * 5)
    for form in FORMATS[1:]:
        shard(tmp_path / "train.tar", [(f"{name}.png", picture(0, 0)), (f"{name}.cls", b"0")], form)
        assert datasets.open_dataset(tmp_path).train.names == [f"train.tar/{name}"]


def test_walking_finds_what_tarfile_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for number in range(12):
        names = [
            "/".join("ab" * int(rng.integers(1, 40)) for _ in range(rng.integers(1, 5))) for _ in range(9)
        ]
        files: Members = [(f"{n}{i}", rng.bytes(int(rng.integers(0, 1500)))) for i, n in enumerate(names)]
        form = FORMATS[number % 3]
        if form == tarfile.USTAR_FORMAT:
            files = [(str(name)[-90:], content) for name, content in files]
        file = shard(tmp_path / "x.tar", files, form)
        with tars.TarFile(file) as ours, tarfile.open(file) as theirs:
            found = [(m.name, m.offset, m.size) for m in ours.members()]
            assert found == [(m.name, m.offset_data, m.size) for m in theirs.getmembers()]


def check_flips(root: Path, file: Path, content: bytes, headers: list[int], seed: int, count: int) -> None:
    """Each of `count` tars with changed bytes in headers is a dataset within its files, or an error.

    Half of the headers get the sum that belongs to them, or the sum would tell all of them.
    """
    rng = np.random.default_rng(seed)
    found = 0
    for number in range(count):
        bad = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            at = headers[rng.integers(len(headers))]
            for _ in range(rng.integers(1, 4)):
                bad[at + rng.choice([rng.integers(512), rng.integers(124, 157)])] = rng.integers(256)
            if number % 2:
                bad = bytearray(with_header(bytes(bad), at))
        if number % 10 == 0:
            del bad[rng.integers(len(bad)) :]
        file.write_bytes(bad)
        try:
            dataset = datasets.open_dataset(root)
        except DataError as error:
            assert file.name in str(error) or "pictures" in str(error)
            continue
        found += 1
        check_within(dataset)
        for stored in dataset.train.ranges.select(np.arange(len(dataset.train))):  # type: ignore[union-attr]
            try:
                read_bytes(stored)
            except BrokenImage as error:
                assert "empty" in str(error)
    assert 0 < found < count


@pytest.mark.parametrize("kind", ["webdataset", "imagenet"])
@pytest.mark.parametrize(
    ("seed", "count"), [(1, 40), *(pytest.param(s, 100, marks=pytest.mark.long) for s in range(2, 22))]
)
def test_flipped_bytes_in_headers(tmp_path: Path, kind: str, seed: int, count: int) -> None:
    root = tmp_path / "data"
    if kind == "webdataset":
        file = shard(root / "train.tar", samples([0, 1] * 50))
    else:
        train = {name: train_members(label, 20) for label, name in enumerate(CLASSES)}
        file = make_imagenet(root, train=train) / imagenet.TRAIN
    content = file.read_bytes()
    headers = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    assert len(headers) > 60
    check_flips(root, file, content, headers, seed, count)
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_real_photographs_within_their_tar(real: Path) -> None:
    """Read where they lie they are what tarfile unpacks."""
    file = real / "imagenet-100-photos.tar"
    with tars.TarFile(file) as ours, tarfile.open(file) as theirs:
        found, left_out = tars.usable(ours.members(), file.name)
        assert len(found) >= 100 and not left_out
        for name, place in found.items():
            unpacked = theirs.extractfile(name if name in theirs.getnames() else f"./{name}")
            assert unpacked is not None
            assert read_bytes(ByteRange(str(file), place.offset, place.size)) == unpacked.read()
