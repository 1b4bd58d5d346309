"""Compare a GPU's instructions with the emulator's, bit by bit: the first thing to do on a new GPU.

    python benchmarks/conformance.py --device cuda:0 --json conformance.jsonl

Builds conformance.cu for the GPU and for the emulator, runs both and compares every word. It covers each
wrapper of kernels/core/ptx.cuh, barriers.cuh, copy_engine.cuh and wgmma.cuh, and the device functions that
kernels use. Checks of instructions that the GPU lacks are left out. A printed line is a check: its number of
words, the number that differ, and the first of those. Checks in brackets are measured, not required:
approximations, the rounding of sums in tensor cores, and what no kernel uses. Their largest difference is
given in units in the last place (ulp).

With ``--device emulator:0`` the emulator is compared with itself under another order of threads.
Exit codes: 0 if every required word is equal, 1 if any is not, 2 if nothing could be compared.

The file of ``--json`` has a line for each check, then one for the run, written as they become known.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import programs

SOURCE = Path(__file__).resolve().parent / "conformance.cu"
# A check takes milliseconds; one that takes this long hangs.
SECONDS = 30.0
# Words of the longest check whose words are kept.
MOST_WORDS = 10_000

Words = np.ndarray[Any, np.dtype[np.uint32]]


@dataclass(frozen=True)
class Answer:
    """Words that a program printed for a check.

    Attributes:
        exact: Whether every word is required.
        floats: Whether words are floats.
        words: The words; None if the check failed, as `failure` says.
        failure: The reason of a failure.
        of: The one architecture that has the instruction, such as ``sm_90a``; empty if all have it.
    """

    exact: bool
    floats: bool
    words: Words | None
    failure: str = ""
    of: str = ""


@dataclass(frozen=True)
class Comparison:
    """Words of a check on a device, compared with those of the emulator.

    Attributes:
        check: The name of the check.
        exact: Whether every word is required.
        values: The number of compared words.
        mismatches: The number of words that differ.
        first: Index, found and expected word of the first that differs, in hexadecimal.
        largest_ulp: The largest difference of two floats; None where words are no floats, or one is no
            number.
        mean_ulp: The mean difference.
        words: Found and expected words, in hexadecimal, of a short check that is measured and differs: those
            of tensor cores show how they round.
        failure: Why nothing was compared; empty if it was.
        of: The one architecture that has the instruction; empty if all have it.
    """

    check: str
    exact: bool
    values: int
    mismatches: int
    first: dict[str, Any] | None = None
    largest_ulp: int | None = None
    mean_ulp: float | None = None
    words: dict[str, str] | None = None
    failure: str = ""
    of: str = ""

    @property
    def holds(self) -> bool:
        """Return whether every required word is equal."""
        return not self.failure and not (self.exact and self.mismatches)

    def __str__(self) -> str:
        name = self.check if self.exact else f"[{self.check}]"
        if self.failure:
            return f"{name}: FAILED: {self.failure}"
        if not self.mismatches:
            return f"{name}: {self.values:,} words equal"
        text = f"{name}: {self.mismatches:,} of {self.values:,} words differ"
        if self.largest_ulp is not None:
            text += f", by at most {self.largest_ulp:,} ulp"
        if self.first:
            text += f"; word {self.first['index']} is {self.first['found']}, not {self.first['expected']}"
        return text


# ---- comparing ------------------------------------------------------------------------------------------


def _steps(words: Words) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Map floats to integers that are one apart where floats are neighbours; both zeros are 0."""
    magnitude = (words & np.uint32(0x7FFFFFFF)).astype(np.int64)
    return np.where(words >> np.uint32(31), -magnitude, magnitude)


def compare(check: str, found: Answer, expected: Answer) -> Comparison:
    """Compare the words of a check on a device with the expected ones."""
    if found.words is None or expected.words is None:
        failure = found.failure or f"the emulator: {expected.failure}"
        return Comparison(check, expected.exact, 0, 0, failure=failure, of=expected.of)
    if found.words.shape != expected.words.shape:
        failure = f"{found.words.size} words, not {expected.words.size}"
        return Comparison(check, expected.exact, 0, 0, failure=failure, of=expected.of)
    differ = found.words != expected.words
    first, largest, mean = None, None, None
    if differ.any():
        index = int(np.flatnonzero(differ)[0])
        first = {"index": index}
        first |= {"found": f"0x{found.words[index]:08x}", "expected": f"0x{expected.words[index]:08x}"}
    if expected.floats:
        numbers = ((found.words & 0x7F800000) != 0x7F800000) & ((expected.words & 0x7F800000) != 0x7F800000)
        if (numbers | ~differ).all():
            distance = np.where(differ, np.abs(_steps(found.words) - _steps(expected.words)), 0)
            largest, mean = int(distance.max(initial=0)), float(distance.mean())
    words = None
    if first and not expected.exact and found.words.size <= MOST_WORDS:
        words = {"found": _hex(found.words), "expected": _hex(expected.words)}
    return Comparison(
        check,
        expected.exact,
        found.words.size,
        int(differ.sum()),
        first,
        largest,
        mean,
        words,
        of=expected.of,
    )


