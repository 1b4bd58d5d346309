"""cuDNN's convolutions and matrix products through its Python frontend: every plan for a case.

Not yet run on a GPU: tests/bench/test_bench_cudnn.py checks the calls against the frontend's signatures.

Source: cuDNN frontend, "Graph API": a graph of one operation is planned by three heuristics, whose plans are
built and timed one by one. https://docs.nvidia.com/deeplearning/cudnn/frontend/latest/
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cconvnet._problem import ConvProblem, FcProblem
from cconvnet.bench.cases import GEMMS, Case
from cconvnet.bench.peers.gpu import gpu
from cconvnet.bench.peers.padding import covering_image
from cconvnet.bench.peers.side import Array, Plan, Refused, Replay, Side
from cconvnet.bench.processes import PeerMissing
from cconvnet.bench.tiles import Tiled, Tiles, count_bad
from cconvnet.bench.timing import GRAPH, Clock
from cconvnet.bfloat16 import BITS, pack
from cconvnet.devices import Device
from cconvnet.system.installation import pip_install

INSTALL = pip_install("nvidia-cudnn-frontend", "nvidia-cudnn-cu13")

# Environment variable: seconds for building the plans of one case, and then for trying them. Without it all
# of them are built and tried. A plan that is compiled at run time can take a second, and a case can have
# dozens.
PLAN_SECONDS = "CCONVNET_CUDNN_PLAN_SECONDS"

# Notes of plans that do not simply multiply and add their inputs. NVIDIA's note for a plan that rounds inputs
# to TF32 is TENSOR_CORE, since no tensor core multiplies fp32. In fp32 it is loose; otherwise it is allowed.
_TENSOR_CORE = "TENSOR_CORE"
_LOOSE = (
    _TENSOR_CORE,
    "DOWN_CONVERT_INPUTS",
    "REDUCED_PRECISION_REDUCTION",
    "FFT",
    "WINOGRAD",
    "WINOGRAD_TILE_4x4",
    "WINOGRAD_TILE_6x6",
    "WINOGRAD_TILE_13x13",
)

# Method of the graph, its tensor arguments by our names, and our name of the result.
_CONVOLUTIONS = {
    "fprop": ("conv_fprop", {"image": "x", "weight": "w"}, "y"),
    "dgrad": ("conv_dgrad", {"loss": "dy", "filter": "w"}, "dx"),
    "wgrad": ("conv_wgrad", {"image": "x", "loss": "dy"}, "dw"),
}
_PRODUCTS = {
    "fprop": ({"A": "x", "B": "w"}, "y"),
    "dgrad": ({"A": "dy", "B": "w"}, "dx"),
    "wgrad": ({"A": "dy", "B": "x"}, "dw"),
}

Layout = tuple[list[int], list[int]]  # dimensions and strides in elements


@dataclass(frozen=True)
class Form:
    """One of cuDNN's operations that computes a case.

    Attributes:
        method: The method of cudnn.pygraph.
        arguments: Our names of the arrays it takes, by the names of its arguments.
        output: Our name of the array it makes.
        layouts: The layout of each array, by our names.
        settings: Its other arguments.
    """

    method: str
    arguments: dict[str, str]
    output: str
    layouts: dict[str, Layout]
    settings: dict[str, list[int]]


def _nhwc(shape: Sequence[int]) -> Layout:
    """Return the layout of one of our arrays, [N,H,W,C] in memory.

    CuDNN lists N, C, H, W (or K, C, R, S) whatever their order in memory.
    """
    n, h, w, c = shape
    return [n, c, h, w], [h * w * c, 1, w * c, c]


def _matrix(rows: int, columns: int, transposed: bool = False) -> Layout:
    """Return the layout of a batch of one matrix in row-major order, or of its transpose."""
    if transposed:
        return [1, columns, rows], [rows * columns, 1, columns]
    return [1, rows, columns], [rows * columns, columns, 1]


def forms(case: Case) -> list[Form]:
    """Return every cuDNN operation that computes the case. A fully connected layer is a convolution as well.

    Raises:
        Refused: cuDNN's graphs are not asked for such a case.
    """
    direction, problem = case.operation.rpartition("_")[2], case.problem
    if case.operation not in GEMMS:
        raise Refused("cuDNN is asked for convolutions and matrix products only")
    method, arguments, output = _CONVOLUTIONS[direction]
    if isinstance(problem, ConvProblem):
        images, filters, maps = covering_image(problem), problem.w_shape, problem.y_shape
        pair = {
            "padding": [problem.pad_h, problem.pad_w],
            "stride": [problem.stride_h, problem.stride_w],
            "dilation": [problem.dilation_h, problem.dilation_w],
        }
    else:
        n, c, k = problem.n, problem.c, problem.k
        images, filters, maps = (n, 1, 1, c), (k, 1, 1, c), (n, 1, 1, k)
        pair = {"padding": [0, 0], "stride": [1, 1], "dilation": [1, 1]}
    layouts = {"x": images, "dx": images, "w": filters, "dw": filters, "y": maps, "dy": maps}
    found = [
        Form(method, arguments, output, {name: _nhwc(shape) for name, shape in layouts.items()}, pair),
    ]
    if isinstance(problem, FcProblem):
        found.insert(0, _product(problem, direction))
    return found


def _product(problem: FcProblem, direction: str) -> Form:
    n, c, k = problem.n, problem.c, problem.k
    layouts = {"x": _matrix(n, c), "dx": _matrix(n, c), "y": _matrix(n, k), "dy": _matrix(n, k)}
    layouts |= {"w": _matrix(k, c), "dw": _matrix(k, c)}
    if direction == "fprop":
        layouts["w"] = _matrix(k, c, transposed=True)
    if direction == "wgrad":
        layouts["dy"] = _matrix(n, k, transposed=True)
    arguments, output = _PRODUCTS[direction]
    return Form("matmul", arguments, output, layouts, {})


class _Buffers:
    """Arrays of one case on the device, which all its plans share.

    Attributes:
        output: The name of the array that is computed.
        workspace: The address of the memory that plans may use freely.
    """

    def __init__(self, device: Device, case: Case, form: Form, tiles: Tiles) -> None:
        self._device, self._problem, self._tiles = device, case.problem, tiles
        self._loaded: Any = None
        shapes = {"x": case.problem.x_shape, "w": case.problem.w_shape, "y": case.problem.y_shape}
        shapes |= {f"d{name}": shape for name, shape in shapes.items()}
        self._shapes: dict[str, tuple[int, ...]] = shapes
        names = [*form.arguments.values(), form.output]
        self.output = form.output
        # Also for gradients of filters, which we write as floats: cuDNN's plans read and write one type.
        self._bf16 = case.element == "bf16"
        # Rows and columns that are only padding contain zeros.
        element = BITS if self._bf16 else np.float32
        self._arrays = {name: device.zeros(self._padded(name), element) for name in names}
        self._workspace: Any = None
        self.workspace = 0

    def _padded(self, name: str) -> tuple[int, ...]:
        if name in ("x", "dx") and isinstance(self._problem, ConvProblem):
            return covering_image(self._problem)
        return self._shapes[name]

    def _inside(self, name: str) -> Any:
        """Return the part of an array that is not padding."""
        return self._arrays[name][tuple(slice(size) for size in self._shapes[name])]

    def load(self, inputs: dict[str, Any]) -> None:
        if inputs is not self._loaded:
            for name in self._arrays.keys() - {self.output}:
                value, inside = inputs[name], self._inside(name)
                if isinstance(value, Tiled):
                    inside[...] = self._tiles.array(inside.shape, inside.dtype)
                else:
                    inside[...] = self._device.array(pack(value) if self._bf16 else value)
            self._loaded = inputs
        self._arrays[self.output].fill(int(pack(math.nan)) if self._bf16 else math.nan)

    def result(self) -> Array:
        return self._device.host(self._inside(self.output).copy())

    def bad(self) -> tuple[int, int]:
        """Return the number of elements of the result that are not finite, and of all."""
        inside = self._inside(self.output)
        return count_bad(self._device.xp, inside), inside.size

    def address(self, name: str) -> int:
        return int(self._arrays[name].data.ptr)

    def reserve(self, size: int) -> None:
        """Grow the workspace, which all plans share, to at least `size` bytes; it may move."""
        if self._workspace is None or self._workspace.nbytes < size:
            self._workspace = None  # free its memory before allocating more
            self._workspace = self._device.empty(max(size, 1), np.uint8)
            self.workspace = int(self._workspace.data.ptr)


class CuDNNPlan(Plan):
    """One of cuDNN's engines with one set of its knobs."""

    def __init__(
        self,
        graph: Any,
        index: int,
        handle: Any,
        operands: dict[int, int],
        size: int,
        buffers: _Buffers,
        notes: _Notes,
    ) -> None:
        self.name = str(graph.get_plan_name_at_index(index))
        self._graph, self._index, self._handle = graph, index, handle
        self._operands, self._size, self._buffers, self._notes = operands, size, buffers, notes

    def may_fill(self, column: str) -> bool:
        """Return whether the plan has none of the notes that the column bars."""
        return self._notes.allow(column, self.name)

    def load(self, inputs: dict[str, Any]) -> None:
        """Load the inputs into the shared buffers."""
        self._buffers.reserve(self._size)
        self._buffers.load(inputs)

    def call(self) -> None:
        """Execute the plan."""
        workspace = self._buffers.workspace
        self._graph.execute_plan_at_index(self._operands, workspace, self._index, self._handle)

    def results(self) -> dict[str, Array]:
        """Return the output."""
        return {self._buffers.output: self._buffers.result()}

    def bad(self) -> dict[str, tuple[int, int]]:
        """Count the output's elements that are not finite, on the GPU."""
        return {self._buffers.output: self._buffers.bad()}


