"""Parts that check: conformance, proofs of rows, the smoke test, tests, a training, and sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from gpu_report.building import compile_jobs, make
from gpu_report.measuring import end_peers, script
from gpu_report.running import LOG, ROOT, Absent, Command, Run, python
from gpu_report.settings import FEW_THREADS, MACHINE, PROVEN, RESTARTS, SMOKE, TESTS, Settings, cores

AFTER_BUILD = 25  # seconds for peers to continue with the first network after the build
PROCESSES = 8  # of the smoke test, at most
SANITIZED = 9  # a sanitizer watches one of so many cases
NVIDIA = Path("/opt/nvidia")  # the folder of tools installed apart from the toolkit
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
NO_TESTS = 5  # pytest's exit status if no test was selected
# Test files with their seconds, the most telling of a machine first.
TEST_FILES = {
    "tests": [
        (
            "fusion steps graph known_networks towers placement network_memory network_state gradcheck "
            "precision saver anomaly",
            60,
        ),
        ("conv fc", 75),
    ],
    "more-tests": [
        (
            "lrn lrn_maxpool pool softmax sgd bias batch_norm dropout input_transform elementwise eltmul "
            "l2_cost tree_sum lars runtime selection",
            50,
        )
    ],
    "last-tests": [
        ("ops bad_calls module_checks", 30),
        ("local neuron contrast_norm eltmax limit_norm bench_kernels bench_roofline bench_lines", 60),
    ],
}


def conformance(settings: Settings, run: Run) -> None:
    """Compare the GPU's instructions with the emulator's."""
    end_peers(settings, run, AFTER_BUILD)
    out = settings.scratch / "conformance.jsonl"
    try:
        run.wait(settings.conformance or run.start(script("conformance.py", settings, out)))
    finally:
        run.keep(out, MACHINE, what="conformance")


def proof(settings: Settings, run: Run) -> None:
    """Prove the rows that are chosen by themselves only where a GPU has proven them; later parts use them."""
    settings.need_modules()
    end_peers(settings, run, 0)
    script = str(ROOT / "benchmarks" / "gpu_report" / "proving.py")
    files = ["--machine", str(run.folder / MACHINE), "--out", str(run.folder)]
    few = [] if settings.on_gpu else ["--only", "256x64x64"]
    run.do(python(script, settings.device, *files, *few, **FEW_THREADS))
    os.environ[PROVEN] = str(run.folder)


def smoke(settings: Settings, run: Run) -> None:
    """Run every operation, table row and type once, in several processes."""
    settings.need_modules()
    end_peers(settings, run, 0)
    count = min(PROCESSES, cores())
    of = count if settings.on_gpu else 10 * count  # elsewhere every tenth case is enough to try the report

    def command(share: int, first: int = 0) -> Command:
        where = ["--share", str(share), "--of", str(of), "--first", str(first)]
        lost = ["--lost", str(settings.scratch / f"lost.{share}")]
        script = str(ROOT / "benchmarks" / "gpu_report" / "smoke.py")
        return python(script, settings.device, *where, *lost, log=SMOKE, **FEW_THREADS)

    restarts = [0] * count

    def again(share: int, status: int) -> Command | None:
        lost = settings.scratch / f"lost.{share}"
        if status != 3 or not lost.exists() or restarts[share] == RESTARTS:
            return None
        restarts[share] += 1
        first = int(lost.read_text()) + 1
        lost.unlink()
        run.states.add("failed")
        return command(share, first)

    run.at_once([command(share) for share in range(count)], again=again)


def tests(which: str) -> object:
    """Return the part that runs the tests of some files."""

    def tests(settings: Settings, run: Run) -> None:
        settings.need_modules()
        series = TEST_FILES[which]
        for place, (names, most) in enumerate(series):
            # Later files have their share of the remaining time.
            share = most / sum(seconds for _, seconds in series[place:])
            # On other devices than a GPU few tests are selected, in some files none.
            run.do(
                pytest(settings, names.split()), share * run.left, fine=() if settings.on_gpu else (NO_TESTS,)
            )

    return tests


def pytest(settings: Settings, names: Sequence[str]) -> Command:
    """Return the command that runs the device's tests in some files, without the project's own options."""
    found = {path.stem.removeprefix("test_"): path for path in (ROOT / "tests").rglob("test_*.py")}
    options = [
        "-p",
        "no:cacheprovider",
        "-n",
        str(min(10, cores())),
        "--device",
        settings.device,
        "-k",
        settings.select,
    ]
    options += ["-v", "-rfE", "--tb=short", "--maxfail=80", "--override-ini", "addopts=", "-m", "not long"]
    elsewhere = {"HYPOTHESIS_STORAGE_DIRECTORY": str(settings.scratch / "hypothesis")}
    kept = [str(found[name].relative_to(ROOT)) for name in names if name in found]
    return python("-m", "pytest", *options, *kept, log=TESTS, **FEW_THREADS, **elsewhere)


def training(settings: Settings, run: Run) -> None:
    """Train a small network."""
    settings.need_modules()
    length = ["--epochs", "3"] if settings.on_gpu else ["--steps", "5"]
    out = ["--out", str(settings.scratch / "run")]
    run.do(python("-m", "cconvnet", "train", "--net", "lenet", "--device", settings.device, *length, *out))


def sanitize(settings: Settings, run: Run) -> None:
    """Run two tools over some of the cases."""
    settings.need_modules()
    if not settings.on_gpu:
        raise Absent(f"compute-sanitizer watches GPUs, not {settings.device}; see make sanitize")
    script = str(ROOT / "benchmarks" / "gpu_report" / "smoke.py")
    cases = python(script, settings.device, "--of", str(SANITIZED), CCONVNET_TEST_GUARD="0")
    for place, tool in enumerate(TOOLS[:2]):
        run.do(under_compute_sanitizer(tool, cases), run.left / (2 - place))


def sanitize_all(settings: Settings, run: Run) -> None:
    """Run every tool over every case; in the emulator the compiler's."""
    settings.need_modules()
    shapes = python("tests/helpers/basic_shapes.py", settings.device, CCONVNET_TEST_GUARD="0")
    if settings.kind == "emulator":
        built = run.do(
            make(
                settings, compile_jobs(settings.kind), (), "SANITIZE=address,undefined", "OUT=build/sanitize"
            )
        )
        if built == 0:
            run.do(_with_host_sanitizers(shapes))
        return
    if not settings.on_gpu:
        raise Absent(f"compute-sanitizer watches GPUs, not {settings.device}")
    for tool in TOOLS:
        run.do(under_compute_sanitizer(tool, shapes))


