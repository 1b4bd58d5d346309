"""Time of a whole training step, from images to updated weights, beside PyTorch's.

Each side has a process of its own. Before anything is timed, both take the same first steps: from the same
weights, on the same images, with the same dropout masks. Their losses, and the velocities of all parameters
after these steps, must agree. Then the sides step in turn.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.bench.peers.cconvnet_step import END
from cconvnet.bench.peers.forms import check_forms, default_forms, form_precision
from cconvnet.bench.processes import RAISED_MALLOC, Disagreement, PeerMissing, Worker, WorkerError
from cconvnet.bench.timing import summary
from cconvnet.devices import PRECISIONS, devices_of, machine, require_precision
from cconvnet.formats.netfiles import AnyNet
from cconvnet.formats.networks import build_spec
from cconvnet.nets import spec_to_dict
from cconvnet.network.synthetic import TIMED_LR, check_counts

Array = np.ndarray[Any, Any]

OURS = "cconvnet.bench.peers.cconvnet_step:OurStep"
PYTORCH = "cconvnet.bench.peers.pytorch_step:PyTorchStep"


CHECKED_STEPS = 3


@dataclass(frozen=True)
class Tolerance:
    """Allowed difference between the sides.

    Attributes:
        loss: Allowed difference of the mean loss of the first step, relative to it if it is above 1. Each
            further step may differ by as much more.
        velocity: Allowed difference of a parameter's velocity after the last of these steps, relative to its
            norm.
    """

    loss: float
    velocity: float


# Measured with PyTorch 2.13 on a CPU. In fp32 losses differ by at most 5e-7 and velocities mostly by 2e-6. In
# small batches velocities differ by up to 2e-2: the larger of two almost equal values may be a different one
# on each side, so that the gradient takes another path. In bf16, against PyTorch's autocast and its fp32,
# losses differ by at most 2e-3 in step 3 (AlexNet). Velocities below max pooling differ by up to 0.9: in
# bfloat16 the largest value often occurs twice in a window, and ours gives both the gradient, PyTorch only
# one of them. fp32x3 and tf32 have not been measured yet.
TOLERANCES = {
    "fp32": Tolerance(2e-5, 1e-1),
    "fp32x3": Tolerance(2e-5, 1e-1),
    "tf32": Tolerance(2e-3, 2e-1),
    "bf16": Tolerance(2e-3, 9.5e-1),
}


# ---- the measurement -------------------------------------------------------------------------------------


@dataclass
class _Side:
    """One worker and what it has reported so far."""

    name: str
    form: str
    precision: str
    worker: Worker
    about: dict[str, Any]
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} {self.form}".rstrip()

    def row(self, batch: int) -> dict[str, Any]:
        row: dict[str, Any] = {"side": self.name, "form": self.form, "precision": self.precision}
        row |= {"what": self.about["what"], "first_losses": self.losses}
        row |= summary(self.seconds) | self.memory
        return row | {"images_per_second": batch / row["seconds"]}


def step(
    net: AnyNet,
    *,
    devices: list[str] | None = None,
    batch: int | None = None,
    precision: str | None = None,
    size: int | None = None,
    places: Mapping[str, int | str] | None = None,
    steps: int = 20,
    warmup: int = 3,
    peer: str | None = PYTORCH,
    forms: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda text: None,
    stepped: Callable[[int], None] = lambda done: None,
    found: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Time full steps on random images: load, forward, backward, update, loss read.

    The uint8 images are in host memory, so that the copy to the device is part of the step. Ours are stored
    images, which are cropped and mirrored on the device. The peer's are already cropped.

    Args:
        net: A network, or its name or file; see cconvnet.formats.netfiles.resolve.
        devices: Names of the devices; None: the default device.
        batch: Images in a batch; None: the network's own.
        precision: One of cconvnet.devices.PRECISIONS; None: fp32.
        size: Height and width of the images; None: the network's own.
        places: Layers and the devices on which they are placed; see cconvnet.nets.place.
        steps: Timed steps.
        warmup: Untimed steps before them.
        peer: The other side, "module:Class"; None: none.
        forms: The peer's forms; None: those that may be the fastest here.
        say: Called with messages.
        stepped: Called after each step with the number of finished steps.
        found: Called with the result so far after each round of timed steps.

    Returns:
        ``rows``, one for each side, ours first, with ``seconds`` and ``seconds_min`` of a step,
        ``images_per_second`` (of the median step) and ``peak_rss_bytes``. Rows of other sides also contain
        ``times_as_fast`` and ``times_the_memory``: our speed and memory relative to theirs. ``fastest``
        contains the peer's fastest form in our precision with its library's own layers (``library``) and of
        all (``any``), and in each other precision that was tried (``library fp32``, ``any fp32``). For our
        step the result also contains ``step_seconds``, ``step_seconds_min``, ``images_per_second``,
        ``peak_rss_bytes`` and each step's time in ``steps_seconds``; and the settings.

    Raises:
        ValueError: The text names the argument.
        Disagreement: The sides compute different results.
        WorkerError: Our side failed.
    """
    check_counts(steps, warmup)
    spec, batch = build_spec(net, batch, precision, size, places)
    precision = precision or "fp32"
    used = devices_of(devices)
    on_gpu = used[0].kind == "cuda"
    require_precision(used[0], precision)
    forms = forms or default_forms(spec, on_gpu, precision)
    check_forms(forms, on_gpu, precision)
    common: dict[str, Any] = {"spec": spec_to_dict(spec), "batch": batch, "precision": precision}
    result: dict[str, Any] = {
        "what": "step",
        "machine": machine.describe(used[0]),
        "net": spec.name,
        "batch": batch,
        "precision": precision,
        "image": list(spec.stored_shape),
        "warmup_steps": warmup,
        "peers": {},
        "rows": [],
        "fastest": {},
    }
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cconvnet-step-"))
        common["folder"] = folder
        worker = stack.enter_context(Worker(OURS, {**common, "devices": [device.name for device in used]}))
        sides = [_Side("cconvnet", "", precision, worker, worker.ask("about"))]
        result |= {key: value for key, value in sides[0].about.items() if key != "what"}
        result["device_reason"] = sides[0].about["what"]
        if peer is not None:
            arguments = {**common, "ordinal": used[0].ordinal if on_gpu else None}
            notes: dict[str, Any] = {"environment": {} if on_gpu else RAISED_MALLOC}
            result["peers"]["pytorch"] = notes
            rate = worker.ask("gentle_rate", lr=spec.recipe.lr)
            sides[0].losses = worker.ask("first_steps", count=CHECKED_STEPS, lr=rate)
            for form in forms:
                say(f"PyTorch {form}: the first {CHECKED_STEPS} steps are compared")
                try:
                    side = _checked(stack, peer, {**arguments, "form": form}, notes, sides[0], rate)
                except PeerMissing as error:
                    say(str(error))
                    notes["missing"] = str(error)
                    break
                except Disagreement:
                    raise
                except WorkerError as error:
                    say(f"PyTorch {form}: {error}")
                    notes.setdefault("failed", {})[form] = str(error)
                    continue
                sides.append(side)
        for done in _rounds(sides, warmup + steps, result):
            stepped(done)
            if done > warmup:
                for side in sides:
                    side.seconds = side.seconds[-(done - warmup) :]
                _gather(result, sides, batch)
                found(result)
    return result


