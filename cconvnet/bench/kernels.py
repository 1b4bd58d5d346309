"""Speed of every kernel of a network, side by side with other libraries' kernels for the same work."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cconvnet.bench.cases import Case, Net, cases, resolved, select
from cconvnet.bench.cost import Work
from cconvnet.bench.peaks import Peaks
from cconvnet.bench.peers.side import VERIFICATIONS, verify_for
from cconvnet.bench.processes import RAISED_MALLOC, PeerMissing, Worker, WorkerError
from cconvnet.bench.timing import GRAPH, calls_for, geometric_mean, summary
from cconvnet.checks import real, whole
from cconvnet.devices import check_precision, get_device, require_precision
from cconvnet.devices.machine import describe

GPU_BATCH = 128
# Multiply-adds of a batch on a CPU, so that a table is measured within minutes: alexnet 128, vgg16 8.
CPU_WORK = 125e9
# Turns of each side.
ROUNDS = 5


@dataclass(frozen=True)
class Peer:
    """A library that ours is compared with.

    Attributes:
        name: The name by which it is chosen and shown.
        target: The class of its worker, "module:Class", a cconvnet.bench.peers.side.Side.
        products: Whether it is asked for sums of products (convolution, fully connected).
        others: Whether it is asked for all other operations.
        environment: Variables of its process, which the result records.
    """

    name: str
    target: str
    products: bool = True
    others: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)

    def takes(self, case: Case) -> bool:
        """Return whether it is asked for a case."""
        return self.products if case.is_gemm else self.others


_PYTORCH = "cconvnet.bench.peers.pytorch_kernels:PyTorch"
_PEERS = {
    "cuda": [
        Peer("cudnn", "cconvnet.bench.peers.cudnn:CuDNN", others=False),
        Peer("pytorch", _PYTORCH, products=False),
    ],
    "cpu": [Peer("pytorch", _PYTORCH, environment=RAISED_MALLOC)],
}


def peers_for(kind: str, names: Sequence[str] | None = None) -> list[Peer]:
    """Return the peers of a kind of device: all, or those with the names.

    Raises:
        ValueError: There is no such peer for this kind of device.
    """
    peers = _PEERS.get(kind, _PEERS["cpu"])
    known = [peer.name for peer in peers]
    for name in names or ():
        if name not in known:
            raise ValueError(f"--peers must be of {', '.join(known)} on a {kind} device, not {name!r}")
    return [peer for peer in peers if names is None or peer.name in names]


def default_batch(net: Net, kind: str) -> int:
    """Return the images in a batch for which a network is measured on a kind of device.

    On a CPU it is the largest power of two up to a GPU's whose products are no more than CPU_WORK.
    """
    if kind != "cpu":
        return GPU_BATCH if kind == "cuda" else 1
    forward = (case for case in cases(net, 1) if case.operation.endswith("_fprop"))
    one = sum(case.problem.flops / 2 * (1 + len(case.same)) for case in forward)
    return int(min(GPU_BATCH, 2 ** max(0, math.floor(math.log2(CPU_WORK / max(one, 1))))))


class _SideWorker:
    """A side in its worker, which is restarted after a failure."""

    def __init__(self, target: str, arguments: dict[str, Any], environment: Mapping[str, str]) -> None:
        self._given = target, arguments, environment
        self._worker: Worker | None = Worker(*self._given)

    def ask(self, method: str, **arguments: Any) -> Any:
        self._worker = self._worker or Worker(*self._given)
        try:
            return self._worker.ask(method, **arguments)
        except WorkerError:
            # The state of its memory is unknown, and it may have ended.
            self.close()
            raise

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker = None


def kernels(
    net: Net = "alexnet",
    *,
    device: str | None = None,
    batch: int | None = None,
    precision: str | None = None,
    size: int | None = None,
    only: str | None = None,
    impl: str | None = None,
    seconds: float = 1.0,
    peers: Sequence[Peer] | None = None,
    verify: str | None = None,
    begun: Callable[[dict[str, Any], list[Case]], None] = lambda result, cases: None,
    measured: Callable[[dict[str, Any], dict[str, Any]], None] = lambda result, row: None,
) -> dict[str, Any]:
    """Measure every layer and pass of a network, ours and its peers' in turn, once both are right.

    Layers with the same problem are measured once.

    Args:
        net: A network, or its name or file; see `cases`.
        device: The name of the device; None: the default device.
        batch: Images in a batch; None: `default_batch`.
        precision: One of cconvnet.devices.PRECISIONS; None: fp32.
        size: Height and width of the images; None: the network's own.
        only: The cases to measure; see cconvnet.bench.cases.select.
        impl: A row of our selection tables to force. Cases that it does not serve are left out.
        seconds: Roughly the seconds that each side computes for each case.
        peers: The peers; None: all of `peers_for`.
        verify: The check of results, one of cconvnet.bench.peers.side.VERIFICATIONS. None: all results, on
            the host. On a GPU, whose kernels the tests check bit by bit, None only checks that all elements
            were written and are finite.
        begun: Called with the result and the cases to come before the first of them.
        measured: Called with the result so far and each new row.

    Returns:
        ``rows``, each with ``seconds``, ``seconds_min``, ``kernel``, ``flops_per_second``,
        ``bytes_per_second``, ``share`` (the least time under the peaks over the measured time) and ``peers``.
        For each column of a peer, ``peers`` contains ``seconds``, ``kernel`` and ``ratio`` (its time over
        ours). On a GPU the times are those of captured graphs. There our rows and those of peers also contain
        ``how`` ("graph", or why the call could not be captured and was timed itself), ``launch_seconds`` (the
        host's time for one call) and ``called_seconds`` (the device's time for a call without graph). A row
        whose result is wrong contains ``wrong`` instead. ``trained`` is false in rows that training does not
        compute, because it computes the layer in another form. ``unproven`` is true for a kernel that this
        GPU is to prove yet. ``same`` contains the names of further layers with the row's problem. ``summary``
        contains the geometric means of the ratios, without rows that are not trained.

    Raises:
        ValueError: The text names the argument.
        DeviceUnavailable: The device cannot be used.
        WorkerError: Our side cannot be started.
    """
    check_precision(precision)
    real("--seconds", seconds, above=0)
    if batch is not None:
        whole("--batch", batch, 1)
    if verify not in (None, *VERIFICATIONS):
        raise ValueError(f"--verify must be {' or '.join(VERIFICATIONS)}, not {verify!r}")
    on, precision = get_device(device), precision or "fp32"
    require_precision(on, precision)
    name, spec = resolved(net, size)
    net = name if spec is None else spec
    batch = default_batch(net, on.kind) if batch is None else batch
    every = cases(net, batch, precision, blocks=on.prefers_blocks(precision))
    wanted = select(every, only)
    peers = peers_for(on.kind) if peers is None else peers
    arguments = {"device": on.name, "precision": precision}
    arguments |= {"verify": verify} if verify else {}

    result: dict[str, Any] = {
        "what": "kernels",
        "machine": describe(on),
        "net": name,
        "batch": batch,
        "precision": precision,
        "seconds_per_row": seconds,
        "rounds": ROUNDS,
        "verify": verify or verify_for(on.kind),
        "peers": {},
        "rows": [],
        "summary": {},
    }
    sides: dict[str, _SideWorker] = {}
    try:
        ours = _SideWorker("cconvnet.bench.peers.cconvnet_kernels:Ours", arguments | {"impl": impl}, {})
        sides[""] = ours
        result["caches"] = ours.ask("describe")["caches"]
        result["ceilings"] = ours.ask("ceilings")
        for peer in peers:
            try:
                sides[peer.name] = _SideWorker(peer.target, arguments, peer.environment)
                about = sides[peer.name].ask("describe")
                result["peers"][peer.name] = about | {"environment": dict(peer.environment)}
            except PeerMissing as missing:
                result["peers"][peer.name] = {"missing": str(missing)}
            except WorkerError as error:
                result["peers"][peer.name] = {"failed": str(error)}
        begun(result, wanted)
        limits = Peaks(**result["ceilings"])
        for case in wanted:
            workers = {
                peer.name: sides[peer.name] for peer in peers if peer.name in sides and peer.takes(case)
            }
            result["rows"].append(_measure(case, ours, workers, seconds, limits))
            result["summary"] = summarize(result["rows"])
            measured(result, result["rows"][-1])
    finally:
        for side in sides.values():
            side.close()
    return result


def _measure(
    case: Case, ours: _SideWorker, peers: dict[str, _SideWorker], seconds: float, limits: Peaks
) -> dict[str, Any]:
    """Measure one row of the result."""
    line: dict[str, Any] = {"layer": case.layer, "operation": case.operation, "products": case.is_product}
    line |= {} if case.trained else {"trained": False}
    line |= {"same": list(case.same)} if case.same else {}
    try:
        own = ours.ask("prepare", **case.key)
        if "refused" in own:
            return line | {"refused": own["refused"]}
        for kernel, why in own["wrong"].items():
            return line | {"kernel": kernel, "wrong": why}
        (plan,) = own["plans"].values()
        work = Work(**ours.ask("work"))
        line |= {"kernel": plan["kernel"], "flops": work.flops, "bytes": work.bytes} | launched(plan)
        line["floor_seconds"] = limits.floor(work)
        line["peers"] = {}
        # The columns that take turns, with their sides and numbers of calls.
        turns: dict[tuple[str, str], tuple[_SideWorker, int]] = {("", "plan"): (ours, _calls(seconds, plan))}
        for name, peer in peers.items():
            turns |= _prepare(case, name, peer, seconds, line["peers"])
        times: dict[tuple[str, str], list[float]] = {turn: [] for turn in turns}
        for _ in range(ROUNDS):
            for turn, (side, calls) in list(turns.items()):
                try:
                    times[turn] += side.ask("time", column=turn[1], calls=calls)
                except WorkerError as error:
                    if side is ours:
                        raise
                    line["peers"][column_name(*turn)] = {"failed": str(error)}
                    del turns[turn]
        for side in (ours, *peers.values()):
            side.ask("release")
    except WorkerError as error:
        return line | {"wrong": str(error)}
    line |= summary(times["", "plan"])
    line["flops_per_second"] = work.flops / line["seconds"]
    line["bytes_per_second"] = work.bytes / line["seconds"]
    line["share"] = line["floor_seconds"] / line["seconds"]
    for turn in turns:
        if turn[0]:
            found = summary(times[turn])
            line["peers"][column_name(*turn)] |= found | {"ratio": found["seconds"] / line["seconds"]}
    return line


def launched(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a plan's work is started, what that costs, and whether it is unproven, if it says so."""
    return {key: plan[key] for key in ("unproven", "how", "launch_seconds", "called_seconds") if key in plan}


