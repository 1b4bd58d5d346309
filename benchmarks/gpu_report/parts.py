"""The parts of a report: what each of them runs, for how long, and what of it is kept."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpu_report.running import LOG, ROOT, Absent, Command, Failed, Part, Run, Running, python, read_values

SMOKE, TESTS, KERNELS, STEP, MACHINE = (
    "smoke.log", "tests.log", "kernels.jsonl", "step.jsonl", "machine.jsonl",
)  # fmt: skip
PRECISIONS = "bf16,fp32,tf32"
# Networks whose kernels are measured, the first first; later ones with the time that is left.
BATCHES = {"alexnet": 128, "resnet50": 64, "vgg16": 32}
PLAN_SECONDS = {"CCONVNET_CUDNN_PLAN_SECONDS": "1"}
PYTORCH_SECONDS = 60  # of the time before cuDNN's frontend is asked
AFTER_BUILD = 25  # seconds that peers may go on with the first network once the modules are there
# PyTorch's forms that are ready at once, and those that may be faster: compiling takes a while, and nothing
# is timed before all of a command's forms have taken the same first steps.
COMPILED = "channels_last+compiled+graph+lrn_by_hand"
STEP_FORMS = [
    ("bf16", "channels_last+graph,channels_last+graph+lrn_by_hand", 60),
    ("bf16", f"{COMPILED},{COMPILED}+bf16_model", 75),
]
# Many processes at once, each with small products on the host.
FEW_THREADS = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
MORE_THREADS = {"OMP_NUM_THREADS": "8", "OPENBLAS_NUM_THREADS": "8"}
PROCESSES = 8  # of the smoke test, at most
RESTARTS = 3  # of each of them, behind cases that lost the device
SANITIZED = 9  # of so many cases a sanitizer watches one
NVIDIA = Path("/opt/nvidia")  # where its tools are installed apart from the toolkit
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
NO_TESTS = 5  # pytest's exit status where none was chosen
# The tests in the order of what they say of a machine.
TEST_FILES = {
    "tests": [
        ("fusion network precision saving anomaly", 60),
        ("conv fc", 75),
    ],
    "more-tests": [("lrn lrn_maxpool pool softmax sgd bias dropout input_transform plain", 50)],
    "last-tests": [
        ("ops", 30),
        ("local neuron contrast_norm eltmax limit_norm bench_kernels bench_roofline bench_lines", 60),
    ],
}


@dataclass
class Settings:
    """Settings of all parts.

    Attributes
        scratch: a folder for what is not kept.
        batch: images in each measurement, instead of each network's own.
        data: pictures or shards that feeding is measured on.
        unbuilt: why the modules cannot be used, once that is known.
        peers, conformance: what runs beside the build, which it does not need.
    """

    device: str
    scratch: Path
    batch: int | None = None
    data: str | None = None
    unbuilt: str = ""
    peers: list[Running] = field(default_factory=list)
    conformance: Running | None = None

    @property
    def kind(self) -> str:
        return self.device.partition(":")[0]

    @property
    def on_gpu(self) -> bool:
        return self.kind == "cuda"

    def need_modules(self) -> None:
        """Raises Absent where the build failed."""
        if self.unbuilt:
            raise Absent(self.unbuilt)

    @property
    def tables(self) -> list[str]:
        """Networks and batches of the kernels; elsewhere than on a GPU a small one."""
        batches = BATCHES if self.on_gpu else {"cifar-quick": 1}
        return [f"{name}:{self.batch or own}" for name, own in batches.items()]

    @property
    def net(self) -> list[str]:
        """The options of the network whose step is measured."""
        if self.on_gpu:
            return ["--net", "alexnet", "--batch", str(self.batch or BATCHES["alexnet"])]
        return ["--net", "lenet", "--batch", str(self.batch or 8)]

    @property
    def select(self) -> str:
        """The tests to run: all of a GPU's; of another device's a few, to try the report."""
        return os.environ.get("SELECT") or (self.kind if self.on_gpu else f"{self.kind} and plain and fp32")


def cores() -> int:
    """The number of processes that may run at once here."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parts(settings: Settings) -> list[Part]:
    """The parts of a report, in order."""
    s = settings

    def part(name: str, most: float, work: object, kept: float = 0.0, listed: bool = True) -> Part:
        return Part(name, most, lambda run: work(s, run), kept, listed)  # type: ignore[operator]

    return [
        part("machine", 60, _machine, 5),
        part("build", 200, _build),
        part("conformance", 40, _conformance, 15),
        part("smoke", 75, _smoke, 30),
        part("tests", 135, _tests("tests"), 30),
        part("kernels", 150, _kernels, 60),
        part("step", 180, _step, 90),
        part("calibration", 65, _calibration, 20),
        part("more-tests", 50, _tests("more-tests")),
        part("training", 30, _training),
        part("sanitize", 80, _sanitize),
        part("roofline", 30, _roofline),
        part("checkpoint", 15, _checkpoint),
        part("last-tests", 90, _tests("last-tests")),
        part("scaling", 40, _scaling),
        part("data", 25, _data),
        part("sanitize-all", 3000, _sanitize_all, listed=False),
    ]


