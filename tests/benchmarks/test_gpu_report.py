"""The report of a GPU machine, with parts that stand in for the real ones, and dry on the emulator."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cconvnet.bench.peers import forms as forms_module
from cconvnet.devices import PRECISIONS, Device
from cconvnet.testing.check import OPERATIONS, own_impls
from cconvnet.testing.problems import with_precision

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    path = ROOT / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(ROOT / "benchmarks"))
running, settings, building, measuring, checking, parts, summary = (
    importlib.import_module(f"gpu_report.{name}")
    for name in ("running", "settings", "building", "measuring", "checking", "parts", "summary")
)
main_module = importlib.import_module("gpu_report.__main__")
results_module = load("benchmarks/results.py")
basic_shapes = load("tests/helpers/basic_shapes.py")
Command, Part, Report, Settings = running.Command, running.Part, running.Report, settings.Settings


def python(code: str, log: str = "report.log") -> Any:
    return Command([sys.executable, "-c", code], log=log)


def part(name: str, *commands: Any, most: float = 30.0) -> Any:
    def work(run: Any) -> None:
        for command in commands:
            run.do(command)

    return Part(name, most, work)


# Writes what it has, then works on for ever, as does a process it started; neither can be talked to.
HANGS = (
    "import signal, subprocess, sys, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
    "print('has', 7)\nprint(other.pid, flush=True)\ntime.sleep(1000)"
)


def states(folder: Path) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in json.loads((folder / "summary.json").read_text())["parts"]}


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid: int) -> None:
    for _ in range(200):
        if not is_alive(pid):
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} lives")


# ---- parts one after the other --------------------------------------------------------------------------


def test_each_part_is_recorded_and_a_failed_one_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(run: Any) -> None:
        raise running.Absent("there is no such tool")

    def breaks(run: Any) -> None:
        raise ZeroDivisionError("in the report itself")

    def kernels(run: Any) -> None:
        for text in ('{"value": 1}\n', '{"value": 2}\n{"value": 3}\n{"val', ""):
            (tmp_path / "out.json").write_text(text)
            assert run.keep(tmp_path / "out.json", "kernels.jsonl", part="x") == bool(text)

    every = [
        part("build", python("print('built')"), python("import sys; print('no space'); sys.exit(3)")),
        Part("kernels", 30.0, kernels),
        Part("sanitize", 30.0, absent),
        Part("step", 30.0, breaks),
        part("scaling", python("print('never')")),
    ]
    report = Report(tmp_path, every, 100.0)
    assert not report.run(["build", "kernels", "sanitize", "step"])
    found = states(tmp_path)
    assert {name: entry["state"] for name, entry in found.items()} == {
        "build": "failed", "kernels": "ok", "sanitize": "absent", "step": "failed", "scaling": "skipped",
    }  # fmt: skip
    assert [command["exit"] for command in found["build"]["commands"]] == [0, 3]
    assert found["sanitize"]["why"] == "there is no such tool"
    assert found["step"]["why"] == "ZeroDivisionError: in the report itself"
    lines = (tmp_path / "kernels.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"part": "x", "value": number} for number in (1, 2, 3)]
    log = (tmp_path / "report.log").read_text()
    assert log.index("built") < log.index("no space") and "never" not in log
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["kernels.jsonl", "report.log", "summary.json"]
    assert "  | no space" in capsys.readouterr().out
    assert "build        failed" in report.table() and "1 of 2 commands" in report.table()


def test_what_runs_over_its_time_is_ended_with_all_it_started(tmp_path: Path) -> None:
    log = tmp_path / "report.log"
    log.touch()

    def clock() -> float:
        """The time of the first part is over once it has written all that it will."""
        return 30.0 if any(line.isdigit() for line in log.read_text().split("\n")) else 0.0

    every = [part("kernels", python(HANGS), most=10), part("step", python("print('next')"))]
    report = Report(tmp_path, every, 100.0, clock=clock, grace=0.2)
    assert not report.run(["kernels", "step"])
    found = states(tmp_path)
    assert found["kernels"]["state"] == "over time" and found["kernels"]["commands"][0]["exit"] is None
    assert found["step"]["state"] == "ok"
    started = next(int(line) for line in log.read_text().split("\n") if line.isdigit())
    assert "(ended: its time is over)" in log.read_text()
    wait_until_gone(started)


def test_a_process_is_asked_before_it_is_killed(tmp_path: Path) -> None:
    """What it has not yet written it may write."""
    code = (
        "import signal, sys, time\ndef end(*rest): print('wrote the rest', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGINT, end)\nprint('began', flush=True)\ntime.sleep(1000)"
    )

    def work(run: Any) -> None:
        process = run.start(python(code))
        while "began\n" not in (tmp_path / "report.log").read_text():
            time.sleep(0.02)
        assert run.wait(process, 0.0) is None

    assert not Report(tmp_path, [Part("step", 30.0, work)], 100.0).run(["step"])
    assert "wrote the rest" in (tmp_path / "report.log").read_text()


def test_side_by_side_and_again(tmp_path: Path) -> None:
    """A process that ended may be followed by another in its place; the last one's status counts."""
    asked = []

    def work(run: Any) -> None:
        def again(index: int, status: int) -> Any:
            asked.append((index, status))
            return python("print('again')") if status == 3 else None

        commands = [python("import sys; sys.exit(3)"), python("import time; time.sleep(0.3); print('one')")]
        assert run.at_once(commands, again=again) == [0, 0]

    assert Report(tmp_path, [Part("smoke", 30.0, work)], 100.0).run(["smoke"])
    assert sorted(asked) == [(0, 0), (0, 3), (1, 0)]
    assert {"again", "one"} <= set((tmp_path / "report.log").read_text().split())
    assert len(states(tmp_path)["smoke"]["commands"]) == 3


