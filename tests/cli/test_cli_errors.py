"""Errors of the command line: one clear line without a traceback, and the exit code."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.commands import pictures, refuse, run

from cconvnet import cli
from cconvnet.errors import CudaError


def test_unknown_command() -> None:
    assert "Did you mean 'train'" in refuse("trian")


def test_unknown_option() -> None:
    text = refuse("train", "--bacth", 3)
    assert "--bacth" in text
    assert "see `cconvnet train --help`" in text


def test_unknown_network() -> None:
    text = refuse("train", "--net", "alexnett")
    assert "not 'alexnett'" in text
    assert "did you mean 'alexnet'?" in text


def test_missing_data() -> None:
    assert "there is no /nowhere/at/all" in refuse("train", "--data", "/nowhere/at/all")


def test_empty_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = refuse("train", "--data", tmp_path / "empty")
    assert f"{tmp_path / 'empty'} has no class folders with pictures" in text


def test_class_folders_that_differ(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data", "train/cat", "train/dog", "test/cat", "test/wolf")
    text = refuse("train", "--data", root)
    assert "dog" in text
    assert "wolf" in text


def test_wrong_device_name() -> None:
    assert "device must be cuda:N, cpu:N or emulator:N, not 'gpu:0'" in refuse("train", "--device", "gpu:0")


def test_absent_gpu() -> None:
    """Number 99 does not exist even on a machine with GPUs."""
    text = refuse("train", "--device", "cuda:99")
    assert re.search("CuPy|no usable NVIDIA GPU|there is no cuda:99|without its cuda module", text)


def test_precision_that_is_not_there() -> None:
    assert "--precision must be one of fp32, fp32x3, tf32, bf16, not 'fp8'" in refuse(
        "train", "--precision", "fp8"
    )
    text = refuse("train", "--precision", "tf32", "--device", "cpu:0")
    assert "precision tf32 is not for cpu:0: a GPU of compute capability 8.0" in text
    assert "emulator:0 can" in text


def test_batch_larger_than_the_data() -> None:
    text = refuse("train", "--batch", 5000)
    assert "--batch 5,000 is larger than the 1,442 training images of digits" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--batch", 0), "--batch must be at least 1, not 0"),
        (("--epochs", 0), "--epochs must be at least 1, not 0"),
        (("--epochs", 1.5), "--epochs"),
        (("--seed", -1), "--seed must be at least 0, not -1"),
        (("--lr", "nan"), "--lr must be above 0, not nan"),
        (("--size", -3), "--size must be at least 1, not -3"),
        (("--log-every", 0), "--log-every must be at least 1, not 0"),
    ],
)
def test_numbers_out_of_range(arguments: tuple[object, ...], words: str) -> None:
    assert words in refuse("train", *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--lr-plateau", 0), "--lr-plateau must be a number of epochs from 1 on, or none, not '0'"),
        (("--lr-scale", "conv1"), "--lr-scale must be like conv1=0.1,fc8=2, with factors from 0 on, not"),
        (("--freeze", "conv9"), "a layer must be one of conv1, conv2, fc1, fc2, not 'conv9'; did you mean"),
        (("--color-noise", -1), "--color-noise must be at least 0, not -1.0"),
    ],
)
def test_recipes_that_cannot_be(arguments: tuple[object, ...], words: str, tmp_path: Path) -> None:
    assert words in refuse("train", *arguments, "--device", "cpu:0", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_not_written_over(trained: Path) -> None:
    assert f"resume it with --resume {trained}" in refuse("train", "--out", trained)


def test_missing_run(tmp_path: Path) -> None:
    for command in (
        ("train", "--resume"),
        ("evaluate", "--run"),
        ("plot",),
        ("plot", "filters"),
        ("report",),
    ):
        assert str(tmp_path / "gone") in refuse(*command, tmp_path / "gone")


def test_damaged_checkpoint(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints" / "step-00000022.safetensors"
    file.parent.mkdir()
    data = bytearray((trained / "checkpoints" / file.name).read_bytes())
    data[5000] ^= 1
    file.write_bytes(data)
    text = refuse("evaluate", "--run", file)
    assert f"checkpoint {file} is damaged: its SHA-256 is not the one it was written with" in text


def test_checkpoint_of_another_network(trained: Path) -> None:
    text = refuse("train", "--resume", trained, "--net", "cifar-quick", "--device", "cpu:0")
    assert "is of another network: conv1.weight is 20x5x5x1 there and 32x5x5x1 here" in text


def test_data_of_other_classes(trained: Path, tmp_path: Path) -> None:
    root = pictures(tmp_path / "data", "train/cat", "train/dog", "test/cat", "test/dog")
    text = refuse("evaluate", "--run", trained, "--data", root, "--device", "cpu:0")
    assert "it has 2 classes, the network 10" in text


def test_picture_that_is_none(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    text = refuse("predict", "--run", trained, tmp_path / "text.jpg", "--device", "cpu:0")
    assert "text.jpg is not a readable JPEG or PNG" in text
    text = refuse("predict", "--run", trained, tmp_path / "gone.jpg", "--device", "cpu:0")
    assert "gone.jpg cannot be read: No such file or directory" in text


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "locked"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    # Modes do not bind root; a read-only file system does.
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False, timeout=200)
    if done.returncode:
        pytest.skip(f"no read-only folder can be made here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=200)


def test_read_only_folder(read_only: Path) -> None:
    text = refuse("train", "--device", "cpu:0", "--out", read_only / "run", code=1)
    assert re.search(f"error: {read_only / 'run'}: (Permission denied|Read-only file system)", text)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in refuse("train", "--device", "cpu:0", "--out", tmp_path / "file", code=1)


def test_exploding_loss(tmp_path: Path) -> None:
    text = refuse("train", "--device", "cpu:0", "--lr", "1e30", "--out", tmp_path / "run", code=1)
    assert re.search(r"the loss is (nan|inf) at step \d+", text)
    assert f"with a lower rate: cconvnet train --resume {tmp_path / 'run'} --lr 1e+29" in text


def test_debug_shows_the_traceback() -> None:
    done = run("train", "--net", "alexnett", CCONVNET_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "did you mean 'alexnet'?" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (CudaError("cudaMalloc failed in x.cu:3"), 1, "error: cudaMalloc failed in x.cu:3"),
        (MemoryError("64 GB"), 1, "error: not enough memory (64 GB); a smaller --batch needs less"),
        (OSError(errno.EIO, "Input/output error", "/x"), 1, "error: /x: Input/output error"),
    ],
)
def test_failures_of_the_machine(
    error: Exception,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from cconvnet import doctor

    def fail() -> None:
        raise error

    monkeypatch.setattr(doctor, "examine", fail)
    monkeypatch.setattr(sys, "argv", ["cconvnet", "doctor"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == code
    assert capsys.readouterr().err.strip() == words


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from cconvnet import doctor

    monkeypatch.setattr(doctor, "examine", lambda: [][0])
    monkeypatch.setattr(sys, "argv", ["cconvnet", "doctor"])
    with pytest.raises(IndexError):
        cli.main()
