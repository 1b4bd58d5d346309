"""One side of a comparison of kernels on its own, with a JSON line for each case as it is measured.

    python -m cconvnet.bench.lines cudnn --device cuda:0 --tables alexnet:128 --json FILE

One process computes all networks and precisions. It does not measure again what the file already contains.
So a side resumes where it was stopped, or after a case that lost the device. Peers need none of this
package's kernels, so they can be measured while those are compiled. `cconvnet.bench.merging` makes results
of the lines.

The line of a case contains ``side``, ``net``, ``batch``, ``precision``, ``layer``, ``operation`` and
``plans``: for each column the plan of `Side.prepare` with its times. Other lines contain an ``event``:
``begin`` (the side's description), ``ceilings``, ``cut`` (its time was over), ``lost`` (the device is lost)
or ``end``.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cconvnet.bench.cases import Case, cases, select
from cconvnet.bench.peers.side import VERIFICATIONS, Side
from cconvnet.bench.processes import PeerMissing
from cconvnet.bench.timing import summary

SIDES = {
    "ours": "cconvnet.bench.peers.cconvnet_kernels:Ours",
    "cudnn": "cconvnet.bench.peers.cudnn:CuDNN",
    "pytorch": "cconvnet.bench.peers.pytorch_kernels:PyTorch",
}
OURS = "ours"
CALLS = 15
LOST = 3  # the exit status after which the device cannot be used any more

Table = tuple[str, int]  # a network and the number of images


def wanted(tables: Sequence[Table], precisions: Sequence[str], blocks: bool, only: str | None) -> list[Case]:
    """Return the cases in the order in which they are measured: the most important first.

    Sums of products precede all other operations of a network. The others are the same in fp32x3 and tf32
    as in fp32 and are measured once.
    """
    found = []
    for network, batch in tables:
        for products in (True, False):
            for precision in precisions:
                if not products and precision in ("fp32x3", "tf32"):
                    continue
                table = cases(network, batch, precision, blocks)
                found += [case for case in _selected(table, only) if case.is_product == products]
    return found


def _selected(table: list[Case], only: str | None) -> list[Case]:
    return select(table, only) if only else table


def key(line: dict[str, Any]) -> tuple[Any, ...]:
    """Return the key that identifies a case's line."""
    return tuple(line.get(name) for name in ("net", "batch", "precision", "layer", "operation"))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a file; none if there is no file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def measure(
    side: Side,
    name: str,
    table: Sequence[Case],
    write: Callable[[dict[str, Any]], None],
    *,
    over: Callable[[], bool] = lambda: False,
    done: frozenset[tuple[Any, ...]] | set[tuple[Any, ...]] = frozenset(),
    calls: int = CALLS,
    alive: Callable[[], None] = lambda: None,
) -> bool:
    """Measure cases one after the other and report each line.

    Args:
        side: The side that computes.
        name: The side's name in the lines.
        table: The cases.
        write: Called with each line.
        over: Returns whether the time is over; called before each case.
        done: Keys of the cases to leave out.
        calls: Timed calls of each plan.
        alive: Raises if the device cannot be used any more; called after a failure.

    Returns:
        False if the device was lost.
    """
    for case in table:
        about = {"net": case.network, "batch": case.batch, "precision": case.precision}
        line: dict[str, Any] = {"side": name, **about, "layer": case.layer, "operation": case.operation}
        if key(line) in done:
            continue
        if over():
            write({"event": "cut", **line})
            break
        line |= {"products": case.is_product} | ({} if case.trained else {"trained": False})
        line |= {"same": list(case.same)} if case.same else {}
        try:
            line |= _measured(side, name, case, calls)
        except Exception as error:  # later cases are unaffected unless the device is lost
            line["failed"] = f"{type(error).__name__}: {str(error)[:300]}"
        write(line)
        if "failed" in line:
            try:
                alive()
            except Exception as error:
                write({"event": "lost", **about, "side": name, "why": str(error)[:300]})
                return False
        gc.collect()
    return True


def _measured(side: Side, name: str, case: Case, calls: int) -> dict[str, Any]:
    answer = side.prepare(**case.key, precision=case.precision)
    found = {key: answer[key] for key in ("refused", "wrong", "failed") if answer.get(key)}
    # Many plans may have failed, although others took their place.
    if "failed" in found:
        found["unusable"] = dict(list(found.pop("failed").items())[:5])
    if name == OURS and answer["plans"]:
        found |= side.work()  # type: ignore[attr-defined]
    plans = {column: plan | summary(side.time(column, calls)) for column, plan in answer["plans"].items()}
    side.release()
    return found | {"plans": plans}


def _tables(text: str) -> list[Table]:
    return [(name, int(batch)) for name, _, batch in (part.partition(":") for part in text.split(","))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--device", required=True)
    parser.add_argument("--tables", type=_tables, required=True, help="networks and batches: alexnet:128,...")
    parser.add_argument("--precisions", default="bf16,fp32,tf32")
    parser.add_argument("--only", help="cases, as for cconvnet bench kernels")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds for all cases")
    parser.add_argument(
        "--until", type=float, default=math.inf, help="when to end, by the system's monotonic clock"
    )
    parser.add_argument("--calls", type=int, default=CALLS, help="timed calls of each plan")
    parser.add_argument("--verify", choices=VERIFICATIONS)
    parser.add_argument("--stop", type=Path, help="end once this file exists")
    parser.add_argument("--json", type=Path, required=True, help="append lines to this file")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    name, path = options.side, options.json
    lines = list(read(path))
    done = {key(line) for line in lines if line.get("side") == name and "event" not in line}
    with path.open("a", encoding="utf-8") as file:

        def write(line: dict[str, Any]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        def over() -> bool:
            if options.stop is not None and options.stop.exists():
                return True
            now = time.monotonic()
            return bool(now - begin >= options.seconds or now >= options.until)

        module, _, kind = SIDES[name].partition(":")
        try:
            side = getattr(importlib.import_module(module), kind)(
                options.device, "fp32", **({"verify": options.verify} if options.verify else {})
            )
        except PeerMissing as missing:
            write({"event": "begin", "side": name, "missing": str(missing)})
            return 0
        precisions = [p for p in options.precisions.split(",") if side.serves(p)]
        write(
            {
                "event": "begin",
                "side": name,
                "about": side.describe(),
                "precisions": precisions,
                **side.machine(),
            }
        )
        known = {line["precision"] for line in lines if line.get("event") == "ceilings"}
        for precision in precisions if name == OURS else []:
            if precision not in known and not over():
                side.use(precision)
                write({"event": "ceilings", "precision": precision, **side.ceilings()})
        table = wanted(options.tables, precisions, side.shows_blocks, options.only)
        lives = measure(
            side, name, table, write, over=over, done=done, calls=options.calls, alive=side.synchronize
        )
        write({"event": "end", "side": name, "seconds": time.monotonic() - begin})
    return 0 if lives else LOST


if __name__ == "__main__":
    sys.exit(main())
