"""Prove the rows of selection tables that a GPU is to prove, and write the proof.

    python benchmarks/gpu_report/proving.py cuda:0 --machine machine.jsonl --out folder

Each row has a process of its own, since a wrong one may lose the device or never end. It runs the row's exact
tests on every problem that the row supports, plain and with all that goes along with the product. A row is
proven if all of them pass, and if conformance.py, whose lines --machine names, found the architecture's own
instructions as the emulator has them. cconvnet/devices/proofs.py describes the file that is written.

Exit codes: 0 if all rows are proven, or if this device has none to prove; 1 if any is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from cconvnet._problem import ConvProblem, FcProblem  # noqa: E402
from cconvnet.devices import Device, get_device, machine, proofs  # noqa: E402
from cconvnet.testing.check import check, impls  # noqa: E402
from cconvnet.testing.problems import CONV, FC, FC_WARP_GROUPS, WARP_GROUPS, with_precision  # noqa: E402

SECONDS = 60.0  # of a row; one that takes longer hangs
PROCESSES = 8
PRECISION = "bf16"

# The tests' own problems by the family of operations, and further ones.
PROBLEMS: dict[str, dict[str, Any]] = {
    "conv": {
        **CONV,
        **{f"warp groups {name}": problem for name, problem in WARP_GROUPS.items()},
        "proof slabs": ConvProblem(2, 9, 10, 64, 136, 3, 3, padding=(1, 1)),
        "proof strided": ConvProblem(3, 13, 11, 64, 192, 3, 3, stride=(2, 2), padding=(1, 1)),
        "proof filters_of_slabs": ConvProblem(2, 8, 7, 72, 128, 3, 2, padding=(1, 0)),
        "proof groups": ConvProblem(2, 7, 9, 128, 256, 3, 3, padding=(1, 1), groups=2),
        "proof short_slabs": ConvProblem(2, 9, 9, 96, 160, 5, 5, padding=(2, 2), groups=2),
        "proof slabs_of_48": ConvProblem(3, 8, 9, 96, 136, 3, 3, padding=(1, 1)),
        "proof 1x1": ConvProblem(3, 7, 7, 256, 320, 1, 1),
        "proof dilated": ConvProblem(2, 11, 10, 64, 64, 3, 3, padding=(2, 2), dilation=(2, 2)),
    },
    "fc": {
        **FC,
        **{f"warp groups {name}": problem for name, problem in FC_WARP_GROUPS.items()},
        "proof whole_boxes": FcProblem(128, 256, 128),
        "proof tails": FcProblem(72, 1000, 328),
        "proof splits": FcProblem(96, 1536, 264),
        "proof many_splits": FcProblem(16, 2048, 72),
        "proof splits_back": FcProblem(96, 264, 1536),
        "proof many_splits_back": FcProblem(16, 72, 2048),
    },
}
# Blocks that compute several tiles, with splits along k and without.
LARGE_PROBLEMS: dict[str, dict[str, Any]] = {
    "conv": {
        "alexnet_conv2": ConvProblem(64, 27, 27, 96, 256, 5, 5, padding=(2, 2), groups=2),
        "alexnet_conv3": ConvProblem(64, 13, 13, 256, 384, 3, 3, padding=(1, 1)),
        "resnet_strided": ConvProblem(64, 28, 28, 128, 256, 3, 3, stride=(2, 2), padding=(1, 1)),
    },
    "fc": {
        "alexnet_fc7": FcProblem(128, 4096, 4096),
        "alexnet_fc8": FcProblem(128, 4096, 1000),
    },
}
FUSED: dict[str, list[dict[str, Any]]] = {
    "fprop": [{"bias": True, "relu": True}, {"relu": True, "dropout": "part"}],
    "dgrad": [{"db": True, "masked": True}],
    "wgrad": [{"update": "full"}],
}


def operation_of(row: str) -> str:
    """Return the operation whose table has a row: conv_fprop of conv_fprop_wgmma_bf16_128x128x64."""
    return "_".join(row.split("_")[:2])


def cases(row: str, device: Device) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield the name and problem of each test of a row on a device, with the further arguments of check()."""
    operation = operation_of(row)
    family, direction = operation.split("_")
    large = {f"proof {name}": problem for name, problem in LARGE_PROBLEMS[family].items()}
    for name, problem in {**PROBLEMS[family], **(large if device.kind == "cuda" else {})}.items():
        product = with_precision(problem, PRECISION)
        if row in impls(operation, product, device):
            yield name, product, {}
            if name not in large:
                for arguments in FUSED[direction]:
                    yield name, product, arguments


