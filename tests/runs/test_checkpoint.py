"""Checkpoints are read as they were written, and damaged ones are never used."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cconvnet.errors import CheckpointError
from cconvnet.runs import checkpoint
from cconvnet.runs.checkpoint import Checkpoint, Folder, NotFinite
from cconvnet.system.outputs import side_file


def make(step: int = 7, fill: float = 1.5) -> Checkpoint:
    tensors = {
        "conv1.weight": np.full((2, 3, 3, 1), fill, np.float32),
        "conv1.weight.velocity": np.arange(18, dtype=np.float32).reshape(2, 3, 3, 1),
        "conv1.bias": np.array([np.float32(1e-45), -0.0], np.float32),
    }
    return Checkpoint(tensors, {"name": "tiny"}, {"seed": 3, "lr": 0.1}, {"step": step, "sum": 0.1 + 0.2})


def assert_equal(one: Checkpoint, other: Checkpoint) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert tensor.dtype == other.tensors[name].dtype
        assert tensor.shape == other.tensors[name].shape
        assert tensor.tobytes() == other.tensors[name].tobytes()
    assert (one.spec, one.settings, one.progress) == (other.spec, other.settings, other.progress)


def test_round_trip_is_bitwise(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    checkpoint.save(file, make())
    assert_equal(checkpoint.load(file), make())
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_tensor_in_another_order_comes_back_as_it_was(tmp_path: Path) -> None:
    content = make()
    content.tensors["data.colors"] = np.arange(6, dtype=np.float32).reshape(2, 3).T
    checkpoint.save(tmp_path / "a.safetensors", content)
    assert_equal(checkpoint.load(tmp_path / "a.safetensors"), content)


def test_the_file_is_what_safetensors_would_write(tmp_path: Path) -> None:
    """The safetensors library reads a checkpoint, and makes the same bytes of its tensors and metadata."""
    import safetensors.numpy

    content = make()
    content.tensors |= {
        "wide": np.arange(3, dtype=np.float64),
        "half": np.ones((2, 1), np.float16),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 4), np.float32),
        "one": np.array(7, np.int64),
    }
    file = tmp_path / "a.safetensors"
    checkpoint.save(file, content)
    read = safetensors.numpy.load_file(file)
    assert_equal(Checkpoint(read, content.spec, content.settings, content.progress), content)

    ours, length = file.read_bytes(), checkpoint._header_end(file.read_bytes())
    header = json.loads(ours[8:length])
    theirs = safetensors.numpy.save(dict(content.tensors), header["__metadata__"])
    assert len(ours) == len(theirs) and ours[length:] == theirs[length:]
    assert header == json.loads(theirs[8:length])  # the order of the metadata is not theirs to say


def test_tensors_are_written_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a large tensor is not in memory twice, and a mapping may make each tensor on demand."""
    sizes: list[int] = []
    write = os.write

    def noting(descriptor: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", noting)
    content = make()
    content.tensors["fc.weight"] = np.random.default_rng(1).normal(size=(700, 4000)).astype(np.float32)
    checkpoint.save(tmp_path / "a.safetensors", content)
    assert max(sizes) == 1 << 22
    assert_equal(checkpoint.load(tmp_path / "a.safetensors"), content)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_saved(value: float, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.save(make(5))
    bad = make(6)
    bad.tensors["conv1.weight.velocity"][1, 2, 2, 0] = value
    with pytest.raises(NotFinite, match=r"conv1\.weight\.velocity contains values that are not finite"):
        folder.save(bad)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000005.safetensors"]


def test_mode_follows_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        checkpoint.save(tmp_path / "a.safetensors", make())
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


# ---- damage --------------------------------------------------------------------------------------------


def refused(file: Path, damaged: bytes) -> None:
    """A damaged file is never used, and the error names it."""
    file.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=file.name):
        checkpoint.load(file)


def check_damage(path: Path, flips: int, truncations: int) -> None:
    """Damage a folder's newest checkpoint at random; each time the error offers the one before."""
    folder = Folder(path)
    for step in (10, 20):
        content = make(step)
        draws = np.random.default_rng(step).normal(size=(500, 80))
        content.tensors["fc.weight"] = draws.astype(np.float32)
        folder.save(content)
    file, data, chance = folder.file(20), folder.file(20).read_bytes(), random.Random(5)

    def flipped() -> bytes:
        damaged = bytearray(data)
        damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(damaged)

    damages = [flipped() for _ in range(flips)]
    damages += [data[: chance.randrange(len(data))] for _ in range(truncations)]
    for damaged in damages:
        refused(file, damaged)
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load_offering_previous(file)
        assert str(caught.value).endswith(f"the one before it is sound: {folder.file(10)}")
        found, content, skipped = folder.newest()
        assert found == folder.file(10) and content is not None and content.step == 10
        assert len(skipped) == 1 and file.name in skipped[0]
    file.write_bytes(data)
    assert folder.newest()[0] == file


def test_every_byte_is_watched(tmp_path: Path) -> None:
    """A bit is flipped in each byte of the file: length, header, digest, JSON text and tensors."""
    file = tmp_path / "a.safetensors"
    checkpoint.save(file, make())
    data = file.read_bytes()
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        refused(file, damaged)


def test_every_truncation_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    checkpoint.save(file, make())
    data = file.read_bytes()
    for length in range(len(data)):
        refused(file, data[:length])
    refused(file, data + b"\0")


def test_damage(tmp_path: Path) -> None:
    check_damage(tmp_path, flips=100, truncations=20)


@pytest.mark.long
def test_much_damage(tmp_path: Path) -> None:
    check_damage(tmp_path, flips=1000, truncations=100)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*gone"):
        checkpoint.load(tmp_path / "gone.safetensors")


def test_foreign_safetensors_file(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no SHA-256"):
        checkpoint.load(tmp_path / "x.safetensors")


def test_pickle_is_not_read(tmp_path: Path) -> None:
    import pickle

    file = tmp_path / "x.safetensors"
    file.write_bytes(pickle.dumps({"step": 3}))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(file)


def test_the_previous_one_is_offered(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.save(make(step=10))
    folder.save(make(step=20))
    folder.file(20).write_bytes(folder.file(20).read_bytes()[:-1])
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_offering_previous(folder.file(20))
    assert "damaged" in str(caught.value)
    assert str(caught.value).endswith(str(folder.file(10)))
    path, content, skipped = folder.newest()
    assert path == folder.file(10)
    assert content is not None
    assert content.step == 10
    assert len(skipped) == 1
    assert "step-00000020" in skipped[0]


def test_another_network_is_named_by_its_first_tensor(tmp_path: Path) -> None:
    shapes = {name: tensor.shape for name, tensor in make().tensors.items()}
    checkpoint.check_tensors(tmp_path, make().tensors, shapes)
    with pytest.raises(CheckpointError, match=r"conv1\.bias is 2 there and 5 here"):
        checkpoint.check_tensors(tmp_path, make().tensors, {**shapes, "conv1.bias": (5,)})
    with pytest.raises(CheckpointError, match=r"has no fc\.weight, which should be 4x5"):
        checkpoint.check_tensors(tmp_path, make().tensors, {**shapes, "fc.weight": (4, 5)})
    with pytest.raises(CheckpointError, match=r"has conv1\.bias of 2, which this network lacks"):
        checkpoint.check_tensors(
            tmp_path, make().tensors, {n: s for n, s in shapes.items() if n != "conv1.bias"}
        )


# ---- which are kept ------------------------------------------------------------------------------------


def steps(folder: Folder) -> list[int]:
    return [int(file.name[5:13]) for file in folder.files()]


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for step in (1, 2, 3, 4, 5):
        folder.save(make(step), best_step=min(step, 2))
    assert steps(folder) == [2, 4, 5]


@pytest.mark.parametrize(("keep", "kept"), [(1, [3, 9]), (4, [3, 6, 7, 8, 9]), (20, list(range(1, 10)))])
def test_as_many_as_asked_for_are_kept(keep: int, kept: list[int], tmp_path: Path) -> None:
    folder = Folder(tmp_path, keep)
    for step in range(1, 10):
        folder.save(make(step), best_step=min(step, 3))
    assert steps(folder) == kept


def test_later_checkpoints_are_never_removed(tmp_path: Path) -> None:
    """They belong to another course of the run, which training sets aside."""
    folder = Folder(tmp_path, keep=1)
    for step in (2, 9):
        folder.save(make(step))
    assert folder.later(2) == [folder.file(9)]
    folder.save(make(3))
    folder.save(make(4))
    assert steps(folder) == [4, 9]


def test_a_users_own_files_are_no_checkpoints(tmp_path: Path) -> None:
    folder = Folder(tmp_path, keep=1)
    names = ("step-2.safetensors", "step-².safetensors", "step-000000002.safetensors", "step-00000001.bak")
    for name in names:
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / ".cat.jpg.partial").write_bytes(b"mine")
    folder.save(make(7))
    folder.save(make(123_456_789))
    folder.clean()
    assert folder.files() == [folder.file(123_456_789)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*names, ".cat.jpg.partial", "step-123456789.safetensors"]
    )


def test_side_files_are_never_taken_for_checkpoints(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.save(make(5))
    side_file(folder.file(6)).write_bytes(b"half")
    (tmp_path / "step-mine.safetensors").write_bytes(b"a user's own")
    assert steps(folder) == [5]
    folder.clean()
    assert not side_file(folder.file(6)).exists()
    folder.save(make(6))
    folder.save(make(7))
    assert (tmp_path / "step-mine.safetensors").exists()


# ---- full disks and kills ------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_failing_disk_keeps_the_old_file(
    call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path)
    folder.save(make(5, fill=1.0))
    old = folder.file(5).read_bytes()

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path if call == "replace" else os, call, fail)
    for step in (5, 6):
        with pytest.raises(OSError, match=r"MB needed, .* MB free") as caught:
            folder.save(make(step, fill=2.0))
        assert caught.value.errno == code
        assert caught.value.filename == str(folder.file(step))
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000005.safetensors"]
    assert folder.file(5).read_bytes() == old