class CuDNN(Side):
    """Fastest plans of cuDNN in three columns.

    ``best`` is the fastest plan with data of the requested type and sums in float. With float data it may
    round the factors to TF32. ``strict`` is the fastest that rounds nothing beyond its precision and
    transforms nothing. ``deterministic`` is the fastest of those whose results are always bit-identical.

    Raises:
        PeerMissing: There is no GPU, CuPy, frontend or cuDNN here.
    """

    columns: ClassVar[tuple[str, ...]] = ("best", "strict", "deterministic")

    def __init__(self, device: str, precision: str, verify: str | None = None) -> None:
        super().__init__(device, precision, verify)
        if device.partition(":")[0] != "cuda":
            raise PeerMissing(f"cuDNN computes on GPUs, not on {device}")
        try:
            self._device = gpu(device)
        except PeerMissing as error:
            raise PeerMissing(f"cuDNN: {error}") from None
        try:
            import cudnn
        except (ImportError, OSError) as error:
            raise PeerMissing(f"cuDNN's Python frontend cannot be used ({error}): {INSTALL}") from None
        self._cudnn: Any = cudnn
        # Never left: the side is alone in its process, and a handle belongs to the GPU on which it was made.
        self._device.__enter__()
        self._clock, self._tiles = Clock(self._device), Tiles(self._device)
        try:
            self._handle = cudnn.create_handle()
        except (RuntimeError, cudnn.cudnnGraphNotSupportedError) as error:
            raise PeerMissing(f"cuDNN itself cannot be used ({error}): {INSTALL}") from None
        cudnn.set_stream(handle=self._handle, stream=self._device.stream)
        self._plan_seconds = self.trial_seconds = float(os.environ.get(PLAN_SECONDS, "inf"))
        self._failed: dict[str, str] = {}  # plans of the case that are missing, and why

    def about(self) -> dict[str, Any]:
        """Describe the versions and the heuristics."""
        return {
            "frontend": self._cudnn.__version__,
            "cudnn": self._cudnn.backend_version(),
            "heuristics": ["A", "B", "FALLBACK"],
            "plan_seconds": self._plan_seconds if math.isfinite(self._plan_seconds) else None,
        }

    def seconds(self, plan: Plan, count: int) -> list[float]:
        """Return the device's time of each call."""
        return self._clock.seconds(plan.call, count)

    def captured(self, plan: Plan) -> tuple[Plan, str]:
        """Capture a plan's work in a graph, if cuDNN allows it."""
        replay, how = self._clock.captured(plan.call)
        return (Replay(plan, replay) if how == GRAPH else plan), how

    def launch_seconds(self, plan: Plan, count: int) -> list[float]:
        """Return the host's time of each call."""
        return self._clock.launch_seconds(plan.call, count)

    def synchronize(self) -> None:
        """Wait for the device."""
        self._device.synchronize()

    def prepare(self, *arguments: Any, **more: Any) -> dict[str, Any]:
        """Prepare a case; ``failed`` also contains the plans that could not be built."""
        self._failed = {}
        answer = super().prepare(*arguments, **more)
        return {**answer, "failed": {**answer["failed"], **self._failed}}

    def plans(self, case: Case) -> list[CuDNNPlan]:
        """Return the plans of all forms that can be built in time."""
        deadline = time.monotonic() + self._plan_seconds
        buffers, found = None, []
        for form in forms(case):
            buffers = buffers or _Buffers(self._device, case, form, self._tiles)
            try:
                found += self._plans(form, buffers, deadline)
            except Exception as error:  # also features that the frontend lacks; another form may work
                self._failed[form.method] = _first_line(error)
        if not found:
            reasons = "; ".join(f"{name}: {why}" for name, why in self._failed.items())
            raise Refused(f"cuDNN has no plan for it. {reasons}".strip())
        return found

    def _plans(self, form: Form, buffers: _Buffers, deadline: float) -> list[CuDNNPlan]:
        graph, tensors = self.planned(form)
        notes = _Notes(self, form)
        operands = {tensor.get_uid(): buffers.address(name) for name, tensor in tensors.items()}
        found: dict[str, CuDNNPlan] = {}
        late = 0
        for index in range(graph.get_execution_plan_count()):
            name = graph.get_plan_name_at_index(index)
            if name in found or name in self._failed:
                continue  # two heuristics returned the same plan
            if time.monotonic() > deadline:
                late += 1
                continue
            if (why := _unbuildable(graph, index)) is not None:
                self._failed[name] = why
                continue
            size = graph.get_workspace_size_plan_at_index(index)
            found[name] = CuDNNPlan(graph, index, self._handle, operands, size, buffers, notes)
        if late:
            why = f"not built within {self._plan_seconds:g} s ({PLAN_SECONDS})"
            self._failed[f"{late} more plans of {form.method}"] = why
        return list(found.values())

    def planned(self, form: Form) -> tuple[Any, dict[str, Any]]:
        """Return a graph of one operation with its plans still to be built, and its tensors by our names."""
        cudnn = self._cudnn
        sums = cudnn.data_type.FLOAT
        kind = cudnn.data_type.BFLOAT16 if self.precision == "bf16" else sums
        graph = cudnn.pygraph(
            io_data_type=kind, intermediate_data_type=sums, compute_data_type=sums, handle=self._handle
        )
        tensors: dict[str, Any] = {}
        for name in form.arguments.values():
            dimensions, strides = form.layouts[name]
            tensors[name] = graph.tensor(dim=dimensions, stride=strides, data_type=kind, name=name)
        arguments = {theirs: tensors[ours] for theirs, ours in form.arguments.items()}
        output = getattr(graph, form.method)(**arguments, **form.settings, compute_data_type=sums)
        dimensions, strides = form.layouts[form.output]
        output.set_output(True)
        output.set_data_type(kind)
        output.set_dim(dimensions)
        output.set_stride(strides)
        tensors[form.output] = output
        graph.validate()
        graph.build_operation_graph()
        modes = cudnn.heur_mode
        graph.create_execution_plans([modes.A, modes.B, modes.FALLBACK])
        return graph, tensors

    def barred(self, column: str) -> list[Any]:
        """Return the notes that no plan of a column may have."""
        if column == "best":
            return []
        loose = [note for note in _LOOSE if self.precision in ("fp32", "fp32x3") or note != _TENSOR_CORE]
        names = [*loose, *["NONDETERMINISTIC"] * (column == "deterministic")]
        return [getattr(self._cudnn.numerical_note, name) for name in names]


class _Notes:
    """Columns for which plans of a form may be chosen, found when they are needed.

    A plan's notes cannot be read; only plans with notes can be barred. Each column has a graph of its own for
    that, since a barred plan may refuse to run. Barred plans are not built, so this costs little.
    """

    def __init__(self, side: CuDNN, form: Form) -> None:
        self._side, self._form = side, form
        self._graphs: dict[str, Any] = {}
        self._known: dict[tuple[str, str], bool] = {}

    def allow(self, column: str, name: str) -> bool:
        if not (barred := self._side.barred(column)):
            return True
        if column not in self._graphs:
            self._graphs[column], _ = self._side.planned(self._form)
            self._graphs[column].deselect_numeric_notes(barred)
        if (column, name) not in self._known:
            graph = self._graphs[column]
            same = (
                index
                for index in range(graph.get_execution_plan_count())
                if graph.get_plan_name_at_index(index) == name
            )
            self._known[column, name] = any(_unbuildable(graph, index) is None for index in same)
        return self._known[column, name]


def _unbuildable(graph: Any, index: int) -> str | None:
    """Build a plan; return why that fails, if it does."""
    try:
        graph.build_plan_at_index(index)
    except Exception as error:  # any error of the library; the other plans may work
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