def _hex(words: Words) -> str:
    return words.astype(">u4").tobytes().hex()


# ---- running --------------------------------------------------------------------------------------------


def listed(program: Path, options: Sequence[str] = ()) -> list[str] | None:
    """Return the names of the checks that a program can run; None if it cannot tell, as without a driver."""
    words = [program, *options, "--list"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS)
    return done.stdout.splitlines() if done.returncode == 0 else None


def answers(program: Path, checks: Sequence[str], options: Sequence[str]) -> Iterator[tuple[str, Answer]]:
    """Yield every check's answer, in order.

    A check that ends the program fails; the others run in a new one.
    """
    left, failures = list(checks), [""]
    while left:
        try:
            done = subprocess.run(
                [program, *options, *left], capture_output=True, text=True, check=False, timeout=SECONDS
            )
            output, why = done.stdout, done.stderr.strip() or f"exit code {done.returncode}"
            failed = done.returncode != 0
        except subprocess.TimeoutExpired as error:
            printed = error.stdout or b""
            output = printed.decode() if isinstance(printed, bytes) else printed
            why, failed = f"still running after {SECONDS:.0f} s", True
        lines = output.split("\n")[:-1]  # the last line is complete only if a line break follows it
        for line in lines:
            value = json.loads(line)
            words = np.frombuffer(bytes.fromhex(value["words"]), ">u4").astype(np.uint32)
            yield value["check"], Answer(value["exact"], value["float"], words, of=value.get("of", ""))
            left.remove(value["check"])
        if not left:
            return
        failures.append(why if failed else "it printed nothing")
        # If three programs end alike before their first answer, for example without a driver, all would.
        hopeless = not lines and len(set(failures[-3:])) == 1
        for check in left if hopeless else left[:1]:
            yield check, Answer(exact=True, floats=False, words=None, failure=failures[-1])
        left = [] if hopeless else left[1:]


def _build(device: str, archs: str | None) -> dict[str, Path]:
    kinds = dict.fromkeys([programs.kind_of(device), "emulator"])
    with ThreadPoolExecutor() as threads:
        made = threads.map(lambda kind: programs.build(SOURCE, kind, archs), kinds)
        return dict(zip(kinds, made, strict=True))


def run(device: str, archs: str | None, out: TextIO | None) -> int:
    """Build the programs, run all checks and print the comparisons; return the exit status."""
    begin = time.monotonic()
    kind = programs.kind_of(device)
    built = _build(device, archs)
    build_seconds = time.monotonic() - begin
    options = ["--device", str(programs.ordinal_of(device))] if kind == "cuda" else ["--schedule", "random"]
    checks = listed(built[kind], options) or listed(built["emulator"]) or []
    expected = dict(answers(built["emulator"], checks, []))
    failed = []

    def write(value: dict[str, Any]) -> None:
        if out:
            print(json.dumps(value), file=out, flush=True)

    for check, answer in answers(built[kind], checks, options):
        comparison = compare(check, answer, expected[check])
        print(comparison, flush=True)
        write(asdict(comparison))
        if not comparison.holds:
            failed.append(check)
    seconds = time.monotonic() - begin
    summary: dict[str, Any] = {"what": "conformance", "device": device, "checks": len(checks)}
    summary |= {"failed": failed, "build_seconds": round(build_seconds, 2), "seconds": round(seconds, 2)}
    write({**summary, **(programs.chip() if kind == "cuda" else {})})
    verdict = f"{len(failed)} FAILED: {'; '.join(failed)[:200]}" if failed else "all required words are equal"
    print(f"{len(checks)} checks on {device} in {seconds:.1f} s ({build_seconds:.1f} s to build): {verdict}")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = programs.parser(__doc__, "write a line of JSON for each check").parse_args(arguments)

    def work() -> int:
        if options.json is None:
            return run(options.device, options.arch, None)
        with options.json.open("w") as out:
            return run(options.device, options.arch, out)

    return programs.exit_status(options.device, work)


if __name__ == "__main__":
    sys.exit(main())