def column_name(peer: str, column: str) -> str:
    """Return the name of a peer's column: "pytorch", "cudnn strict"."""
    return peer if column == "plan" else f"{peer} {column}"


def _calls(seconds: float, plan: dict[str, Any]) -> int:
    """Return the number of calls in each round."""
    return max(1, round(calls_for(seconds, plan["seconds"], least=3) / ROUNDS))


def _prepare(
    case: Case, name: str, peer: _SideWorker, seconds: float, found: dict[str, Any]
) -> dict[tuple[str, str], tuple[_SideWorker, int]]:
    """Ask a peer for its plans of a case, note them in `found`, and return its turns."""
    try:
        answer = peer.ask("prepare", **case.key)
    except WorkerError as error:
        found[name] = {"failed": str(error)}
        return {}
    if not answer["plans"]:
        found[name] = {"refused": answer.get("refused", "none of its plans is right")}
        found[name] |= {"wrong": answer["wrong"], "unusable": answer["failed"]}
    turns = {}
    for column, plan in answer["plans"].items():
        found[column_name(name, column)] = {
            "kernel": plan["kernel"],
            "wrong": answer["wrong"],
            "unusable": answer["failed"],
        } | launched(plan)
        turns[name, column] = (peer, _calls(seconds, plan))
    return turns