def under_compute_sanitizer(tool: str, command: Command) -> Command:
    """Return the command under one of compute-sanitizer's tools; raise Absent if that is not installed."""
    homes = [os.environ.get("CUDA_HOME", "/usr/local/cuda"), *map(str, NVIDIA.glob("*"))]
    places = os.pathsep.join(path for home in homes for path in (f"{home}/bin", home))
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=places)
    if program is None:
        raise Absent("compute-sanitizer was not found; it comes with the CUDA toolkit (CUDA_HOME names that)")
    options = ["--tool", tool, "--error-exitcode", "1", "--print-limit", "20"]
    if tool == "memcheck":
        # The driver may refuse some of CuPy's requests; only accesses by kernels are checked.
        options += ["--report-api-errors", "no"]
    return Command([program, *options, *command.arguments], command.environment, LOG)


def _with_host_sanitizers(command: Command) -> Command:
    """Return the command on the emulator built with the host compiler's sanitizers.

    They are preloaded into a Python built without them.
    """
    compiler = os.environ.get("CXX", "g++").split()
    libraries = [
        subprocess.run(
            [*compiler, f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("asan", "ubsan", "stdc++")
    ]
    environment = {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "CCONVNET_MODULE_PATH": "build/sanitize",
    }
    return Command(command.arguments, {**command.environment, **environment})
