"""Checkpoints: what is written is what is read, and what is damaged is never used."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cconvnet import checkpoint
from cconvnet.checkpoint import Checkpoint, CheckpointError, Folder


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


def test_any_safetensors_reader_opens_it(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    file = tmp_path / "a.safetensors"
    checkpoint.save(file, make())
    assert load_file(file).keys() == make().tensors.keys()


def test_mode_follows_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        checkpoint.save(tmp_path / "a.safetensors", make())
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


# ---- damage --------------------------------------------------------------------------------------------


def check_flips(file: Path, count: int) -> None:
    data = file.read_bytes()
    chance = random.Random(5)
    for _ in range(count):
        damaged = bytearray(data)
        damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=file.name):
            checkpoint.load(file)
    file.write_bytes(data)
    checkpoint.load(file)


def check_truncations(file: Path, lengths: list[int]) -> None:
    data = file.read_bytes()
    for length in lengths:
        file.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=file.name):
            checkpoint.load(file)
    file.write_bytes(data + b"\0")
    with pytest.raises(CheckpointError, match="SHA-256"):
        checkpoint.load(file)


def test_every_byte_is_watched(tmp_path: Path) -> None:
    """A bit is flipped in each byte of the file: length, header, digest, JSON text and tensors."""
    file = tmp_path / "a.safetensors"
    checkpoint.save(file, make())
    data = file.read_bytes()
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"a\.safetensors"):
            checkpoint.load(file)


def test_every_truncation_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    checkpoint.save(file, make())
    check_truncations(file, list(range(len(file.read_bytes()))))


@pytest.mark.long
def test_damage_of_a_larger_file(tmp_path: Path) -> None:
    content = make()
    content.tensors["fc.weight"] = np.random.default_rng(1).normal(size=(500, 800)).astype(np.float32)
    file = tmp_path / "a.safetensors"
    checkpoint.save(file, content)
    check_flips(file, 1000)
    chance = random.Random(6)
    check_truncations(file, [chance.randrange(file.stat().st_size) for _ in range(100)])


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


def test_an_abandoned_course_is_removed(tmp_path: Path) -> None:
    """After going back to step 2 and on to 3, the checkpoint of step 9 is of another course."""
    folder = Folder(tmp_path)
    for step in (2, 9):
        folder.save(make(step))
    folder.save(make(3))
    assert steps(folder) == [2, 3]


def test_side_files_are_never_taken_for_checkpoints(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.save(make(5))
    checkpoint.side_file(folder.file(6)).write_bytes(b"half")
    (tmp_path / "step-mine.safetensors").write_bytes(b"a user's own")
    assert steps(folder) == [5]
    folder.clean()
    assert not checkpoint.side_file(folder.file(6)).exists()
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
from cconvnet.checkpoint import Checkpoint, Folder
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
        process.wait()
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
