"""The CPU build with the threads that OpenMP grants: every call ends, and results are bit-identical.

Each case runs in a process of its own, which is killed if it does not end.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import commands
from safetensors.numpy import load_file

from cconvnet import devices

pytestmark = pytest.mark.skipif(
    devices.get_device("cpu:0").module.build_kind() != "cpu", reason="built without oneDNN"
)

SECONDS = 100
OPENMP = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC", "OMP_MAX_ACTIVE_LEVELS")


def child(*arguments: str, **environment: str) -> dict[str, Any]:
    """Return the JSON that a Python process prints, run with only these OpenMP variables."""
    inherited = {name: value for name, value in os.environ.items() if name not in OPENMP}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=Path(__file__).parents[2],
        env=inherited | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@functools.cache
def of_one_thread() -> dict[str, str]:
    results: dict[str, str] = child("-m", "tests.helpers.thread_results", OMP_NUM_THREADS="1")["results"]
    return results


@pytest.mark.parametrize(
    ("environment", "granted"),
    [
        ({"OMP_NUM_THREADS": "2"}, "2 threads"),
        ({"OMP_NUM_THREADS": "3"}, "3 threads"),
        ({"OMP_NUM_THREADS": "7", "OMP_DYNAMIC": "true"}, "7 threads"),
        ({"OMP_NUM_THREADS": "2", "OMP_THREAD_LIMIT": "1"}, "1 thread, of 2 asked for (OMP_THREAD_LIMIT=1)"),
        ({"OMP_NUM_THREADS": "5", "OMP_THREAD_LIMIT": "3"}, "3 threads, of 5 asked for (OMP_THREAD_LIMIT=3)"),
        (
            {"OMP_NUM_THREADS": "4", "OMP_MAX_ACTIVE_LEVELS": "0"},
            "1 thread, of 4 asked for (OMP_MAX_ACTIVE_LEVELS=0)",
        ),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_results_do_not_depend_on_threads(environment: dict[str, str], granted: str) -> None:
    found = child("-m", "tests.helpers.thread_results", **environment)
    assert found["device"].partition(", ")[2] == granted
    wanted = of_one_thread()
    assert len(wanted) > 50 and "train fp32" in wanted
    assert {name for name in wanted if wanted[name] != found["results"][name]} == set()


# Each prints the digests of some calls in a situation, and what the device then says of its threads.
_BEGIN = """
import ctypes, json, os, resource, signal
from concurrent.futures import ThreadPoolExecutor
from cconvnet.devices import get_device
from tests.helpers.thread_results import operations

WORDS = ["conv", "fc", "local", "lrn"]
gomp = ctypes.CDLL("libgomp.so.1")

def end(results):
    print(json.dumps({"results": results, "threads": get_device("cpu:0").module.build_info()}))
"""
SITUATIONS = {
    "several_python_threads": """
with ThreadPoolExecutor(4) as threads:
    found = list(threads.map(lambda _: operations(WORDS), range(4)))
assert all(results == found[0] for results in found)
end(found[0])
""",
    "inside_a_parallel_region": """
found = []
@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def body(_):
    found.append((operations(WORDS), get_device("cpu:0").module.build_info()))
operations(WORDS)  # primitives for other teams are there
gomp.GOMP_parallel(body, None, 2, 0)
assert len(found) == 2 and found[0] == found[1]
assert "1 thread, of 3 asked for (called inside a parallel region)" in found[0][1]
end(found[0][0])
""",
    "after_a_fork": """
before = operations(WORDS)
readable, writable = os.pipe()
if os.fork() == 0:
    signal.alarm(60)
    assert operations(WORDS) == before
    os.write(writable, get_device("cpu:0").module.build_info().encode())
    os._exit(0)
os.wait()
said = os.read(readable, 1000).decode()
assert "1 thread, of 3 asked for (the process was forked after it used more)" in said, said
assert operations(WORDS) == before
end(before)
""",
    "forked_before_its_first_call": """
get_device("cpu:0")
readable, writable = os.pipe()
if os.fork() == 0:
    signal.alarm(60)
    operations(WORDS)
    os.write(writable, get_device("cpu:0").module.build_info().encode())
    os._exit(0)
os.wait()
said = os.read(readable, 1000).decode()
assert said.endswith(", 3 threads"), said
end(operations(WORDS))
""",
    "the_wish_changes": """
found = []
for count, levels, dynamic in ((1, 1, 0), (4, 1, 0), (4, 0, 0), (2, 0, 0), (2, 1, 1), (3, 1, 0)):
    gomp.omp_set_num_threads(count)
    gomp.omp_set_max_active_levels(levels)
    gomp.omp_set_dynamic(dynamic)
    found.append(operations(WORDS))
assert all(results == found[0] for results in found)
end(found[0])
""",
    # Stacks take 8 MB of address space each.
    "the_system_starts_few": """
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
gomp.omp_set_num_threads(1000)
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
module = get_device("cpu:0").module
said = module.build_info()
assert "of 1000 asked for (the system starts no more)" in said, said
found = operations(["lrn", "add", "bias"])
gomp.omp_set_num_threads(3)
end(found)
""",
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_call_ends(situation: str) -> None:
    found = child("-c", _BEGIN + SITUATIONS[situation], OMP_NUM_THREADS="3")
    assert found["threads"].endswith(", 3 threads")
    wanted = of_one_thread()
    assert found["results"] and {n for n, v in found["results"].items() if wanted[n] != v} == set()


def test_doctor_names_the_limit() -> None:
    done = commands.run("doctor", OMP_NUM_THREADS="2", OMP_THREAD_LIMIT="1")
    assert "1 thread, of 2 asked for (OMP_THREAD_LIMIT=1)" in done.stdout
    assert "unset OMP_THREAD_LIMIT" in done.stdout


def test_a_resume_with_other_threads_gives_the_same_weights(tmp_path: Path) -> None:
    options = ("--net", "lenet", "--data", "digits", "--device", "cpu:0", "--seed", 3, "--quiet")

    def train(threads: int, *arguments: object, **environment: str) -> str:
        done = commands.run("train", *arguments, OMP_NUM_THREADS=str(threads), **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    train(3, *options, "--steps", 12, "--out", tmp_path / "whole")
    train(2, *options, "--steps", 6, "--out", tmp_path / "half")
    assert "arithmetic" not in train(1, "--resume", tmp_path / "half", "--steps", 12)
    whole, half = (
        load_file(sorted((tmp_path / run).rglob("*.safetensors"))[-1]) for run in ("whole", "half")
    )
    assert whole.keys() == half.keys() and len(whole) > 8
    for name, values in whole.items():
        assert values.tobytes() == half[name].tobytes(), name
    # Other instructions may round otherwise, and that is said.
    said = train(2, "--resume", tmp_path / "half", "--steps", 13, ONEDNN_MAX_CPU_ISA="SSE41")
    assert re.search(r"^arithmetic: .*SSE4.1 from here on, it was .*: rounding differs$", said, re.M)