def prove(row: str, device: Device) -> dict[str, Any]:
    """Run the tests of a row; return their number, and the first that failed with its first difference."""
    count = 0
    for name, problem, arguments in cases(row, device):
        try:
            check(operation_of(row), problem, device, impl=row, nonzero=0, **arguments)
        except Exception as error:
            text = " | ".join(str(error).splitlines()[:2])
            return {
                "checks": count,
                "failure": f"{name} {arguments or ''}: {type(error).__name__}: {text[:300]}",
            }
        count += 1
    return {"checks": count, "failure": ""}


def prove_apart(row: str, device: str) -> dict[str, Any]:
    """Do the same in a process of its own, whatever becomes of it."""
    command = [sys.executable, "-P", __file__, device, "--row", row]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"checks": 0, "failure": f"still running after {SECONDS:.0f} s"}
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        return {"checks": 0, "failure": f"exit code {done.returncode}: {last[:300]}"}
    return found


def trouble_of(lines: Path | None, architecture: str) -> str:
    """Return why instructions of an architecture are not known to be the emulator's; empty if they are."""
    found = []
    if lines is not None and lines.exists():
        for text in lines.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            if isinstance(line, dict) and line.get("of") == architecture:
                found.append(line)
    if not found:
        return f"conformance.py has not compared the instructions of {architecture}"
    wrong = [
        line["check"] for line in found if line.get("failure") or (line.get("exact") and line["mismatches"])
    ]
    return f"conformance.py found other results of {'; '.join(wrong)}"[:300] if wrong else ""


def architecture_of(device: Device) -> str:
    """Return the architecture of a device, such as ``sm_90a``; the name of its kind if it is no GPU."""
    if device.kind != "cuda":
        return device.kind
    found = device.xp.cuda.runtime.getDeviceProperties(device.ordinal)
    return proofs.architecture_of(device.module.build_info(), (found["major"], found["minor"]))


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("device")
    parser.add_argument("--out", type=Path, default=Path(), help="the folder of the proof")
    parser.add_argument("--machine", type=Path, help="lines of conformance.py --json")
    parser.add_argument("--only", default="", help="rows whose names contain this")
    parser.add_argument("--row", help="print the result of one row as JSON, and write no proof")
    options = parser.parse_args(given)
    device = get_device(options.device)
    if options.row:
        print(json.dumps(prove(options.row, device)))
        return 0
    architecture = architecture_of(device)
    rows = [row for row in proofs.rows_to_prove(device.module) if options.only in row]
    rows = [row for row in rows if next(cases(row, device), None)]
    if not rows:
        print(f"no row waits for a proof on {architecture}")
        return 0
    trouble = trouble_of(options.machine, architecture) if device.kind == "cuda" else ""
    proven: dict[str, int] = {}
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(PROCESSES if device.kind == "cuda" else 2) as threads:
        found = threads.map(lambda row: prove_apart(row, options.device), rows)
        for row, result in zip(rows, found, strict=True):
            if failure := result["failure"] or trouble:
                failed[row] = failure
                print(f"FAILED {row}: {failure}", flush=True)
            else:
                proven[row] = result["checks"]
                print(f"ok {row}: {result['checks']} checks", flush=True)
    about = {key: value for key, value in machine.describe(device).items() if key != "command"}
    proof = proofs.proof_of(device.module, architecture, about, proven, failed)
    path = options.out / f"{architecture}.json"
    path.write_text(json.dumps(proof, indent=1) + "\n", encoding="utf-8")
    print(f"{len(proven)} of {len(rows)} rows are proven on {architecture}: {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