def _checked(
    stack: contextlib.ExitStack,
    target: str,
    arguments: dict[str, Any],
    notes: dict[str, Any],
    ours: _Side,
    lr: float,
) -> _Side:
    """Start another side and check that it computes the same as ours.

    Raises:
        Disagreement: The sides compute different results.
        PeerMissing: A side cannot be used here.
        WorkerError: A side's process failed.
    """
    form, folder = arguments["form"], Path(arguments["folder"])
    precision = form_precision(form, arguments["precision"])
    looser = max(precision, arguments["precision"], key=PRECISIONS.index)
    with contextlib.ExitStack() as own:
        worker = own.enter_context(Worker(target, arguments, notes["environment"]))
        side = _Side("PyTorch", form, precision, worker, worker.ask("about"))
        side.losses = worker.ask("first_steps", count=len(ours.losses), lr=lr)
        path = folder / f"{form}-{END}"
        compare(TOLERANCES[looser], str(side), ours.losses, side.losses, folder / END, path)
        path.unlink()
        stack.push(own.pop_all())
    return side


def compare(
    tolerance: Tolerance,
    other: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    end: Path,
    their_end: Path,
) -> dict[str, float]:
    """Compare the losses of the first steps and the velocities after them.

    Returns the differences: of each loss, relative to it if it is above 1, and of each velocity, relative to
    its norm.

    Raises:
        Disagreement: The sides differ too much; the text names the first step or the parameter.
    """
    apart = {}
    for number, (mine, their) in enumerate(zip(ours, theirs, strict=True), 1):
        difference = apart[f"loss {number}"] = abs(mine - their) / max(abs(mine), 1.0)
        if not difference <= number * tolerance.loss:
            raise Disagreement(
                f"{other} does not compute what cconvnet does: the loss of step {number} is {their:.7g} "
                f"there and {mine:.7g} here, {difference:.1e} apart where {number * tolerance.loss:.1e} is "
                "allowed"
            )
    with np.load(end, allow_pickle=False) as mine_end, np.load(their_end, allow_pickle=False) as other_end:
        for name in mine_end.files:
            mine_v, other_v = (values[name].astype(np.float64) for values in (mine_end, other_end))
            norm = float(np.linalg.norm(mine_v))
            difference = apart[name] = float(np.linalg.norm(mine_v - other_v)) / max(norm, 1e-30)
            if not difference <= tolerance.velocity:
                raise Disagreement(
                    f"{other} does not compute what cconvnet does: after {len(ours)} steps {name} is "
                    f"{difference:.1e} of its norm away where {tolerance.velocity:.1e} is allowed"
                )
    return apart


