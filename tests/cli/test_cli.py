"""The command as a user types it: what it prints, what it writes, how it says what is wrong."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.commands import run
from PIL import Image

from cconvnet import cli, nets
from cconvnet.errors import CudaError, DeviceUnavailable
from cconvnet.runs.checkpoint import Folder

COMMANDS = [
    "train",
    "evaluate",
    "predict",
    "runs",
    "compare",
    "describe",
    "gradcheck",
    "export",
    "plot curve",
    "plot filters",
    "plot predictions",
    "plot activations",
    "report",
    "plot timeline",
    "augment",
    "doctor",
    "import",
    "data get",
    "bench",
    "bench checkpoint",
    "bench kernels",
    "bench step",
    "bench roofline",
    "bench scaling",
    "data prepare",
    "data inspect",
    "data verify",
    "bench data",
]


def succeed(*arguments: object) -> str:
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refuse(*arguments: object, code: int = 2) -> str:
    """Runs a command that must fail with a line or two on standard error; returns them."""
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs."""
    path = tmp_path_factory.mktemp("cli") / "run"
    succeed("train", "--device", "cpu:0", "--epochs", 2, "--lr", 0.05, "--out", path)
    return path


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    """A picture of an 0."""
    from cconvnet.data import digits

    file = tmp_path / "zero.png"
    Image.fromarray(digits.load()[0][0, :, :, 0]).save(file)
    return file


def pictures(root: Path, *folders: str, count: int = 2) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (90 * index, 0, 0)).save(root / folder / f"{index}.png")
    return root


# ---- output ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("output", "said"), [("pipe", ""), ("/dev/full", "No space left on device")])
def test_output_that_nobody_takes(output: str, said: str) -> None:
    if output == "pipe":
        ours, theirs = os.pipe()
        os.close(ours)
    else:
        theirs = os.open(output, os.O_WRONLY)
    for command in (["doctor"], ["describe"], ["train", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "cconvnet", *command],
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=200,
        )
        assert done.returncode == 1
        assert done.stderr == (said and f"error: standard output: {said}\n")
    os.close(theirs)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(tmp_path: Path, closed: str) -> None:
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    out = tmp_path / "run"
    for command in (["runs", tmp_path], ["train", "--device", "cpu:0", "--steps", "3", "--out", out]):
        line = shlex.join([sys.executable, "-m", "cconvnet", *map(str, command)])
        done = subprocess.run(
            ["sh", "-c", f"{line} {closed}"], capture_output=True, text=True, check=False, timeout=200
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_names_that_a_terminal_has_no_letters_for(tmp_path: Path) -> None:
    (tmp_path / "über" / "checkpoints").mkdir(parents=True)
    done = run("runs", tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xfcber" in done.stdout


# ---- help ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_what_and_how(command: str) -> None:
    text = succeed(*command.split(), "--help")
    assert f"Usage: cconvnet {command}" in text
    if command != "bench":
        assert "Example" in text
        assert f"cconvnet {command}" in text.split("Example")[1]


def test_help_lists_every_network() -> None:
    text = succeed("train", "--help")
    assert all(name in text for name in nets.NAMES)


def test_without_a_command_there_is_help() -> None:
    text = succeed()
    assert all(command.split()[0] in text for command in COMMANDS)


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; import cconvnet.cli; print(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200
    )
    assert not {"numpy", "PIL", "matplotlib", "cupy", "safetensors"} & set(done.stdout.split())


def test_version() -> None:
    assert re.fullmatch(r"cconvnet \d+\.\d+\.\d+\n", succeed("--version"))


# ---- what works ------------------------------------------------------------------------------------------


def test_train_says_results_and_where_the_files_are(tmp_path: Path) -> None:
    output = succeed("train", "--device", "cpu:0", "--epochs", 1, "--out", tmp_path / "run")
    lines = output.splitlines()
    assert lines[0].startswith("device: cpu:0: ")
    assert re.fullmatch(
        r"test error [\d.]+%, top 5 [\d.]+%, [\d,]+ images/s on cpu:0, 22 steps in [\d.]+ s", lines[-2]
    )
    assert lines[-1] == f"files: {tmp_path / 'run'}"


def test_bench_data_says_what_limits(tmp_path: Path) -> None:
    files = tmp_path / "data.json", tmp_path / "data.png"
    output = succeed(
        *("bench", "data", "--device", "cpu:0", "--seconds", 0.1, "--no-peer"),
        *("--json", files[0], "--plot", files[1]),
    )
    assert "digits: " in output and "limits: " in output
    result = json.loads(files[0].read_text())
    assert result["what"] == "data" and {row["stage"] for row in result["rows"]} >= {
        "decode",
        "load",
        "train",
    }
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert "there is no /nowhere" in refuse("bench", "data", "--data", "/nowhere", "--device", "cpu:0")
    assert "--workers must be at least 0" in refuse("bench", "data", "--workers", -1, "--device", "cpu:0")


def test_train_names_its_folder_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cconvnet", "train", "--device", "cpu:0", "--steps", "1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])},
        timeout=200,
    )
    (path,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"lenet-digits-\d{8}-\d{6}", path.name)
    assert f"to go on: cconvnet train --resume runs/{path.name}" in done.stdout


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "cconvnet",
            "train",
            "--device",
            "cpu:0",
            "--steps",
            "8",
            "--out",
            tmp_path / "r",
        ],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError as error:
            # So Linux says that the other side has closed the terminal.
            assert error.errno == errno.EIO
            break
        if not part:
            break
        shown += part
    assert process.wait(timeout=200) == 0
    assert "epoch 1/" in shown.decode()
    assert "images/s" in shown.decode()
    assert "\x1b[?25l" not in shown.decode()  # the cursor was never hidden


