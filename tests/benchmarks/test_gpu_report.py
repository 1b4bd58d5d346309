"""The report of a GPU machine, with parts that stand in for the real ones, and dry on the emulator."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

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
running, settings, parts = (
    importlib.import_module(f"gpu_report.{name}") for name in ("running", "settings", "parts")
)
main_module = importlib.import_module("gpu_report.__main__")
results_module = load("benchmarks/results.py")
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
        """The first part's time ends once it has written everything."""
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
    """It may finish writing."""
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

NAMES = [part.name for part in parts.parts(Settings("emulator:0", Path())) if part.listed]


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
    # The tables of docs/performance.md can be made of it as it is.
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