def test_what_runs_beside_is_ended_with_the_report(tmp_path: Path) -> None:
    def work(run: Any) -> None:
        run.start(python("import os, time; print(os.getpid(), flush=True); time.sleep(1000)"))
        while not any(line.isdigit() for line in (tmp_path / "report.log").read_text().split("\n")):
            time.sleep(0.02)

    assert Report(tmp_path, [Part("build", 30.0, work)], 100.0, grace=0.2).run(["build"])
    lines = (tmp_path / "report.log").read_text().split("\n")
    wait_until_gone(next(int(line) for line in lines if line.isdigit()))


def test_time_that_is_left_goes_to_later_parts() -> None:
    def of(name: str, most: float, kept: float = 0.0) -> Any:
        return Part(name, most, lambda run: None, kept)

    a, b, c = every = [of("a", 200), of("b", 100, 60), of("c", 300, 40)]
    limits = running.Limits(510, every)  # 500 and what the summary needs
    # As much as it may have, but what is kept for others stays.
    assert [limits.of(a, 510), limits.of(a, 210)] == [200, 100]
    # What a did not use is c's, whose own time bounds it.
    assert [limits.of(b, 500), limits.of(c, 400), limits.of(c, 150)] == [100, 300, 140]
    # Few parts have all the time between them, in their shares.
    few = running.Limits(610, [a, b])
    assert [few.of(a, 610), few.of(b, 410)] == [pytest.approx(400), pytest.approx(200)]
    # Too little time keeps no more than it has.
    tight = running.Limits(60, every)
    assert tight.of(a, 60) == pytest.approx(50 - 30) and tight.of(b, 40) == pytest.approx(30 - 12)


def test_a_part_without_time_is_not_begun(tmp_path: Path) -> None:
    now = [0.0]

    def work(run: Any) -> None:
        now[0] = 95.0

    every = [Part("smoke", 90.0, work), part("tests", python("print('never')"))]
    assert not Report(tmp_path, every, 100.0, clock=lambda: now[0]).run(["smoke", "tests"])
    assert states(tmp_path)["tests"]["state"] == "no time" and not (tmp_path / "report.log").exists()


def test_a_summary_that_fails_keeps_no_part_from_running(tmp_path: Path) -> None:
    def summarize(folder: Path) -> None:
        raise KeyError("a line is not what it was")

    assert Report(tmp_path, [part("step", python(""))], 100.0, summarize=summarize).run(["step"])
    assert states(tmp_path)["step"]["state"] == "ok"


def test_long_logs_lose_their_middle(tmp_path: Path) -> None:
    path = tmp_path / "report.log"
    path.write_bytes(b"a" * 100 + b"b" * 300 + b"c" * 200)
    running.shorten(path, (100, 200))
    assert path.read_bytes() == b"a" * 100 + b"\n... 300 bytes left out ...\n" + b"c" * 200
    running.shorten(path, (1000, 1000))
    assert path.stat().st_size == 328