# ---- the machine and the modules ------------------------------------------------------------------------

_CLOCKS = "name,compute_cap,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
_ASKED = [
    ["date", "-u"],
    ["uname", "-a"],
    ["grep", "-E", "MemTotal|MemAvailable", "/proc/meminfo"],
    ["nvidia-smi"],
    ["nvidia-smi", f"--query-gpu={_CLOCKS}", "--format=csv"],
    ["nvcc", "--version"],
    ["c++", "--version"],
]


def _machine(s: Settings, run: Run) -> None:
    run.say(f"{cores()} cores, Python {sys.version.split()[0]}: {sys.executable}")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        run.say(f"{header} is missing: the modules cannot be compiled for this Python")
    for command in _ASKED:
        if shutil.which(command[0]):
            run.do(Command(command), 15)
    names = "numpy|cupy|torch|triton|pybind11|pytest|hypothesis|typer|rich|safetensors|pillow|nvidia-|cuda-"
    run.do(
        python(
            "-c",
            "import importlib.metadata as m, re, sys\n"
            "print(*sorted({f'{d.name} {d.version}' for d in m.distributions()"
            " if re.match(sys.argv[1], d.name or '', re.I)}), sep=', ')",
            names,
        ),
        20,
    )
    run.states.clear()  # whichever of these is not here
    wheels = find_wheels()
    if not wheels:
        run.say("no wheels: where its frontend is not installed, cuDNN is measured through PyTorch alone")
        return
    site = s.scratch / "site"
    options = [
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--no-cache-dir",
        "--upgrade",
        "--target",
        str(site),
    ]
    pip = Command([sys.executable, "-m", "pip", "install", "-q", *options, *map(str, wheels)])
    if run.do(pip, 40) == 0:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(site)]))
        sys.path.append(str(site))


def find_wheels() -> list[Path]:
    """The wheels in $WHEELS, else in the project's ``.whl``: packages that this machine lacks."""
    folder = Path(os.environ.get("WHEELS") or ROOT / ".whl")
    return sorted(folder.glob("*.whl"))


