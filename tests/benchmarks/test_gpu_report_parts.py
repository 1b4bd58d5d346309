"""The parts of a GPU machine's report: the commands that each would run."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cconvnet.bench.peers import forms as pytorch_forms
from cconvnet.devices import PRECISIONS, Device, proofs

ROOT = Path(__file__).parents[2]

sys.path.insert(0, str(ROOT / "benchmarks"))
running, settings, building, measuring, checking, parts = (
    importlib.import_module(f"gpu_report.{name}")
    for name in ("running", "settings", "building", "measuring", "checking", "parts")
)
main_module = importlib.import_module("gpu_report.__main__")
Settings = settings.Settings


NAMES = [
    "machine", "build", "conformance", "proof", "smoke", "tests", "kernels", "step", "calibration",
    "more-tests", "training", "sanitize", "roofline", "checkpoint", "last-tests", "scaling", "data",
]  # fmt: skip


class FakeRun:
    """Record of a part's commands; `statuses` are the results that it is given."""

    def __init__(self, folder: Path, *statuses: int | None, left: float = 100.0) -> None:
        self.folder, self.left, self.states = folder, left, set[str]()
        self.commands: list[Any] = []
        self.most: list[float] = []
        self.started: list[Any] = []
        self.said: list[str] = []
        self._statuses = list(statuses)

    def do(self, command: Any, most: float | None = None, fine: Any = ()) -> int | None:
        self.commands.append(command)
        self.most.append(self.left if most is None else most)
        return self._statuses.pop(0) if self._statuses else 0

    def at_once(self, commands: Any, again: Any = None) -> list[int | None]:
        self.commands += commands
        for index in range(len(commands)):
            while self._statuses and (command := again(index, self._statuses.pop(0))) is not None:
                self.commands.append(command)
        return [0] * len(commands)

    def start(self, command: Any) -> Any:
        self.started.append(command)
        return FakeProcess()

    def wait(self, process: Any, most: float | None = None) -> int:
        process.end()
        return 0

    def say(self, text: str) -> None:
        self.said.append(text)

    def keep(self, path: Path, name: str, **more: Any) -> bool:
        self.said.append(f"kept as {name}")
        return True

    @property
    def words(self) -> list[str]:
        return [" ".join(command.arguments) for command in self.commands]


class FakeProcess:
    def __init__(self) -> None:
        self.ended = False

    def poll(self) -> int | None:
        return 0

    def end(self) -> None:
        self.ended = True


def ran(name: str, settings: Any, run: FakeRun) -> FakeRun:
    (found,) = [part for part in parts.parts(settings) if part.name == name]
    found.work(run)
    return run


@pytest.fixture
def on_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(building, "cores", lambda: 16)
    monkeypatch.setattr(checking, "cores", lambda: 16)
    monkeypatch.setattr(measuring, "served", lambda settings: ["fp32", "bf16"])
    tool = tmp_path / "compute-sanitizer"
    tool.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return Settings("cuda:0", tmp_path, data="shards")


def test_the_parts_of_a_gpu_machine(on_gpu: Any, tmp_path: Path) -> None:
    every = parts.parts(on_gpu)
    assert [part.name for part in every] == [*NAMES, "sanitize-all"]
    listed = [part for part in every if part.listed]
    limits, left = running.Limits(main_module.SECONDS, listed), main_module.SECONDS
    for part_ in listed:
        # If each takes all it may, the kernels and the step have theirs still.
        limit = limits.of(part_, left)
        left -= max(limit, 0)
        assert part_.name not in ("kernels", "step") or limit >= part_.kept
    assert left >= running.LAST

    sanitize = ran("sanitize", on_gpu, FakeRun(tmp_path)).commands
    tool = str(tmp_path / "compute-sanitizer")
    assert [c.arguments[:3] for c in sanitize] == [[tool, "--tool", t] for t in ("memcheck", "racecheck")]
    everything = ran("sanitize-all", on_gpu, FakeRun(tmp_path)).commands
    assert [command.arguments[:3] for command in everything] == [
        [tool, "--tool", name] for name in ("memcheck", "racecheck", "initcheck", "synccheck")
    ]
    assert all(c.environment["CCONVNET_TEST_GUARD"] == "0" for c in (*sanitize, *everything))
    for name, count in (("roofline", 2), ("scaling", 1), ("checkpoint", 1), ("data", 1)):
        run = ran(name, on_gpu, FakeRun(tmp_path))
        assert len(run.commands) == count == run.said.count("kept as step.jsonl")
        assert all(f"bench {name} " in words and "--device cuda:0" in words for words in run.words)


