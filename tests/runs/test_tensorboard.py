"""TensorBoard reads the values of a run's log, also after stops and resumes."""

from __future__ import annotations

import errno
import io
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cconvnet import evaluate, runs
from cconvnet.console import Silent
from cconvnet.runs import tensorboard
from cconvnet.runs.tensorboard import FOLDER, EventFile, scalars, tiled
from cconvnet.system.installation import pip_install
from cconvnet.training.options import Options
from cconvnet.training.session import train

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw filters however short epochs are."""
    monkeypatch.setattr(tensorboard, "_TIME_PER_PICTURE", 0)


def trained(run: Path, **options: Any) -> Path:
    """Begin a run, or resume it if there is one."""
    where = {"resume" if run.exists() else "out": run}
    wanted = {"devices": ["cpu:0"], "epochs": 4, "log_every": 5, "tensorboard": True, **where, **options}
    train(Options(**wanted), Silent(io.StringIO()))
    return run


def read(run: Path) -> Any:
    """Read an event file with TensorBoard's own reader, without sampling."""
    events = accumulator.EventAccumulator(
        str(run / FOLDER), size_guidance={accumulator.SCALARS: 0, accumulator.IMAGES: 0}
    )
    return events.Reload()


def shown(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = read(run)
    return {
        chart: [(event.step, event.value) for event in events.Scalars(chart)]
        for chart in events.Tags()["scalars"]
    }


def logged(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the log's values in TensorBoard's precision."""
    charts: dict[str, list[tuple[int, float]]] = {}
    for line in runs.read_log(run):
        for chart, value in scalars(line).items():
            charts.setdefault(chart, []).append((line["step"], float(np.float32(value))))
    return charts


def test_every_value_of_the_log_is_there(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", lr_scale={"conv1": 0.5})
    assert shown(run) == logged(run)
    assert set(logged(run)) >= {
        "loss/steps",
        "loss/training",
        "loss/test",
        "error_top1/steps",
        "error_top1/training",
        "error_top1/test",
        "error_top5/test",
        "lr/general",
        "lr/conv1.weight",
        "speed/images_per_second",
    }
    assert len(logged(run)["loss/test"]) == 4
    assert len(logged(run)["loss/steps"]) == 88 // 5


def test_the_first_filters_are_drawn_at_every_epoch(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", epochs=2)
    images = read(run).Images("filters/conv1")
    assert [image.step for image in images] == [22, 44]
    _, checkpoint, _ = runs.find_checkpoint(run)
    tensors = evaluate.network_tensors(checkpoint)
    picture = np.asarray(Image.open(io.BytesIO(images[-1].encoded_image_string)))
    assert (images[-1].height, images[-1].width) == picture.shape
    np.testing.assert_array_equal(picture, tiled(tensors["conv1.weight"])[:, :, 0])


def test_epochs_that_are_short_are_not_all_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(tensorboard, "_TIME_PER_PICTURE", 10)
    monkeypatch.setattr(tensorboard.time, "perf_counter", lambda: now[0])

    def filters() -> tuple[str, np.ndarray[Any, Any]]:
        now[0] += 1  # what a picture takes
        return "conv1", np.zeros((2, 3, 3, 1), np.float32)

    events = EventFile(tmp_path, [], 0, filters)
    for epoch in range(1, 31):
        events.log({"step": epoch, "epoch": epoch, "test_loss": 1.0})
        now[0] += 4
    events.close()
    # At 10 seconds for each second of drawing the first that may be is the third after the last.
    assert [image.step for image in read(tmp_path).Images("filters/conv1")] == list(range(1, 31, 3))
    assert len(shown(tmp_path)["loss/test"]) == 30


@pytest.mark.parametrize("stop", [7, 22, 31])
def test_a_resumed_run_shows_one_course(tmp_path: Path, stop: int) -> None:
    """The second session begins at the first one's checkpoint, and later values are withdrawn."""
    out = tmp_path / "run"
    trained(out, steps=stop)
    kept = (out / "checkpoints" / f"step-{stop:08d}.safetensors").read_bytes()
    trained(out, steps=60)
    assert max(step for step, _ in shown(out)["loss/steps"]) == 60
    for file in (out / "checkpoints").iterdir():
        file.unlink()
    (out / "checkpoints" / f"step-{stop:08d}.safetensors").write_bytes(kept)
    trained(out, steps=50)
    assert max(step for step, _ in shown(out)["loss/steps"]) == 50
    trained(out)
    assert shown(out) == logged(out)
    assert [image.step for image in read(out).Images("filters/conv1")] == [22, 44, 66, 88]
    assert len(list((out / FOLDER).iterdir())) == 4


def test_a_run_that_gets_it_later_shows_its_past(tmp_path: Path) -> None:
    out = tmp_path / "run"
    trained(out, steps=30, tensorboard=False)
    assert not (out / FOLDER).exists()
    trained(out)
    assert shown(out) == logged(out)
    assert [image.step for image in read(out).Images("filters/conv1")] == [44, 66, 88]


def test_a_record_cut_short_hides_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "run"
    trained(out, steps=30)
    (file,) = (out / FOLDER).iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    trained(out)
    assert shown(out) == logged(out)


def test_lines_of_other_kinds_show_nothing(tmp_path: Path) -> None:
    tmp_path.mkdir(exist_ok=True)
    events = EventFile(tmp_path, [], 0, lambda: None)
    before = events.path.stat().st_size
    events.log({"step": 3, "epoch": 0.1, "checkpoint": "a", "seconds": 1.0})
    assert events.path.stat().st_size == before
    events.log({"step": 3, "epoch": 0.1, "loss": 1.0})
    events.close()
    assert shown(tmp_path) == {"loss/steps": [(3, 1.0)]}


def test_large_steps(tmp_path: Path) -> None:
    events = EventFile(tmp_path, [], 0, lambda: None)
    for step in (127, 128, 300_000_000, 2**40):
        events.log({"step": step, "loss": math.pi})
    events.close()
    assert [step for step, _ in shown(tmp_path)["loss/steps"]] == [127, 128, 300_000_000, 2**40]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    """A file that may not grow is like a full disk."""
    code = f"""
import resource, signal
from pathlib import Path
from cconvnet.runs.tensorboard import EventFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
events = EventFile(Path({str(tmp_path)!r}), [], 0, lambda: None)
try:
    for step in range(100):
        events.log({{"step": step, "loss": 1.0}})
except OSError as error:
    print(error.errno, error.filename)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200
    )
    (file,) = (tmp_path / FOLDER).iterdir()
    assert done.stdout.strip() in (f"{errno.EFBIG} {file}", f"{errno.ENOSPC} {file}")


def test_without_tensorboard_it_is_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "__init__.py").write_text("raise ImportError('none here')")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", "cconvnet", "train", "--tensorboard", "--out", tmp_path / "run"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        timeout=200,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: --tensorboard needs TensorBoard, which is missing: {pip_install('tensorboard')}\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_run_without_it_does_not_look_for_it() -> None:
    code = (
        "import sys, cconvnet.training.session; print('tensorboard' in sys.modules, 'google' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200
    )
    assert done.stdout == "False False\n"


def test_filters_are_tiled_each_in_its_own_range() -> None:
    weights = np.arange(5 * 2 * 3 * 1, dtype=np.float32).reshape(5, 2, 3, 1)
    sheet = tiled(weights)
    pixel = tensorboard._FILTER_PIXELS
    assert sheet.shape == (pixel * (2 * 3 - 1), pixel * (3 * 4 - 1), 1)  # two rows of three
    first = sheet[: pixel * 2 : pixel, : pixel * 3 : pixel, 0]
    np.testing.assert_array_equal(first, np.round(np.linspace(0, 255, 6)).reshape(2, 3))
    assert not sheet[pixel * 3 :, pixel * 8 :].any()  # the place of a sixth