def test_evaluate_agrees_with_the_run(trained: Path, tmp_path: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    shown = succeed("evaluate", "--run", trained, "--json", tmp_path / "result.json", "--device", "cpu:0")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["test_error_top1"] == summary["test_error_top1"]
    assert result["images"] == 355
    assert f"top-1 error {100 * summary['test_error_top1']:.2f}%" in shown
    best = json.loads(run("evaluate", "--run", trained, "--best", "--json", "-").stdout)
    assert best["test_error_top1"] == summary["best"]["test_error_top1"]
    assert best["checkpoint"].endswith(summary["best"]["checkpoint"])


def test_evaluate_takes_a_checkpoint(trained: Path) -> None:
    first = Folder(trained / "checkpoints").files()[0]
    assert str(first) in succeed("evaluate", "--run", first, "--device", "cpu:0")


def test_evaluate_averages_runs(trained: Path, tmp_path: Path) -> None:
    first = Folder(trained / "checkpoints").files()[0]
    runs = ("--run", trained, "--run", first)
    shown = succeed("evaluate", *runs, "--json", tmp_path / "both.json", "--device", "cpu:0")
    lines = [line for line in shown.splitlines() if "top-1" in line]
    assert len(lines) == 3
    assert str(first) in lines[1]
    assert "digits, 355 test images, average of 2 networks: top-1 error" in lines[2]
    both = json.loads((tmp_path / "both.json").read_text())
    one = json.loads(run("evaluate", "--run", trained, "--json", "-").stdout)
    assert [Path(member["checkpoint"]).name for member in both["members"]] == [
        Path(one["checkpoint"]).name,
        first.name,
    ]
    assert both["members"][0]["test_error_top1"] == one["test_error_top1"]
    assert (both["images"], both["data"]) == (355, "digits")
    assert f"top-1 error {100 * both['test_error_top1']:.2f}%" in lines[2]


def test_views(trained: Path, digit: Path) -> None:
    """Nothing is cropped from the digits, so the ten views are two."""
    shown = succeed("evaluate", "--run", trained, "--views", "ten", "--device", "cpu:0")
    assert "355 test images, 2 views, " in shown
    assert "1 view, " in succeed("evaluate", "--run", trained, "--device", "cpu:0")
    text = "--views must be one of center, ten, not 'centre'; did you mean 'center'?"
    assert text in refuse("evaluate", "--run", trained, "--views", "centre")
    assert text in refuse("predict", "--run", trained, digit, "--views", "centre", "--device", "cpu:0")
    assert "zero.png" in succeed("predict", "--run", trained, digit, "--views", "ten", "--device", "cpu:0")


def test_predict_shows_a_table(trained: Path, digit: Path) -> None:
    text = succeed("predict", "--run", trained, digit, "--top", 3, "--device", "cpu:0")
    rows = [line for line in text.splitlines() if "%" in line]
    assert len(rows) == 3
    assert "zero.png" in rows[0]
    assert rows[0].split("│")[2].strip() == "0"
    done = json.loads(run("predict", "--run", trained, digit, "--json", "-").stdout)
    assert done[0]["classes"][0]["class"] == "0"
    assert len(done[0]["classes"]) == 5


def test_pictures_that_cannot_be_read_do_not_stop_the_others(
    trained: Path, digit: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.png").write_bytes(digit.read_bytes()[:90])
    bad = [tmp_path / "empty.jpg", tmp_path / "gone.png", tmp_path, tmp_path / "cut.png"]
    given = [bad[0], *[digit] * 40, bad[1], bad[2], *[digit] * 40, bad[3], digit]  # more than a batch
    done = run("predict", "--run", trained, *given, "--device", "cpu:0", "--top", 2, "--json", "-")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert all(line.startswith(f"error: {path} ") for line, path in zip(lines, bad, strict=True))
    found = json.loads(done.stdout)
    assert [one["picture"] for one in found] == list(map(str, given))
    for one, path in zip(found, given, strict=True):
        if path in bad:
            assert set(one) == {"picture", "error"} and str(path) in one["error"]
        else:
            assert one["classes"][0]["class"] == "0" and one["classes"] == found[1]["classes"]
    done = run("predict", "--run", trained, bad[0], digit, "--device", "cpu:0", COLUMNS="300")
    assert done.returncode == 1 and str(digit) in done.stdout and "empty.jpg" not in done.stdout
    done = run("predict", "--run", trained, *bad[:2], "--device", "cpu:0", "--json", "-")
    assert done.returncode == 2
    assert [set(one) for one in json.loads(done.stdout)] == [{"picture", "error"}] * 2


def test_drawn_predictions_leave_out_what_cannot_be_read(trained: Path, digit: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    gone, out = tmp_path / "gone.png", tmp_path / "some.png"
    options = ("--among", 20, "--out", out, "--device", "cpu:0", "--picture", gone)
    shown = ("plot", "predictions", trained, *options)
    done = run(*shown, "--picture", digit)
    assert (done.returncode, done.stdout) == (1, f"{out}\n") and out.is_file()
    assert f"error: {gone} cannot be read" in done.stderr
    out.unlink()
    assert f"{gone} cannot be read" in refuse(*shown) and not out.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
def test_names_of_files_that_are_no_text(trained: Path, digit: Path, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xe9.png")
    shutil.copy(digit, file)
    done = run("predict", "--run", trained, file, COLUMNS="200", PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stderr) == (0, "") and r"\udce9.png" in done.stdout


def test_describe_as_a_table_and_as_json() -> None:
    text = succeed("describe", "--net", "lenet", "--device", "cpu:0")
    assert "131,080 parameters" in text
    done = run("describe", "--net", "lenet", "--device", "cpu:0", "--batch", 3, "--json", "-")
    description = json.loads(done.stdout)
    assert description["parameters"] == 131_080
    assert description["layers"][0]["output_shape"] == [3, 8, 8, 20]


def test_gradcheck() -> None:
    text = succeed("gradcheck", "--net", "lenet", "--device", "cpu:0")
    assert "conv1.weight" in text
    assert "WRONG" not in text


def test_gradcheck_fails_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong gradient is made, and the command must see it."""
    from cconvnet.network import Network

    backward = Network.backward

    def wrong(network: Network) -> None:
        backward(network)
        parameter = network.parameters["fc1.bias"]
        parameter.pieces[0].gradient[...] *= 1.01

    monkeypatch.setattr(Network, "backward", wrong)
    monkeypatch.setattr(sys, "argv", ["cconvnet", "gradcheck", "--device", "cpu:0"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 1
    assert "error: fc1.bias is off by" in capsys.readouterr().err


def test_bench_kernels_writes_and_draws_what_it_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file, picture = tmp_path / "kernels.json", tmp_path / "kernels.png"
    arguments = ("--net", "cifar-quick", "--batch", 1, "--only", "fc10", "--seconds", 0.001, "--no-peer")
    text = succeed(
        "bench", "kernels", *arguments, "--device", "emulator:0", "--json", file, "--plot", picture
    )
    result = json.loads(file.read_text())
    assert [row["operation"] for row in result["rows"]] == ["fc_fprop", "fc_dgrad", "fc_wgrad"]
    assert text.count("fc10 ") == 3
    with Image.open(picture) as drawn:
        assert drawn.width > 500


def test_bench_kernels_refuses_before_it_measures(tmp_path: Path) -> None:
    start = ("bench", "kernels", "--device", "cpu:0")
    assert "--net must be one of alexnet, vgg16" in refuse(*start, "--net", "lenet-5")
    assert "exclude each other" in refuse(*start, "--no-peer", "--peers", "pytorch")
    assert "there is no folder" in refuse(*start, "--json", tmp_path / "nowhere" / "result.json")
    pytest.importorskip("matplotlib")
    assert "must end with a kind of picture" in refuse(*start, "--plot", tmp_path / "bars.txt")


def test_bench_step_writes_what_it_measured(tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    arguments = ("--net", "lenet", "--batch", 8, "--steps", 3, "--device", "cpu:0", "--json", file)
    text = succeed("bench", "step", "--no-peer", *arguments)
    result = json.loads(file.read_text())
    assert len(result["steps_seconds"]) == 3
    assert 0 < result["step_seconds_min"] <= result["step_seconds"]
    assert result["images_per_second"] == pytest.approx(8 / result["step_seconds"])
    assert result["peak_rss_bytes"] > 10_000_000
    assert (result["net"], result["batch"], result["device"]) == ("lenet", 8, "cpu:0")
    assert "images/s" in text


def test_bench_roofline_tells_layers_and_writes_files(tmp_path: Path) -> None:
    file = tmp_path / "roofline.json"
    # The emulator's limits are measured at once.
    arguments = ("--batch", 1, "--steps", 1, "--warmup", 0, "--device", "emulator:0", "--json", file)
    text = succeed("bench", "roofline", *arguments)
    result = json.loads(file.read_text())
    assert (result["what"], result["net"], len(result["rows"])) == ("roofline", "lenet", 26)
    assert all(
        words in text for words in ("conv2", "dgrad", "limits, measured:", "furthest from their floor")
    )


def test_bench_scaling_tells_fits_and_what_was_left_out(tmp_path: Path) -> None:
    file = tmp_path / "scaling.json"
    arguments = ("--batch-max", 2, "--sizes", "8,12", "--device", "cpu:0", "--json", file)
    text = succeed("bench", "scaling", *arguments)
    result = json.loads(file.read_text())
    assert [(row["batch"], row["size"]) for row in result["rows"]] == [(1, 8), (2, 8), (2, 8), (2, 12)]
    assert "MB for each image" in text and "for each pixel" in text
    assert "--sizes must be whole numbers" in refuse("bench", "scaling", "--sizes", "8,x")


def test_plot_draws_into_the_run(trained: Path, digit: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert (trained / "curve.png").exists()
    options = ("--x", "step", "--smooth", 3, "--log", "--out", tmp_path / "curve.svg")
    assert succeed("plot", trained, *options) == f"{tmp_path / 'curve.svg'}\n"
    text = (tmp_path / "curve.svg").read_text()
    assert all(word in text for word in ("top-1 error", "loss, logarithmic", "step", "lenet on digits"))
    for kind, *arguments in (
        ("filters", "--scale", "shared"),
        ("predictions", "--images", 4, "--among", 100),
        ("activations", "--picture", digit, "--layer", "conv2"),
    ):
        assert succeed("plot", kind, trained, *arguments) == f"{trained / f'{kind}.png'}\n"
        with Image.open(trained / f"{kind}.png") as picture:
            assert picture.width > 1000


def test_several_runs_are_drawn_into_the_working_folder(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    (other / "curve.png").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "cconvnet", "plot", "--linear", trained, other],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=200,
    )
    assert done.stdout == "curves.png\n"
    assert (tmp_path / "curves.png").exists() and not (other / "curve.png").exists()


def test_following_ends_by_ctrl_c_without_complaint(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run_ = tmp_path / "run"
    shutil.copytree(trained, run_)
    (run_ / "summary.json").unlink()
    (run_ / "curve.png").unlink()
    command = [sys.executable, "-m", "cconvnet", "plot", run_, "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=100)
    assert said == f"{run_ / 'curve.png'}, drawn again as the log grows; Ctrl-C ends it\n"
    assert (process.returncode, rest, errors) == (0, "", "")
    assert (run_ / "curve.png").exists()


def test_pictures_that_cannot_be_drawn(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert "did you mean 'conv2'" in refuse("plot", "filters", trained, "--layer", "conv22")
    assert "must end with a kind of picture" in refuse("plot", "predictions", trained, "--out", "x.doc")
    assert "--images must be at least 1" in refuse("plot", "predictions", trained, "--images", 0)
    assert "cannot be read" in refuse("plot", "activations", trained, "--picture", tmp_path / "gone.png")
    assert "there is no folder" in refuse("report", trained, "--out", tmp_path / "gone" / "report.html")


def test_report_is_one_file(trained: Path) -> None:
    assert succeed("report", trained, "--device", "cpu:0") == f"{trained / 'report.html'}\n"
    assert (trained / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_training_goes_on_without_matplotlib(tmp_path: Path) -> None:
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ImportError('none here')")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = run("train", "--device", "cpu:0", "--steps", 1, "--out", tmp_path / "run", PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("pip install 'cconvnet[plot]'") == 1
    assert not (tmp_path / "run" / "curve.png").exists()


def test_doctor_knows_that_the_cpu_trains() -> None:
    text = succeed("doctor")
    assert re.search(r"^ok +device cpu:0 +\S", text, re.M)
    assert re.search(r"^ok +python +3\.\d+", text, re.M)
    for line in text.splitlines():
        if line.startswith("problem"):
            assert "to mend it: " in line


def test_doctor_fails_where_nothing_can_train(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cconvnet import devices

    def unavailable(name: str | None = None) -> None:
        raise DeviceUnavailable("gone; switch it on")

    monkeypatch.setattr(devices, "get_device", unavailable)
    monkeypatch.setattr(devices, "present_devices", list)
    monkeypatch.setattr(sys, "argv", ["cconvnet", "doctor"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 1
    output = capsys.readouterr().out
    assert "no device can train" in output
    assert re.search(r"^problem +device cpu:0 +gone; switch it on; to mend it: .*make", output, re.M)


# ---- what is refused -------------------------------------------------------------------------------------


def test_unknown_command() -> None:
    assert "Did you mean 'train'" in refuse("trian")


def test_unknown_option() -> None:
    text = refuse("train", "--bacth", 3)
    assert "--bacth" in text
    assert "`cconvnet train --help` tells more" in text


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
    """Number 99 is not there even where GPUs are."""
    text = refuse("train", "--device", "cuda:99")
    assert re.search("CuPy|no usable NVIDIA GPU|there is no cuda:99|without its cuda module", text)


def test_precision_that_is_not_there() -> None:
    assert "--precision must be one of fp32, tf32, bf16, not 'fp8'" in refuse("train", "--precision", "fp8")
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


def test_a_recipe_on_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ("--lr-plateau", 3, "--freeze", "conv1", "--lr-scale", "fc2=0.5", "--color-noise", 0.2)
    steps = ("--steps", 3, "--log-every", 1)
    succeed("train", "--device", "cpu:0", *flags, *steps, "--lr", 0.1, "--out", out)
    settings = json.loads((out / "config.json").read_text())["settings"]
    assert (settings["lr_plateau"], settings["color_noise"]) == (3, 0.2)
    assert settings["lr_scale"] == {"fc2": 0.5, "conv1": 0.0}
    last = json.loads((out / "log.jsonl").read_text().splitlines()[2])
    assert last["lr"] == 0.1
    assert last["lr_other"] == {
        "conv1.weight": 0.0,
        "conv1.bias": 0.0,
        "fc2.weight": 0.05,
        "fc2.bias": 0.05,
    }
    shown = succeed("train", "--resume", out, "--steps", 5, "--lr-scale", "conv1=1", "--color-noise", 0)
    assert "lr: conv1 learns at 1 times its rate from here on" in shown
    assert "colour noise: 0 from here on" in shown


def test_augment_draws_a_sheet(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data", "train/cat", "train/dog", count=3)
    sheet = tmp_path / "sheet.png"
    arguments = ("--net", "cifar-quick", "--data", root, "--out", sheet, "--images", 4, "--epochs", 2)
    shown = succeed("augment", *arguments)
    assert shown.endswith(f"{sheet}\n")
    with Image.open(sheet) as picture:
        assert picture.size == (3 * 100 + 4, 4 * 100 + 4)
    assert "--images must be at most 6" in refuse("augment", *arguments, "--images", 7)


def test_an_existing_run_is_not_written_over(trained: Path) -> None:
    assert f"continue it with --resume {trained}" in refuse("train", "--out", trained)


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


def test_ctrl_c_ends_a_script_too() -> None:
    """A shell goes on with a script whose command merely says that it was interrupted."""
    program = """
import sys
from cconvnet import cli, doctor
def examine():
    print("examining", flush=True)
    while True: pass
doctor.examine = examine
sys.argv[:] = ["cconvnet", "doctor"]
cli.main()
"""
    script = f"for number in 1 2; do {sys.executable} -c '{program}'; echo went on with $?; done"
    with subprocess.Popen(
        ["bash", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "examining\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        try:
            rest, errors = process.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, rest, errors) == (-signal.SIGINT, "", "")


def test_a_reader_that_has_gone() -> None:
    """`cconvnet describe | head -1` ends quietly."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cconvnet", "describe", "--device", "cpu:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    time.sleep(0.1)
    assert process.stderr.read() == b""
    process.wait(timeout=200)
    process.stderr.close()


# ---- networks in files -----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[object]:
    """The options that name a small network for digits, in two files."""
    (tmp_path / "layers.cfg").write_text(
        "[data]\ntype=data\ndataIdx=0\n[labels]\ntype=data\ndataIdx=1\n"
        "[conv1]\ntype=conv\ninputs=data\nchannels=1\nfilters=8\nfilterSize=3\ninitW=0.1\nneuron=relu\n"
        "partialSum=1\n[fc]\ntype=fc\ninputs=conv1\noutputs=10\ninitW=0.1\n"
        "[probs]\ntype=softmax\ninputs=fc\n[cost]\ntype=cost.logreg\ninputs=labels,probs\n"
    )
    rates = "epsW=0.002\nepsB=0.002\nmomW=0.9\nmomB=0.9\n"
    (tmp_path / "params.cfg").write_text(f"[conv1]\n{rates}[fc]\n{rates}[cost]\ncoeff=1\n")
    return ["--layer-def", tmp_path / "layers.cfg", "--layer-params", tmp_path / "params.cfg"]


NOTE = "partialSum changes no result and is not used: conv1"


def test_a_network_in_files_trains_and_goes_on_without_them(files: list[object], tmp_path: Path) -> None:
    path = tmp_path / "run"
    text = succeed("train", *files, "--crop", 6, "--device", "cpu:0", "--steps", 3, "--out", path)
    assert f"{files[1]}: {NOTE}" in text
    config = json.loads((path / "config.json").read_text())
    assert config["settings"]["lr"] == 0.002
    assert config["settings"]["crop"] is True
    assert (config["spec"]["stored"], config["spec"]["input"]["height"]) == ([8, 8], 6)
    for name in ("layers.cfg", "params.cfg"):
        (tmp_path / name).unlink()
    assert "resuming" in succeed("train", "--resume", path, "--device", "cpu:0", "--steps", 5)
    assert "top-1 error" in succeed("evaluate", "--run", path, "--device", "cpu:0")
    text = refuse("train", "--resume", path, *files)
    assert text.startswith("error: --resume goes on with the run's own network; leave out --layer-def")
    # What was trained can be written again.
    succeed("export", "--run", path, "--out", tmp_path / "again")
    assert "filters=8\n" in (tmp_path / "again" / "layers.cfg").read_text()


def test_networks_in_files_are_described_checked_and_timed(files: list[object], tmp_path: Path) -> None:
    text = succeed("describe", *files, "--size", 8, "--device", "cpu:0")
    assert f"{NOTE}\n" in text and "2,970 parameters" in text
    described = json.loads(succeed("describe", *files, "--size", 8, "--device", "cpu:0", "--json", "-"))
    assert [layer["name"] for layer in described["layers"]] == ["conv1", "fc", "cost"]
    options = ("--size", 8, "--device", "cpu:0", "--json", "-")
    report = json.loads(succeed("gradcheck", *files, "--width", 0.5, *options))
    assert report["ok"] and {"conv1", "fc", "cost"} <= {check["name"] for check in report["checks"]}
    out = tmp_path / "step.json"
    timing = ("--no-peer", "--steps", 1, "--warmup", 0, "--batch", 2)
    succeed("bench", "step", *files, *timing, *options[:-1], out)
    timed = json.loads(out.read_text())
    assert timed["image"] == [8, 8, 1]


def test_options_of_networks_in_files_that_do_not_go_together(files: list[object], tmp_path: Path) -> None:
    assert "--layer-def goes with --layer-params" in refuse("describe", *files[:2], "--size", 8)
    assert "--layer-params goes with --layer-def" in refuse("describe", *files[2:])
    assert "--crop goes with --layer-def" in refuse("train", "--crop", 6)
    assert "--net and --layer-def are two networks" in refuse("train", "--net", "lenet", *files)
    assert f"--size is needed: {files[1]} does not say how large the images are" in refuse("describe", *files)
    assert "--size must be at least 1, not 0" in refuse("describe", *files, "--size", 0)
    assert "crop must be from 1 to 8, the images' side, not 9" in refuse("train", *files, "--crop", 9)
    assert "nowhere.cfg: No such file" in refuse("train", "--layer-def", "nowhere.cfg", *files[2:], code=1)
    (tmp_path / "layers.cfg").write_text("[conv1]\ntype=cnv\n")
    text = refuse("train", *files)
    assert text.startswith(f"error: {files[1]}:2: layer conv1: type must be one of")
    assert text.endswith("did you mean 'conv'?\n")


def test_gradcheck_at_another_size() -> None:
    options = ("--device", "cpu:0", "--json", "-")
    report = json.loads(succeed("gradcheck", "--net", "cifar-quick", "--size", 16, "--width", 0.1, *options))
    assert report["ok"]
    assert "width must be above 0" in refuse("gradcheck", "--width", 0)


def test_export_writes_files_that_train_reads(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    text = succeed("export", "--net", "cifar-18pct", "--out", out)
    assert text == f"{out}/layers.cfg\n{out}/layer-params.cfg\n"
    again = ("--layer-def", out / "layers.cfg", "--layer-params", out / "layer-params.cfg", "--size", 32)
    assert "89,578 parameters" in succeed("describe", *again, "--device", "cpu:0")
    assert f"{out}/layers.cfg is already there" in refuse("export", "--net", "cifar-18pct", "--out", out)
    succeed("export", *again, "--out", tmp_path / "copy")
    for name in ("layers.cfg", "layer-params.cfg"):
        texts = [(folder / name).read_text().split("\n\n", 1)[1] for folder in (out, tmp_path / "copy")]
        assert texts[0] == texts[1]  # but for the comment at the top, which says the network's name
    other = tmp_path / "other"
    assert "lenet: input: scale=0.00392" in refuse("export", "--net", "lenet", "--out", other)
    assert "--format must be cuda-convnet" in refuse(
        "export", "--net", "lenet", "--format", "x", "--out", other
    )
    for options in ((), ("--net", "cifar-18pct", "--run", tmp_path)):
        assert "one network is needed: --net, --layer-def or --run" in refuse(
            "export", *options, "--out", other
        )
    assert not other.exists()
