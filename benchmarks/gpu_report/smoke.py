"""Run every operation, table row and element type once on a device: a line for each, whatever fails.

    python benchmarks/gpu_report/smoke.py cuda:0 --share 0 --of 8 [--first 120] [--lost FILE]

One of several processes runs every eighth case. A case may lose the device (an error of CUDA's that
persists). Then the process ends with status 3 and writes the case's number to FILE, to be restarted after it.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.basic_shapes import basic_cases  # noqa: E402

from cconvnet.devices import get_device  # noqa: E402
from cconvnet.testing.check import check, check_fused  # noqa: E402

LOST = 3
# Fused operations are also compared with their parts.
FUSED = ("relu_bias_backward", "lrn_maxpool_forward", "lrn_maxpool_backward", "softmax_cross_entropy")


def run(operation: str, problem: Any, device: Any, arguments: dict[str, Any]) -> None:
    """Run one case; raise if its result is wrong."""
    # Images are drawn as bytes; all other operations that round are compared on real data.
    data = "exact" if operation == "input_transform" else "real"
    check(operation, problem, device, data=data, nonzero=0, **arguments)
    if operation in FUSED or "update" in arguments or "dropout" in arguments:
        check_fused(operation, problem, device, **arguments)


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("device")
    parser.add_argument("--share", type=int, default=0)
    parser.add_argument("--of", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--only", default="*", help="operations, as a pattern")
    parser.add_argument("--lost", type=Path, help="file for the number of a case that lost the device")
    options = parser.parse_args(given)
    device = get_device(options.device)
    if device.kind == "cuda" and os.environ.get("CCONVNET_TEST_GUARD") == "0":
        # Each array has an allocation of its exact size, for a sanitizer to watch.
        device.xp.cuda.set_allocator(None)
    passed = failed = 0
    for number, (operation, problem, arguments) in enumerate(basic_cases(device)):
        if number < options.first or number % options.of != options.share:
            continue
        if not fnmatch.fnmatchcase(operation, options.only):
            continue
        case = f"{number} {operation} {problem!r} {arguments}"
        begin = time.perf_counter()
        try:
            run(operation, problem, device, arguments)
        except Exception as error:
            failed += 1
            text = " | ".join(str(error).splitlines()[:3])
            # One write, since other processes append lines to the same file.
            sys.stdout.write(f"FAILED {case}\n    {type(error).__name__}: {text[:700]}\n")
            sys.stdout.flush()
            try:
                device.synchronize()
            except Exception as lost:
                sys.stdout.write(f"LOST {number} {lost}\n")
                sys.stdout.flush()
                if options.lost:
                    options.lost.write_text(str(number))
                os._exit(LOST)  # memory of a lost device cannot be freed
        else:
            passed += 1
            sys.stdout.write(f"ok {case} {1e3 * (time.perf_counter() - begin):.0f} ms\n")
            sys.stdout.flush()
    print(f"share {options.share} of {options.of} on {device.reason}: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