# ---- interrupted and killed -----------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A report in the middle of its kernels, one row of which it has."""
    folder, script = tmp_path / "report", tmp_path / "run.py"
    row = json.dumps(
        {"side": "ours", "net": "alexnet", "batch": 1, "precision": "bf16", "layer": "conv2",
         "products": True, "operation": "conv_fprop", "flops": 1000, "bytes": 10, "plans": {"plan": {
             "kernel": "k", "seconds": 1e-5, "seconds_min": 1e-5, "seconds_max": 1e-5, "calls": 3}}}
    )  # fmt: skip
    code = (
        "import time; out = open('kernels.jsonl', 'a'); "
        f"print({row!r}, file=out); print('{{\"side\": \"ou', end='', file=out, flush=True); time.sleep(1000)"
    )
    script.write_text(
        f"import os, sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        "from gpu_report import __main__, parts, running\n"
        f"code = {f'import os; os.chdir({str(folder)!r}); {code}'!r}\n"
        "command = running.Command([sys.executable, '-c', code])\n"
        "parts.parts = lambda settings: [running.Part('kernels', 60, lambda run: run.do(command)),"
        " running.Part('step', 60, lambda run: None)]\n"
        f"sys.exit(__main__.main([{str(folder)!r}, '--seconds', '100']))\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    lines = folder / "kernels.jsonl"
    while not lines.exists() or '"ou' not in lines.read_text().split("\n")[-1]:
        assert process.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    yield process, folder
    process.kill()
    process.wait(timeout=60)
    # A report that is killed leaves what it started.
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(child), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_report_leaves_what_it_had(begun: Any, number: signal.Signals) -> None:
    process, folder = begun
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    found = states(folder)
    assert found["kernels"]["state"] == "interrupted" and found["step"]["state"] == "waiting"
    assert "kernels      interrupted" in output
    (result,) = json.loads((folder / "summary.json").read_text())["results"]
    assert [row["layer"] for row in result["rows"]] == ["conv2"]
    text = (folder / "results.txt").read_text()
    assert "alexnet, batch 1, bf16" in text and text in output


def test_a_killed_report_can_be_summed_up(begun: Any, capsys: pytest.CaptureFixture[str]) -> None:
    process, folder = begun
    process.kill()
    process.wait(timeout=60)
    assert main_module.main([str(folder), "--summary"]) == 0
    text = (folder / "results.txt").read_text()
    assert text in capsys.readouterr().out
    assert "parts: kernels running" in text and "conv2        conv_fprop" in text
    (result,) = json.loads((folder / "summary.json").read_text())["results"]
    assert (result["what"], result["precision"]) == ("kernels", "bf16")


def test_there_is_nothing_to_sum_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main_module.main([str(tmp_path / "none"), "--summary"])
    assert main_module.main([str(tmp_path), "--summary"]) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["results"] == []


# ---- which parts ----------------------------------------------------------------------------------------

NAMES = [
    "machine", "build", "conformance", "smoke", "tests", "kernels", "step", "calibration", "more-tests",
    "training", "sanitize", "roofline", "checkpoint", "last-tests", "scaling", "data",
]  # fmt: skip


def test_parts_are_chosen_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, seconds = [], []

    def run(self: Any, names: Any) -> bool:
        chosen.append(names)
        seconds.append(self._seconds)
        (self.folder / "results.txt").touch()
        return True

    monkeypatch.setattr(Report, "run", run)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    (tmp_path / "kernels.jsonl").write_text("of an earlier report")
    (tmp_path / "other.txt").write_text("not of a report")
    assert main_module.main([str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.txt", "results.txt"]
    main_module.main([str(tmp_path), "--parts", "step kernels", "--skip", "", "--minutes", "4"])
    main_module.main([str(tmp_path), "--skip", "tests,scaling", "--seconds", "100"])
    main_module.main([str(tmp_path), "--parts", "build sanitize-all"])
    left = [name for name in NAMES if name not in ("tests", "scaling")]
    assert chosen == [NAMES, ["step", "kernels"], left, ["build", "sanitize-all"]]
    assert seconds == [570, 240, 100, 570]
    with pytest.raises(SystemExit):
        main_module.main([str(tmp_path), "--parts", "kernel"])
    assert "there is no part 'kernel'" in capsys.readouterr().err


class FakeRun:
    """Notes what a part would run; `statuses` are what it is told of that."""

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
    for name in ("smoke", "tests", "kernels", "step", "training", "sanitize", "roofline"):
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
        forms_module.check_forms([form], True, "bf16")


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


# ---- the summary ----------------------------------------------------------------------------------------


def test_the_summary_says_what_counts(tmp_path: Path) -> None:
    cells = [{"name": "smoke", "state": "failed", "seconds": 3.0, "why": ""}]
    (tmp_path / "summary.json").write_text(json.dumps({"parts": cells}))
    (tmp_path / "smoke.log").write_text(
        "$ python smoke.py\nok 0 conv_fprop P {} 3 ms\n"
        "FAILED 7 lrn_forward P {}\n    AssertionError: y is off\n"
        "LOST 7 an illegal address\nok 8 fc P {} 1 ms\n"
    )
    (tmp_path / "report.log").write_text(
        "========= Invalid __global__ write of size 4 bytes\n=========     at fc_fprop+0x10\n"
        "========= ERROR SUMMARY: 1 error\n========= RACECHECK SUMMARY: 0 hazards displayed\n"
    )
    (tmp_path / "tests.log").write_text(
        "tests/kernels/test_fc.py::test_a[cuda:0-fp32]\n"
        "[gw0] [ 50%] PASSED tests/kernels/test_fc.py::test_a[cuda:0-fp32]\n"
        "[gw1] [100%] FAILED tests/kernels/test_fc.py::test_b[cuda:0-bf16-1 x 2]\n"
        "FAILED tests/kernels/test_fc.py::test_b[cuda:0-bf16-1 x 2] - AssertionError: 3 of 4\n"
        "========= 1 failed, 1 passed in 3.21s =========\n"
    )
    machine = [
        {"what": "conformance", "check": "mma", "failure": ""},
        {"what": "conformance", "checks": 1, "failed": ["mma"]},
        {"what": "calibration", "measurements": [{"name": "copy", "value": 4300.0, "unit": "GB/s"}]},
    ]
    (tmp_path / "machine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in machine))
    forms = {"what": "step forms", "net": "alexnet", "precision": "bf16"}
    pinned = {"pinned": {"seconds": 2e-3, "images_per_second": 64000.0}}
    replay = {"replay": {"seconds": 1e-3, "images_per_second": 128000.0}}
    rows = [
        {"side": "cconvnet", "form": "", "seconds": 2e-3, "images_per_second": 64000.0},
        {"side": "PyTorch", "form": "graph", "seconds": 5e-3, "images_per_second": 25600.0}
        | {"times_as_fast": 2.5},
    ]
    rows = [row | {"precision": "bf16"} for row in rows]
    result = {"what": "step", "rows": rows, "peers": {"pytorch": {"failed": {"compiled": "no compiler"}}}}
    lines = [{**forms, "forms": pinned}, {**forms, "forms": pinned | replay}, result]
    (tmp_path / "step.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = summary.write(tmp_path)
    assert "parts: smoke failed 3 s" in text
    assert "smoke: 2 ok, 1 failed, 1 lost the device" in text
    assert "  FAILED 7 lrn_forward P {}\n    AssertionError: y is off" in text
    assert "tests: 1 failed, 1 passed in 3.21s (lines: 1 PASSED, 1 FAILED)" in text
    failure = "  FAILED tests/kernels/test_fc.py::test_b[cuda:0-bf16-1 x 2] - AssertionError: 3 of 4\n"
    assert text.count("FAILED tests/kernels/test_fc.py") == 1 and failure in text
    assert "conformance: 1 checks, 1 failed\n  FAILED mma" in text
    assert "compute-sanitizer: ERROR SUMMARY: 1 error\ncompute-sanitizer: RACECHECK SUMMARY: 0 haz" in text
    assert "  Invalid __global__ write of size 4 bytes\n" in text
    assert "calibration: 1 measurements\n  copy 4300 GB/s" in text
    ours = "our step, alexnet bf16: pinned 2.000 ms (64,000/s), replay 1.000 ms (128,000/s)"
    assert text.count("our step") == 1 and ours in text
    assert "bench step PyTorch graph bf16: 5.000 ms (25,600/s), ours 2.50 times as fast" in text
    assert "PyTorch compiled no compiler" in text
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["parts"] == cells and [r["what"] for r in found["results"]] == ["step forms", "step"]


def measured(side: str, layer: str, precision: str, seconds: float, column: str = "plan") -> dict[str, Any]:
    plan = {
        "kernel": f"conv_fprop_{side}",
        "seconds": seconds,
        "seconds_min": seconds,
        "seconds_max": seconds,
    }
    plan |= {"calls": 15, "how": "graph", "launch_seconds": 3e-5, "called_seconds": seconds}
    line = {"side": side, "net": "alexnet", "batch": 128, "precision": precision, "layer": layer}
    line |= {"operation": "conv_fprop", "products": True, "plans": {column: plan}}
    return line | ({"flops": 10**10, "bytes": 10**7} if side == "ours" else {})


def test_kernels_stand_beside_their_fastest_peer(tmp_path: Path) -> None:
    lines = [
        {
            "event": "begin",
            "side": "ours",
            "about": {"caches": "cold: 4 times"},
            "machine": {"device": "cuda:0"},
        },
        {"event": "begin", "side": "pytorch", "missing": "pip install torch"},
        {"event": "begin", "side": "cudnn", "about": {"columns": ["best", "strict"]}},
        *(measured("ours", f"conv{i}", "bf16", 2e-5) for i in range(60)),
        *(measured("cudnn", f"conv{i}", "bf16", 4e-5 if i else 1e-5, "best") for i in range(2)),
        measured("ours", "conv1", "fp32", 2e-5),
        measured("cudnn", "conv1", "fp32", 1e-5, "best"),
        measured("cudnn", "conv1", "fp32", 6e-5, "strict"),
        *(measured("ours", f"conv{i}", "tf32", 2e-5) for i in range(60)),
    ]
    lines[5]["plans"]["plan"]["how"] = "not captured: it may not"  # type: ignore[index]
    (tmp_path / "kernels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = summary.write(tmp_path)
    assert len(text) <= 9500 and text.rstrip().endswith("more in kernels.jsonl and summary.json")
    means = [line for line in text.splitlines() if line.startswith("geometric mean of peer / ours, ")]
    assert [mean.partition("ours, ")[2] for mean in means] == [
        "alexnet bf16, products: 1.000 (2 rows, 1 at least as fast)",
        # What rounds to TF32 is no peer of fp32.
        "alexnet fp32, products: 3.000 (1 rows, 1 at least as fast)",
    ]
    (row,) = [line for line in text.splitlines() if line.startswith("  conv1 ") and "cudnn best" in line]
    assert row.split()[:7] == ["conv1", "conv_fprop", "20.0", "30.0", "500.0", "0.50", "40.0"]
    assert "not captured: it may not" in text and "pytorch is not compared: pip install torch" in text
    assert len(json.loads((tmp_path / "summary.json").read_text())["results"]) == 3


def test_lines_that_are_none_are_said(tmp_path: Path) -> None:
    (tmp_path / "kernels.jsonl").write_text('{"side": "ours", "net": "alexnet"}\n')
    assert "cannot be merged: KeyError" in summary.write(tmp_path)


# ---- dry ------------------------------------------------------------------------------------------------


def dry(folder: Path, names: str, seconds: int, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_report"), str(folder), "--device", "emulator:0"]
    return subprocess.run(
        [*command, "--parts", names, "--seconds", str(seconds), *more],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env=os.environ | {"SELECT": "emulator and plain and fp32 and relu"},
    )


def check_files(folder: Path) -> None:
    files = list(folder.iterdir())
    assert len(files) <= 8 and all(file.is_file() for file in files)
    assert {file.name for file in files} <= set(main_module.WRITTEN)


def test_kernels_and_step_dry(tmp_path: Path) -> None:
    done = dry(tmp_path, "kernels step training", 90)
    assert done.returncode == 0, done.stdout + done.stderr
    check_files(tmp_path)
    assert {entry["state"] for entry in states(tmp_path).values()} == {"ok", "skipped"}
    results = json.loads((tmp_path / "summary.json").read_text())["results"]
    kernels = {result["precision"]: result for result in results if result["what"] == "kernels"}
    assert set(kernels) == {"fp32", "tf32", "bf16"}
    assert all(row["seconds"] > 0 for result in kernels.values() for row in result["rows"])
    assert set(kernels["fp32"]["peers"]) == {"cudnn", "pytorch"}
    assert {result["what"] for result in results} == {"kernels", "step forms", "step"}
    assert "conv3        conv_wgrad" in done.stdout and "our step, alexnet bf16: pinned" in done.stdout
    # The README's tables can be made of it as it is.
    found = results_module.load(tmp_path)
    assert [result.value["what"] for result in found] == ["kernels"] * 3 + ["step"]
    for words, cell in (("kernels cifar-quick", "| conv3 | conv_wgrad |"), ("step lenet", "| cconvnet |")):
        text = results_module.body(results_module.parse(f"{words} emulator"), found)
        assert cell in text and f"commit {kernels['fp32']['machine']['commit']}" in text


@pytest.mark.long
def test_every_part_dry(tmp_path: Path) -> None:
    done = dry(tmp_path, " ".join(NAMES), 300)
    check_files(tmp_path)
    found = {name: entry["state"] for name, entry in states(tmp_path).items() if name in NAMES}
    assert found.pop("data") == found.pop("sanitize") == "absent", done.stdout
    assert set(found.values()) == {"ok"}, done.stdout


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