def test_a_file_system_that_cannot_sync_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def of_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files)
    checkpoint.save(tmp_path / "a.safetensors", make())
    assert_equal(checkpoint.load(tmp_path / "a.safetensors"), make())


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:13]))
    checkpoint.save(tmp_path / "a.safetensors", make())
    assert_equal(checkpoint.load(tmp_path / "a.safetensors"), make())


@pytest.mark.parametrize("small_disk", ["256k"], indirect=True)
def test_full_disk_keeps_the_old_file(small_disk: Path) -> None:
    folder = Folder(small_disk)
    folder.save(make(5))
    large = make(6)
    large.tensors["fc.weight"] = np.zeros((400, 400), np.float32)
    with pytest.raises(OSError, match=r"No space left on device \(0\.6 MB needed, 0\.3 MB free\)"):
        folder.save(large)
    assert [entry.name for entry in small_disk.iterdir()] == ["step-00000005.safetensors"]
    assert_equal(checkpoint.load(folder.file(5)), make(5))


_WRITE_FOREVER = """
import sys
from pathlib import Path
import numpy as np
from cconvnet.runs.checkpoint import Checkpoint, Folder
folder, step = Folder(Path(sys.argv[1])), 0
print("ready", flush=True)
while True:
    step += 1
    tensors = {"w": np.full((300, 300), step, np.float32)}
    folder.save(Checkpoint(tensors, {}, {}, {"step": step}))
"""


def kill_while_saving(folder: Folder, times: int) -> None:
    chance = random.Random(11)
    newest = 0
    for _ in range(times):
        for file in folder.files():
            file.unlink()
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITE_FOREVER, str(folder.path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=200)
        process.stdout.close()
        # Not one file that bears a checkpoint's name may be unsound.
        for file in folder.files():
            content = checkpoint.load(file)
            assert (content.tensors["w"] == content.step).all()
            newest = max(newest, content.step)
        folder.clean()
        assert all(entry in folder.files() for entry in folder.path.iterdir())
    assert newest > 5  # the kills did not all come before the first save


def test_kill_while_saving(tmp_path: Path) -> None:
    kill_while_saving(Folder(tmp_path), times=10)


@pytest.mark.long
def test_many_kills_while_saving(tmp_path: Path) -> None:
    kill_while_saving(Folder(tmp_path), times=200)