def test_peers_are_measured_while_the_modules_are_compiled(on_gpu: Any, tmp_path: Path) -> None:
    run = ran("build", on_gpu, FakeRun(tmp_path))
    first, build, query = run.words
    assert "-j16" in build and f"PYTHON={sys.executable}" in build and "CCONVNET_CUDA=on" in build
    # Peers need what rows are made of, and no kernels.
    assert "MODULES=_problem _pixels _cuda" in build and first.endswith("CCONVNET_CUDA=on")
    assert "MODULES=_problem _pixels CCONVNET_CUDA=on" in first and "cuda:0" in query
    peers = " ".join(run.started[0].arguments)
    assert peers.index("cconvnet.bench.lines pytorch") < peers.index("cconvnet.bench.lines cudnn")
    # The network that this library is about has its turns before all others.
    assert re.findall(r"lines (\w+) .*?--tables ([a-z]+).*?--precisions bf16,fp32,tf32 ", peers) == [
        ("pytorch", "alexnet"), ("cudnn", "alexnet"), ("cudnn", "resnet"), ("pytorch", "resnet"),
    ]  # fmt: skip
    assert run.started[0].environment["CCONVNET_CUDNN_PLAN_SECONDS"] == "1"
    assert "benchmarks/conformance.py" in " ".join(run.started[-1].arguments) or len(run.started) == 1
    process = on_gpu.peers[0]
    # When ours are measured they have ended.
    ours = ran("kernels", on_gpu, FakeRun(tmp_path, left=110.0))
    assert process.ended and on_gpu.peers == []
    assert "lines ours " in ours.words[0] and "lines cudnn" in ours.words[1]
    assert not (tmp_path / "stop").exists() and ours.most[0] < 70