def _rounds(sides: list[_Side], count: int, result: dict[str, Any]) -> Iterator[int]:
    """Run one step of each side in turn, `count` times. A peer that fails takes no further turns."""

    def ask(side: _Side, method: str, **arguments: Any) -> Any:
        try:
            return side.worker.ask(method, **arguments)
        except WorkerError as error:
            if side is sides[0]:
                raise
            result["peers"]["pytorch"].setdefault("failed", {})[side.form] = str(error)
            sides.remove(side)
            return None

    for side in list(sides):
        ask(side, "prepare", lr=TIMED_LR)
    for done in range(1, count + 1):
        for side in list(sides):
            seconds = ask(side, "step")
            if seconds is not None:
                side.seconds.append(seconds)
                side.memory = ask(side, "memory")
        yield done


def _gather(result: dict[str, Any], sides: list[_Side], batch: int) -> None:
    """Fill the result with the measurements of the sides."""
    rows = result["rows"] = [side.row(batch) for side in sides]
    ours, *others = rows
    result |= {
        "images_per_second": ours["images_per_second"],
        "step_seconds": ours["seconds"],
        "step_seconds_min": ours["seconds_min"],
        "steps_seconds": list(sides[0].seconds),
        "peak_rss_bytes": ours["peak_rss_bytes"],
    }
    for row in others:
        row["times_as_fast"] = row["seconds"] / ours["seconds"]
        row["times_the_memory"] = peak(ours) / peak(row)
    result["fastest"] = {}
    for precision in dict.fromkeys(row["precision"] for row in others):
        everything = [row for row in others if row["precision"] == precision]
        library = [row for row in everything if "lrn_by_hand" not in row["form"]]
        for kind, among in (("library", library), ("any", everything)):
            if among:
                best = min(among, key=lambda row: row["seconds"])
                name = kind if precision == ours["precision"] else f"{kind} {precision}"
                result["fastest"][name] = {
                    key: best[key] for key in ("form", "precision", "times_as_fast", "times_the_memory")
                }


def peak(row: Mapping[str, Any]) -> int:
    """Return the peak memory that matters: the device's on a GPU, else the process's."""
    return int(row.get("peak_device_bytes", row["peak_rss_bytes"]))


# ---- for people ------------------------------------------------------------------------------------------


def table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table of the result of :func:`step`."""
    header = ["side", "form", "step", "fastest", "slowest", "images/s", "peak memory"]
    compared = len(result["rows"]) > 1
    if compared:
        header += ["ours: times as fast", "times the memory"]
    rows = []
    for row in result["rows"]:
        times = [f"{1e3 * row[key]:,.2f} ms" for key in ("seconds", "seconds_min", "seconds_max")]
        ratios = [f"{row[key]:.2f}" if key in row else "" for key in ("times_as_fast", "times_the_memory")]
        rate, memory = f"{row['images_per_second']:,.1f}", f"{peak(row) / 1e6:,.0f} MB"
        rows.append([row["side"], row["form"], *times, rate, memory, *(ratios if compared else [])])
    return header, rows


def verdict(result: Mapping[str, Any]) -> list[str]:
    """Return the conclusions of the table: a line for each fastest form, and the peer's environment."""
    whose = {"library": "with its own layers", "any": "of all"}
    lines = [
        f"PyTorch's fastest form {whose[kind.split()[0]]} in {best['precision']} is {best['form']}: ours, in "
        f"{result['precision']}, is {best['times_as_fast']:.2f} times as fast with "
        f"{best['times_the_memory']:.2f} times the memory"
        for kind, best in result["fastest"].items()
    ]
    if lines and (given := result["peers"]["pytorch"]["environment"]):
        lines.append("PyTorch ran with " + " ".join(f"{name}={value}" for name, value in given.items()))
    return lines