def summarize(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the geometric means of the ratios by column, of sums of products and of all others."""
    found: dict[str, Any] = {}
    for key, products in (("products", True), ("others", False)):
        ratios: dict[str, list[float]] = {}
        for line in lines:
            if line["products"] == products and line.get("trained", True):
                for name, peer in line.get("peers", {}).items():
                    if "ratio" in peer:
                        ratios.setdefault(name, []).append(peer["ratio"])
        found[key] = {
            name: {"ratio": geometric_mean(values), "rows": len(values)} for name, values in ratios.items()
        }
    return found


def failed(result: dict[str, Any]) -> bool:
    """Return whether one of our results is wrong."""
    return any("wrong" in line for line in result["rows"])


# ---- for people ------------------------------------------------------------------------------------------


def pass_name(operation: str) -> str:
    """Return a readable name of a pass: "fprop", "backward", "relu, bias backward", "update"."""
    if operation == "softmax_cross_entropy":
        return "both passes"
    kind, _, name = operation.rpartition("_")
    return f"{kind.replace('_', ', ')} {name}" if kind.startswith("relu") else name


def label(row: Mapping[str, Any]) -> str:
    """Return the layer of a row, and for how many layers it stands if they are several."""
    return f"{row['layer']} x{1 + len(row['same'])}" if row.get("same") else str(row["layer"])


class Table:
    """Printed table of kernels, a line for each row as it is measured.

    All columns have fixed widths except the last, the kernel's name, which may be long.

    Args:
        result: The result of kernels(), before its first row.
        layers: The labels of the layers it will contain; see `label`.
    """

    def __init__(self, result: dict[str, Any], layers: list[str]) -> None:
        self._result = result
        self._on_gpu = result["machine"]["device"].startswith("cuda")
        self._peers = [
            column_name(name, column)
            for name, peer in result["peers"].items()
            for column in peer.get("columns", [])
        ]
        self._columns = [
            ("layer", max(map(len, ["layer", *layers]))),
            ("pass", 19),
            ("median us", 12),
            ("min us", 12),
            ("TFLOP/s", 8),
            ("GB/s", 8),
            ("of limit", 9),
            *([("launch us", 9)] if self._on_gpu else []),
            *((f"x {name}", max(len(name) + 2, 6)) for name in self._peers),
            ("kernel", 0),
        ]

    def _line(self, cells: list[str]) -> str:
        left = ("layer", "pass", "kernel")
        return "  ".join(
            cell.ljust(width) if name in left else cell.rjust(width)
            for (name, width), cell in zip(self._columns, cells, strict=True)
        ).rstrip()

    def head(self) -> Iterator[str]:
        """Yield the lines above the table: settings, peaks, peers and the names of the columns."""
        found, machine = self._result, self._result["machine"]
        yield (
            f"{found['net']}, batch {found['batch']}, {found['precision']}, {machine['device']}: "
            f"{machine.get('chip', '')} ({machine['module']})"
        )
        yield f"limits, measured: {Peaks(**found['ceilings'])}; caches: {found['caches']}"
        for name, peer in found["peers"].items():
            if text := peer.get("missing") or peer.get("failed"):
                yield f"{name} is not compared: {text}"
            else:
                settings = " ".join(f"{key}={value}" for key, value in peer["environment"].items())
                about = {k: v for k, v in peer.items() if k not in ("columns", "environment")}
                parts = [*(f"{key} {value}" for key, value in about.items()), settings]
                yield f"{name}: {', '.join(filter(None, parts))}"
        yield ""
        yield self._line([name for name, _ in self._columns])

    def row(self, row: dict[str, Any]) -> Iterator[str]:
        """Yield the line of a row, and further lines for whatever went wrong."""
        name = [label(row), pass_name(row["operation"])]
        for key in ("wrong", "refused"):
            if key in row:
                widths = [width for _, width in self._columns]
                start = "  ".join(cell.ljust(width) for cell, width in zip(name, widths, strict=False))
                yield f"{start}  {key}: {row[key]}"
                return
        cells = [
            *name,
            f"{1e6 * row['seconds']:,.1f}",
            f"{1e6 * row['seconds_min']:,.1f}",
            f"{row['flops_per_second'] / 1e12:,.3f}" if row["products"] else "",
            f"{row['bytes_per_second'] / 1e9:,.1f}",
            f"{row['share']:.1%}",
            *([f"{1e6 * row['launch_seconds']:,.1f}"] if self._on_gpu else []),
        ]
        for peer in self._peers:
            found = row["peers"].get(peer, {})
            cells.append(f"{found['ratio']:.2f}" if "ratio" in found else "-")
        yield self._line([*cells, row["kernel"] + (" (unproven)" if row.get("unproven") else "")])
        if row.get("how", GRAPH) != GRAPH:
            yield f"    {row['how']}"
        for peer, found in row["peers"].items():
            if found.get("how", GRAPH) != GRAPH:
                yield f"    {peer}: {found['how']}"
            if "failed" in found:
                yield f"    {peer} failed: {found['failed']}"
            for kernel, why in found.get("wrong", {}).items():
                yield f"    {peer}: {kernel} is left out: {why}"

    def foot(self) -> Iterator[str]:
        """Yield the lines below the table: the geometric means."""
        yield ""
        for key, what in (
            ("products", "convolutions and fully connected layers"),
            ("others", "everything else"),
        ):
            for name, mean in self._result["summary"].get(key, {}).items():
                rows = f"{mean['rows']} row{'s' * (mean['rows'] != 1)}"
                yield f"geometric mean, {what}: {mean['ratio']:.2f} x {name} ({rows})"
        count = sum("wrong" in row for row in self._result["rows"])
        if count:
            yield f"{count} of our results {'is' if count == 1 else 'are'} wrong"