def test_peers_go_on_with_the_first_network_for_a_while(on_gpu: Any, tmp_path: Path) -> None:
    class Works(FakeProcess):
        def poll(self) -> int | None:
            return None

    def write(*lines: dict[str, Any]) -> None:
        (tmp_path / "kernels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    begin = {"event": "begin", "side": "cudnn", "about": {}}
    on_gpu.peers, run, now = [Works()], FakeRun(tmp_path), time.monotonic()
    type(run).left = property(lambda self: 100.0 - 50 * (time.monotonic() - now))  # type: ignore[assignment]
    try:
        write(begin, {"event": "end", "side": "pytorch"})
        measuring.end_peers(on_gpu, run, 25)
        assert run.left < 75 and on_gpu.peers == [] and (tmp_path / "stop").exists()
        for line in ({"event": "end", "side": "cudnn"}, {"event": "begin", "side": "cudnn", "missing": "x"}):
            write(begin, line)
            on_gpu.peers, now = [FakeProcess(), Works()], time.monotonic()
            measuring.end_peers(on_gpu, run, 25)
            assert run.left > 40  # what it takes to end them
    finally:
        del type(run).left


def test_ours_are_started_again_behind_a_lost_device(on_gpu: Any, tmp_path: Path) -> None:
    run = ran("kernels", on_gpu, FakeRun(tmp_path, 3, 3, 0, left=110.0))
    assert [words.count("lines ours ") for words in run.words] == [1, 1, 1, 0]


@pytest.mark.parametrize("status", [2, None])
def test_what_is_not_built_is_not_run(on_gpu: Any, tmp_path: Path, status: int | None) -> None:
    with pytest.raises(running.Failed, match="could not be built"):
        ran("build", on_gpu, FakeRun(tmp_path, status))
    for name in ("proof", "smoke", "tests", "kernels", "step", "training", "sanitize", "roofline"):
        run = FakeRun(tmp_path)
        with pytest.raises(running.Absent, match="could not be built"):
            ran(name, on_gpu, run)
        # Peers are measured all the same.
        assert ["lines cudnn" in words for words in run.words] == [True] * (name == "kernels")


def test_a_build_that_fails_is_tried_with_fewer_compilers(on_gpu: Any, tmp_path: Path) -> None:
    run = ran("build", on_gpu, FakeRun(tmp_path, 0, 2, 0))
    assert "-j16" in run.words[1] and "-j4" in run.words[2] and "fewer" in run.said[0]


def test_compilers_come_from_cores(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:        4000000 kB\nMemFree: 1 kB\nMemAvailable:    3100000 kB\n")
    # A virtual machine with a GPU may tell of little memory at first.
    assert building.compile_jobs("cuda", 16, meminfo) == 16
    assert building.compile_jobs("emulator", 16, meminfo) == 2
    assert building.compile_jobs("emulator", 1, meminfo) == 1
    meminfo.write_text("MemTotal: 900000 kB\n")
    assert building.compile_jobs("cpu", 16, meminfo) == 1
    assert building.compile_jobs("cpu", 16, tmp_path / "none") == 16


def test_wheels_are_installed_for_the_report_alone(
    on_gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHEELS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", "before")
    monkeypatch.setattr(sys, "path", list(sys.path))
    run = ran("machine", on_gpu, FakeRun(tmp_path))
    assert "no wheels" in run.said[-1] and os.environ["PYTHONPATH"] == "before"
    (tmp_path / "some-1.0-py3-none-any.whl").touch()
    run = ran("machine", on_gpu, FakeRun(tmp_path))
    words = run.words[-1]
    assert f"--target {tmp_path / 'site'}" in words and words.endswith("some-1.0-py3-none-any.whl")
    assert "--no-index" in words and "--no-deps" in words
    assert os.environ["PYTHONPATH"] == f"before{os.pathsep}{tmp_path / 'site'}"


def test_the_smoke_test_goes_on_behind_a_lost_device(on_gpu: Any, tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    ran("smoke", on_gpu, run)
    assert len(run.commands) == 8 and all(command.log == "smoke.log" for command in run.commands)
    (tmp_path / "lost.0").write_text("88")
    run = FakeRun(tmp_path, 3, 1)
    ran("smoke", on_gpu, run)
    assert "--share 0 --of 8 --first 89 " in run.words[-1] and "failed" in run.states
    # A process that ended in another way is not.
    run = ran("smoke", on_gpu, FakeRun(tmp_path, 3))
    assert len(run.commands) == 8


def test_rows_are_proven_before_they_are_measured(
    on_gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(proofs.VARIABLE, "before")
    run = ran("proof", on_gpu, FakeRun(tmp_path, 1))
    (words,) = run.words
    assert f"proving.py cuda:0 --machine {tmp_path / 'machine.jsonl'} --out {tmp_path}" in words
    assert os.environ[proofs.VARIABLE] == str(tmp_path)
    assert NAMES.index("conformance") < NAMES.index("proof") < NAMES.index("kernels")


def test_tests_are_those_of_the_device_the_most_important_first(on_gpu: Any, tmp_path: Path) -> None:
    run = ran("tests", on_gpu, FakeRun(tmp_path))
    assert all("-k cuda " in words and "--device cuda:0" in words for words in run.words)
    assert "test_fusion.py" in run.words[0] and "test_conv.py" in run.words[1]
    assert run.most[0] < run.left and "-n 10 " in run.words[0]
    for names in checking.TEST_FILES.values():
        for name in " ".join(name for name, _ in names).split():
            assert list((ROOT / "tests").rglob(f"test_{name}.py"))


def test_the_step_beside_its_peers(on_gpu: Any, tmp_path: Path) -> None:
    run = ran("step", on_gpu, FakeRun(tmp_path, left=180.0))
    assert "cconvnet.bench.step_forms --net alexnet --batch 128" in run.words[0]
    assert "--precisions bf16,tf32,fp32" in run.words[0]
    forms = [words.partition("--forms ")[2].partition(" ")[0] for words in run.words[1:]]
    assert any("channels_last+graph" in form for form in forms) and any("compiled" in form for form in forms)
    for form in ",".join(forms).split(","):
        pytorch_forms.check_forms([form], True, "bf16")


def test_scripts_that_are_missing_fail_their_part(
    on_gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "ROOT", tmp_path)
    for name in ("conformance", "calibration"):
        with pytest.raises(running.Failed, match=rf"benchmarks/{name}\.py is missing"):
            ran(name, on_gpu, FakeRun(tmp_path))
    (tmp_path / "benchmarks").mkdir()
    for name in ("conformance", "calibration"):
        (tmp_path / "benchmarks" / f"{name}.py").touch()
        run = FakeRun(tmp_path)
        ran(name, on_gpu, run)
        (command,) = run.commands or run.started
        assert "--device cuda:0" in " ".join(command.arguments) and run.said == ["kept as machine.jsonl"]


def test_feeding_wants_pictures(tmp_path: Path) -> None:
    with pytest.raises(running.Absent, match="no --data FOLDER"):
        ran("data", Settings("cuda:0", tmp_path), FakeRun(tmp_path))


def test_the_precisions_of_a_device(device: Device, tmp_path: Path) -> None:
    served = [name for name in PRECISIONS if device.serves(name)]
    assert measuring.served(Settings(device.name, tmp_path)) == served
    with pytest.raises(running.Failed, match=r"^cconvnet\.errors\.DeviceUnavailable: "):
        measuring.served(Settings("cuda:77", tmp_path))


def test_a_machine_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    monkeypatch.setattr(checking, "NVIDIA", tmp_path)
    with pytest.raises(running.Absent, match="watches GPUs, not cpu:0"):
        ran("sanitize", Settings("cpu:0", tmp_path), FakeRun(tmp_path))
    with pytest.raises(running.Absent, match="compute-sanitizer was not found"):
        ran("sanitize", Settings("cuda:0", tmp_path), FakeRun(tmp_path))
