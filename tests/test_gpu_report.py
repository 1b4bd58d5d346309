"""The report of a GPU machine, with parts that stand in for the real ones."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cconvnet.backends import PRECISIONS, Device
from cconvnet.testing.check import OPERATIONS, own_impls
from cconvnet.testing.problems import with_precision

ROOT = Path(__file__).parents[1]


def load(name: str) -> ModuleType:
    path = ROOT / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


gpu_report = load("benchmarks/gpu_report.py")
basic_shapes = load("tests/basic_shapes.py")
Command, Part, Report = gpu_report.Command, gpu_report.Part, gpu_report.Report


def python(code: str, measures: bool = False) -> Any:
    return Command([sys.executable, "-c", code], measures=measures)


def part(name: str, *commands: Any, share: float = 1.0) -> Any:
    return Part(name, share, lambda: commands)


WRITES = "import json, sys; json.dump({'value': %d}, open(sys.argv[-1], 'w'))"
# Writes what it has, then works on for ever, as does a process it started; neither can be talked to.
HANGS = (
    "import signal, subprocess, sys, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    + WRITES % 7
    + "\nother = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
    "print(other.pid, flush=True)\ntime.sleep(1000)"
)


def summary(folder: Path) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in json.loads((folder / "summary.json").read_text())["parts"]}


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_each_part_is_recorded_and_a_failed_one_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scaling.json").write_text("of an earlier report")

    def absent() -> Any:
        raise gpu_report.Absent("there is no such tool")

    parts = [
        part("build", python("print('built')"), python("import sys; print('no space'); sys.exit(3)")),
        part("kernels", python(WRITES % 1, True), python(WRITES % 2, True), python("print(9)", True)),
        Part("sanitize", 1.0, absent),
        part("scaling", python("print('never')")),
    ]
    report = Report(tmp_path, parts)
    assert not report.run(["build", "kernels", "sanitize"])
    found = summary(tmp_path)
    assert {name: entry["state"] for name, entry in found.items()} == {
        "build": "failed", "kernels": "ok", "sanitize": "absent", "scaling": "skipped",
    }  # fmt: skip
    assert [command["exit"] for command in found["build"]["commands"]] == [0, 3]
    assert found["sanitize"]["why"] == "there is no such tool"
    assert json.loads((tmp_path / "kernels.json").read_text()) == {"results": [{"value": 1}, {"value": 2}]}
    log = (tmp_path / "report.log").read_text()
    assert log.index("built") < log.index("no space") and "never" not in log
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kernels.json", "report.log", "summary.json"]
    assert "  | no space" in capsys.readouterr().out
    assert "build      failed" in report.table() and "1 of 2 commands" in report.table()


def test_what_runs_over_its_time_is_ended_with_all_it_started(tmp_path: Path) -> None:
    log = tmp_path / "report.log"

    def clock() -> float:
        """The time of the first part is over once it has written all that it will."""
        return 2.0 if any(line.isdigit() for line in log.read_text().split()) else 0.0

    parts = [part("kernels", python(HANGS, True), share=1), part("step", python("print('next')"), share=99)]
    report = Report(tmp_path, parts, minutes=100 / 60, clock=clock, grace=0.2)
    log.touch()
    assert not report.run(["kernels", "step"])
    found = summary(tmp_path)
    assert found["kernels"]["state"] == "over time" and found["kernels"]["commands"][0]["exit"] is None
    assert found["step"]["state"] == "ok"
    assert json.loads((tmp_path / "kernels.json").read_text())["results"] == [{"value": 7}]
    started = next(int(line) for line in log.read_text().split() if line.isdigit())
    for _ in range(100):
        if not is_alive(started):
            break
        time.sleep(0.05)
    assert not is_alive(started)


def test_time_that_is_left_goes_to_later_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    limits = []

    def execute(self: Any, arguments: Any, environment: Any, limit: float) -> int:
        limits.append(limit)
        now[0] += 10
        return 0

    monkeypatch.setattr(Report, "_execute", execute)
    command, larger = python(""), Command([], share=2.0)
    parts = [part("a", command, share=30), part("b", command, share=50), part("c", larger, command, share=20)]
    report = Report(tmp_path, parts, minutes=5 / 3, clock=lambda: now[0])
    assert report.run(["a", "c"])
    # a has its own 30 s; c all of the 100 s but the 10 that a took, first two thirds, then the rest.
    assert limits == pytest.approx([30, 60, 80])
    assert [outcome.limit_seconds for outcome in report.outcomes] == pytest.approx([30, 0, 90])


def test_an_interrupted_report_leaves_what_it_had(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        "import gpu_report\nfrom gpu_report import Command, Part\nfrom pathlib import Path\n"
        f"first = Command([sys.executable, '-c', {WRITES % 5!r}], measures=True)\n"
        "second = Command([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
        "gpu_report.parts = lambda device, batch, data: [Part('kernels', 1, lambda: [first, second]),"
        " Part('step', 1, lambda: [first])]\n"
        f"sys.exit(gpu_report.main([{str(folder)!r}]))\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    while not (folder / "kernels.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    found = summary(folder)
    assert found["kernels"]["state"] == "interrupted" and found["step"]["state"] == "waiting"
    assert json.loads((folder / "kernels.json").read_text()) == {"results": [{"value": 5}]}
    assert "kernels    interrupted" in output


def test_parts_are_chosen_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = []
    monkeypatch.setattr(Report, "run", lambda self, names: chosen.append(names) or True)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    assert gpu_report.main([str(tmp_path)]) == 0
    gpu_report.main([str(tmp_path), "--parts", "step kernels", "--skip", ""])
    gpu_report.main([str(tmp_path), "--skip", "tests,scaling"])
    names = ["build", "tests", "sanitize", "kernels", "step", "roofline", "scaling", "checkpoint", "data"]
    left = [name for name in names if name not in ("tests", "scaling")]
    assert chosen == [names, ["step", "kernels"], left]
    with pytest.raises(SystemExit):
        gpu_report.main([str(tmp_path), "--parts", "kernel"])
    assert "there is no part 'kernel'" in capsys.readouterr().err


def test_the_parts_of_a_gpu_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(gpu_report, "served", lambda device: ["fp32", "bf16"])
    parts = {part.name: part for part in gpu_report.parts("cuda:0", pictures="shards")}
    assert sum(part.share for part in parts.values()) <= 60 * gpu_report.MINUTES
    (build,) = parts["build"].commands()
    assert "CCONVNET_CUDA=on" in build.arguments and f"PYTHON={sys.executable}" in build.arguments
    sanitize = parts["sanitize"].commands()
    assert [command.arguments[:3] for command in sanitize] == [
        [str(tool), "--tool", name] for name in ("memcheck", "racecheck", "initcheck", "synccheck")
    ]
    assert all(command.environment["CCONVNET_TEST_GUARD"] == "0" for command in sanitize)
    kernels = [" ".join(command.arguments) for command in parts["kernels"].commands()]
    assert len(kernels) == 10  # five networks, two precisions
    wanted = "bench kernels --net alexnet --batch 128 --seconds 0.05 --device cuda:0 --precision bf16"
    assert kernels[1].endswith(f"-m cconvnet {wanted}")
    for name, count in (("step", 5), ("roofline", 2), ("scaling", 2), ("checkpoint", 1), ("data", 2)):
        commands = parts[name].commands()
        assert len(commands) == count and all(command.measures for command in commands)


def test_feeding_wants_pictures() -> None:
    data = {part.name: part for part in gpu_report.parts("cuda:0")}["data"]
    with pytest.raises(gpu_report.Absent, match="no --data FOLDER"):
        data.commands()


def test_the_precisions_of_a_device(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_report.served(device.name) == [name for name in PRECISIONS if device.serves(name)]
    with pytest.raises(RuntimeError, match=r"^cconvnet\.errors\.DeviceUnavailable: "):
        gpu_report.served("cuda:77")


def test_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    sanitize = {part.name: part for part in gpu_report.parts("cpu:0")}["sanitize"]
    with pytest.raises(gpu_report.Absent, match="watches GPUs, not cpu:0"):
        sanitize.commands()
    sanitize = {part.name: part for part in gpu_report.parts("cuda:0")}["sanitize"]
    with pytest.raises(gpu_report.Absent, match="compute-sanitizer was not found"):
        sanitize.commands()


# ---- what the sanitizers watch --------------------------------------------------------------------------


def test_the_basic_shapes_are_those_of_every_operation_and_row(device: Device) -> None:
    cases = list(basic_shapes.basic_cases(device))
    assert {operation for operation, _, _ in cases} == set(OPERATIONS)
    seen = {(operation, arguments.get("impl")) for operation, _, arguments in cases}
    elements = {
        (operation, getattr(problem, "precision", arguments.get("element", "fp32")))
        for operation, problem, arguments in cases
    }
    for operation, spec in OPERATIONS.items():
        for precision in PRECISIONS if spec.has_impls else ("fp32", "bf16") if spec.has_elements else ():
            assert (operation, precision) in elements or not device.serves(precision)
    tables = {"conv": basic_shapes.CONV, "local": basic_shapes.LOCAL, "fc": basic_shapes.FC}
    for operation in OPERATIONS:
        for problem in tables.get(operation.split("_")[0], {}).values():
            # A CPU's rows can want shapes that need not be watched: no sanitizer runs there.
            if device.kind != "cpu":
                for precision in filter(device.serves, PRECISIONS):
                    rows = own_impls(operation, with_precision(problem, precision), device)
                    assert {(operation, impl) for impl in rows} <= seen


def test_the_basic_shapes_pass(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    if device.kind == "cuda":
        pytest.skip("would change the allocator of all tests; `make sanitize` runs them")
    basic_shapes.main(device.name)
    assert f"basic shapes on {device.name}" in capsys.readouterr().out