def compile_jobs(kind: str, number: int | None = None, meminfo: Path = Path("/proc/meminfo")) -> int:
    """The number of compilers that run at once: as many as there are cores.

    A machine with a GPU is not short of memory, but some virtual ones grow theirs as it is used and tell of
    little at first. Elsewhere each compiler is given 1.5 GB of what there is in all.
    """
    number = number or cores()
    if kind == "cuda":
        return number
    try:
        kibibytes = re.findall(r"^Mem(?:Total|Available): +([0-9]+)", meminfo.read_text(), re.M)
    except OSError:
        return number
    return max(1, min([number, max((int(text) // 1_500_000 for text in kibibytes), default=number)]))


def _make(s: Settings, jobs: int, modules: Sequence[str] = (), *more: str) -> Command:
    settings = [
        f"-j{jobs}",
        f"PYTHON={sys.executable}",
        *([f"MODULES={' '.join(modules)}"] if modules else []),
    ]
    if s.on_gpu:
        settings.append("CCONVNET_CUDA=on")
    # Not the flags of the make that may have started this.
    alone = {"MAKEFLAGS": "", "MFLAGS": "", "MAKELEVEL": ""}
    return Command(["make", "--no-print-directory", "modules", *settings, *more], alone)


def _build(s: Settings, run: Run) -> None:
    jobs = compile_jobs(s.kind)
    # What rows of tables are made of comes first, since peers need that and no more.
    status = run.do(_make(s, jobs, ["_problem", "_pixels"]))
    if status == 0 and s.on_gpu:
        s.peers.append(run.start(_peers(s, run, 170)))
        # It compiles a program of its own for most of its time.
        if (ROOT / "benchmarks" / "conformance.py").exists():
            s.conformance = run.start(_script("conformance.py", s, s.scratch / "conformance.jsonl"))
    kernels = [f"_{s.kind}"] if s.kind in ("cuda", "emulator") else []
    if status == 0:
        build = _make(s, jobs, ["_problem", "_pixels", *kernels] if kernels else ())
        status = run.do(build)
        if status not in (0, None) and run.left > 60 and jobs > 4:
            run.say(
                "once more, with fewer compilers at a time: they may have wanted more memory than there is"
            )
            status = run.do(_make(s, jobs // 4, ["_problem", "_pixels", *kernels]))
            run.states.discard("failed")
    if status == 0:
        query = "import sys; from cconvnet.devices import PRECISIONS, get_device as d; d = d(sys.argv[1]); "
        query += "print(d.reason, *filter(d.serves, PRECISIONS)); print(d.host(d.array([1.0, 2.0])).sum())"
        status = run.do(python("-c", query, s.device), 60)
    if status != 0:
        s.unbuilt = "the modules could not be built"
        raise Failed(s.unbuilt if status is not None else f"{s.unbuilt} in time")


def _peers(s: Settings, run: Run, seconds: float) -> Command:
    """PyTorch and then cuDNN, one process after the other, for what they have not yet been measured for.

    The first network comes first; others have the time that it leaves.
    """
    first, *others = s.tables
    turns = [("pytorch", first, min(PYTORCH_SECONDS, seconds / 2)), ("cudnn", first, seconds)]
    if others:
        turns += [(side, ",".join(others), seconds) for side in ("cudnn", "pytorch")]
    stop = ("--stop", str(s.scratch / "stop"), "--until", f"{time.monotonic() + seconds:.1f}")
    both = [_lines(s, run, side, share, *stop, tables=tables) for side, tables, share in turns]
    text = "; ".join(shlex.join(command.arguments) for command in both)
    return Command(["/bin/sh", "-c", text], {**both[0].environment, **PLAN_SECONDS})


def _lines(s: Settings, run: Run, side: str, seconds: float, *more: str, tables: str = "") -> Command:
    sizes = [
        "--tables",
        tables or ",".join(s.tables),
        "--precisions",
        PRECISIONS,
        "--seconds",
        f"{max(seconds, 1):.0f}",
    ]
    if not s.on_gpu:
        sizes += ["--calls", "1", "--verify", "finite", "--only", "conv3,fc10,pool3,loss,update"]
    out = ["--json", str(run.folder / KERNELS)]
    return python("-m", "cconvnet.bench.lines", side, "--device", s.device, *sizes, *more, *out)


def _end_peers(s: Settings, run: Run, seconds: float) -> None:
    """Ends peers that still run; the first network they may measure for a while longer."""
    begin = run.left

    def wait(most: float, until: Callable[[], bool]) -> None:
        while any(process.poll() is None for process in s.peers) and not until():
            if begin - run.left >= most or run.left < 5:
                return
            time.sleep(0.2)

    lines = run.folder / KERNELS
    wait(seconds, lambda: measured(lines, "cudnn"))
    (s.scratch / "stop").touch()
    wait(seconds + 5, lambda: False)
    for process in s.peers:
        process.end()
    s.peers.clear()


def measured(lines: Path, side: str) -> bool:
    """True once a side has come to the end of its first table, or is missing."""
    values = (value for value in read_values(lines) if isinstance(value, dict) and value.get("side") == side)
    return any(value.get("event") == "end" or "missing" in value for value in values)


# ---- right? ---------------------------------------------------------------------------------------------


def _script(name: str, s: Settings, out: Path, *more: str) -> Command:
    path = ROOT / "benchmarks" / name
    if not path.exists():
        raise Failed(f"{path.relative_to(ROOT)} is missing")
    return python(str(path), "--device", s.device, *more, "--json", str(out))


def _conformance(s: Settings, run: Run) -> None:
    _end_peers(s, run, AFTER_BUILD)
    out = s.scratch / "conformance.jsonl"
    try:
        run.wait(s.conformance or run.start(_script("conformance.py", s, out)))
    finally:
        run.keep(out, MACHINE, what="conformance")


def _calibration(s: Settings, run: Run) -> None:
    _end_peers(s, run, 0)
    out = s.scratch / "calibration.json"
    seconds = max(5, min(60, int(run.left) - 4)) if s.on_gpu else 5
    try:
        run.do(_script("calibration.py", s, out, "--seconds", str(seconds)))
    finally:
        run.keep(out, MACHINE, what="calibration")


def _smoke(s: Settings, run: Run) -> None:
    s.need_modules()
    _end_peers(s, run, 0)
    count = min(PROCESSES, cores())
    of = count if s.on_gpu else 10 * count  # elsewhere every tenth case, to try the report

    def command(share: int, first: int = 0) -> Command:
        where = ["--share", str(share), "--of", str(of), "--first", str(first)]
        lost = ["--lost", str(s.scratch / f"lost.{share}")]
        script = str(ROOT / "benchmarks" / "gpu_report" / "smoke.py")
        return python(script, s.device, *where, *lost, log=SMOKE, **FEW_THREADS)

    restarts = [0] * count

    def again(share: int, status: int) -> Command | None:
        lost = s.scratch / f"lost.{share}"
        if status != 3 or not lost.exists() or restarts[share] == RESTARTS:
            return None
        restarts[share] += 1
        first = int(lost.read_text()) + 1
        lost.unlink()
        run.states.add("failed")
        return command(share, first)

    run.at_once([command(share) for share in range(count)], again=again)


def _tests(which: str) -> object:
    def tests(s: Settings, run: Run) -> None:
        s.need_modules()
        series = TEST_FILES[which]
        for place, (names, most) in enumerate(series):
            # What is behind it has its share of what is left.
            share = most / sum(seconds for _, seconds in series[place:])
            # On another device than a GPU a few tests are chosen, in some files none.
            run.do(pytest(s, names.split()), share * run.left, fine=() if s.on_gpu else (NO_TESTS,))

    return tests


def pytest(s: Settings, names: Sequence[str]) -> Command:
    """The tests of files, those of the device alone, without the project's own options."""
    found = {path.stem.removeprefix("test_"): path for path in (ROOT / "tests").rglob("test_*.py")}
    options = ["-p", "no:cacheprovider", "-n", str(min(10, cores())), "--device", s.device, "-k", s.select]
    options += ["-v", "-rfE", "--tb=short", "--maxfail=80", "--override-ini", "addopts=", "-m", "not long"]
    elsewhere = {"HYPOTHESIS_STORAGE_DIRECTORY": str(s.scratch / "hypothesis")}
    kept = [str(found[name].relative_to(ROOT)) for name in names if name in found]
    return python("-m", "pytest", *options, *kept, log=TESTS, **FEW_THREADS, **elsewhere)


def _training(s: Settings, run: Run) -> None:
    s.need_modules()
    length = ["--epochs", "3"] if s.on_gpu else ["--steps", "5"]
    out = ["--out", str(s.scratch / "run")]
    run.do(python("-m", "cconvnet", "train", "--net", "lenet", "--device", s.device, *length, *out))


# ---- fast? ----------------------------------------------------------------------------------------------


def _kernels(s: Settings, run: Run) -> None:
    _end_peers(s, run, 0)
    (s.scratch / "stop").unlink(missing_ok=True)
    if s.unbuilt and s.on_gpu:
        run.do(_peers(s, run, run.left - 3))  # they need no kernels of ours
    s.need_modules()
    # Peers have begun with what matters most; what they have not done comes behind ours.
    most = run.left * (0.45 if s.on_gpu else 0.9)
    for _ in range(1 + RESTARTS):
        begin = run.left
        if run.do(_lines(s, run, "ours", most - 3), most) != 3:
            break
        most -= begin - run.left
        if most < 5:
            break
    if run.left > 5:
        run.do(_peers(s, run, run.left - 3))


def _bench(s: Settings, run: Run, most: float, *arguments: str, **environment: str) -> None:
    """A command of cconvnet bench, its result among the lines."""
    out = s.scratch / "bench.json"
    command = ["-m", "cconvnet", "bench", *arguments, "--device", s.device, "--json", str(out)]
    try:
        run.do(python(*command, **environment), most)
    finally:
        run.keep(out, STEP)


def _step(s: Settings, run: Run) -> None:
    s.need_modules()
    steps, net = ("50", s.net) if s.on_gpu else ("1", ["--net", "tiny", "--batch", "2"])
    most = min(50.0, 0.35 * run.left)
    sizes = ["--device", s.device, "--precisions", "bf16,tf32,fp32", "--steps", steps]
    bound = ["--seconds", f"{0.8 * most:.0f}", "--json", str(run.folder / STEP)]
    run.do(python("-m", "cconvnet.bench.step_forms", *net, *sizes, *bound, **FEW_THREADS), most)
    if not s.on_gpu:
        _bench(s, run, run.left, "step", *s.net, "--no-peer", "--steps", "1", "--warmup", "1")
        return
    for place, (precision, forms, seconds) in enumerate(STEP_FORMS):
        share = run.left * seconds / sum(other[2] for other in STEP_FORMS[place:])
        more = ["--precision", precision, "--forms", forms, "--steps", "15"]
        _bench(s, run, share, "step", *s.net, *more, **MORE_THREADS)


def served(s: Settings) -> list[str]:
    """The precisions of the device, as the modules that were just built say in a process of their own."""
    code = "import sys; from cconvnet.devices import PRECISIONS, get_device; "
    code += "print(*filter(get_device(sys.argv[1]).serves, PRECISIONS))"
    asked = python("-c", code, s.device)
    answer = subprocess.run(
        asked.arguments, env={**os.environ, **asked.environment}, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise Failed((answer.stderr.splitlines() or [f"the modules say nothing of {s.device}"])[-1])
    return answer.stdout.split()


def _roofline(s: Settings, run: Run) -> None:
    s.need_modules()
    precisions = [name for name in ("bf16", "tf32", "fp32") if name in served(s)] if s.on_gpu else ["fp32"]
    steps = [] if s.on_gpu else ["--steps", "1", "--warmup", "1"]
    for place, precision in enumerate(precisions):
        share = run.left / (len(precisions) - place)
        _bench(s, run, share, "roofline", *s.net, *steps, "--precision", precision)


def _checkpoint(s: Settings, run: Run) -> None:
    s.need_modules()
    few = [] if s.on_gpu else ["--steps", "1", "--saves", "1"]
    _bench(s, run, run.left, "checkpoint", *s.net, *few, "--out", str(s.scratch))


def _scaling(s: Settings, run: Run) -> None:
    s.need_modules()
    net, seconds = ("alexnet", 0.8 * run.left) if s.on_gpu else ("lenet", 3.0)
    few = [] if s.on_gpu else ["--batch-max", "2", "--sizes", "12"]
    precision = ["--precision", "bf16" if s.on_gpu else "fp32"]
    _bench(s, run, run.left, "scaling", "--net", net, "--seconds", f"{seconds:.0f}", *few, *precision)


def _data(s: Settings, run: Run) -> None:
    if s.data is None:
        raise Absent("no --data FOLDER was given to feed from")
    s.need_modules()
    pictures = str(Path(s.data).resolve())
    _bench(s, run, run.left, "data", *s.net, "--data", pictures, "--seconds", "1", "--no-peer")


# ---- clean? ---------------------------------------------------------------------------------------------


def _sanitize(s: Settings, run: Run) -> None:
    """Two tools over some of the cases."""
    s.need_modules()
    if not s.on_gpu:
        raise Absent(f"compute-sanitizer watches GPUs, not {s.device}; see make sanitize")
    script = str(ROOT / "benchmarks" / "gpu_report" / "smoke.py")
    cases = python(script, s.device, "--of", str(SANITIZED), CCONVNET_TEST_GUARD="0")
    for place, tool in enumerate(TOOLS[:2]):
        run.do(under_compute_sanitizer(tool, cases), run.left / (2 - place))


def _sanitize_all(s: Settings, run: Run) -> None:
    """Every tool over every case; in the emulator the compiler's."""
    s.need_modules()
    shapes = python("tests/helpers/basic_shapes.py", s.device, CCONVNET_TEST_GUARD="0")
    if s.kind == "emulator":
        built = run.do(_make(s, compile_jobs(s.kind), (), "SANITIZE=address,undefined", "OUT=build/sanitize"))
        if built == 0:
            run.do(_with_host_sanitizers(shapes))
        return
    if not s.on_gpu:
        raise Absent(f"compute-sanitizer watches GPUs, not {s.device}")
    for tool in TOOLS:
        run.do(under_compute_sanitizer(tool, shapes))


def under_compute_sanitizer(tool: str, command: Command) -> Command:
    """The command under one of compute-sanitizer's tools; raises Absent where that is not installed."""
    homes = [os.environ.get("CUDA_HOME", "/usr/local/cuda"), *map(str, NVIDIA.glob("*"))]
    places = os.pathsep.join(path for home in homes for path in (f"{home}/bin", home))
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=places)
    if program is None:
        raise Absent("compute-sanitizer was not found; it comes with the CUDA toolkit (CUDA_HOME names that)")
    options = ["--tool", tool, "--error-exitcode", "1", "--print-limit", "20"]
    if tool == "memcheck":
        # CuPy asks things of the driver that may be refused; only what kernels do is looked at.
        options += ["--report-api-errors", "no"]
    return Command([program, *options, *command.arguments], command.environment, LOG)


def _with_host_sanitizers(command: Command) -> Command:
    """On the emulator built with the host compiler's sanitizers, into a Python built without."""
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
