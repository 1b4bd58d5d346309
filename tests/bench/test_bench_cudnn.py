"""cuDNN as a peer, against a frontend that computes with NumPy and has the real one's signatures (1.32)."""

from __future__ import annotations

import ctypes
import enum
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from cconvnet._problem import ConvProblem, FcProblem, PoolProblem
from cconvnet.bench.cases import Case
from cconvnet.bench.peers import cudnn as peer
from cconvnet.bench.peers.side import FINITE, FULL, VERIFICATIONS, Refused, Replay
from cconvnet.bench.processes import PeerMissing
from cconvnet.bfloat16 import BITS, pack, unpack
from cconvnet.devices import PRECISIONS, Device
from cconvnet.testing import reference
from cconvnet.testing.check import make_inputs
from cconvnet.testing.compare import values

HANDLE, STREAM = object(), 77


# ---- a GPU whose memory is the host's ------------------------------------------------------------------


class GpuArray(np.ndarray):
    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)


class Gpu(Device):
    def __init__(self) -> None:
        super().__init__("cpu", 0)
        self.kind, self.stream = "cuda", STREAM

    def empty(self, shape: Any, dtype: Any = np.float32) -> Any:
        return np.full(shape, 99, dtype).view(GpuArray)

    def zeros(self, shape: Any, dtype: Any = np.float32) -> Any:
        return np.zeros(shape, dtype).view(GpuArray)

    def host(self, array: Any) -> Any:
        return np.array(array).view(np.ndarray)


class FakeClock:
    def __init__(self, device: Device) -> None:
        pass

    def seconds(self, call: Any, count: int) -> list[float]:
        for _ in range(count):
            call()
        # A launch takes its time where there is no graph.
        return [FakeGraph.ran[-1].seconds + (0 if isinstance(call.__self__, Replay) else LAUNCH)] * count

    def captured(self, call: Any) -> tuple[Any, str]:
        if FakeGraph.uncapturable:
            return call, "not captured: some engines cannot be"
        return call, "graph"

    def launch_seconds(self, call: Any, count: int) -> list[float]:
        return [LAUNCH] * count


LAUNCH = 0.125


# ---- a frontend that computes with NumPy ---------------------------------------------------------------

Note = enum.Enum(
    "Note",
    "TENSOR_CORE DOWN_CONVERT_INPUTS REDUCED_PRECISION_REDUCTION FFT NONDETERMINISTIC WINOGRAD "
    "WINOGRAD_TILE_4x4 WINOGRAD_TILE_6x6 WINOGRAD_TILE_13x13 STRICT_NAN_PROP",
)
Mode = enum.Enum("Mode", "A B FALLBACK OPENSOURCE")
Kind = enum.Enum("Kind", "FLOAT BFLOAT16")


class NotSupported(Exception):
    pass


class Engine(SimpleNamespace):
    name: str
    seconds: float
    notes: tuple[Note, ...]
    workspace: int
    builds: bool


def engine(name: str, seconds: float, *notes: Note, workspace: int = 0, builds: bool = True) -> Engine:
    return Engine(name=name, seconds=seconds, notes=notes, workspace=workspace, builds=builds)


ENGINES = [
    engine("eng0", 3.0, Note.NONDETERMINISTIC),
    engine("eng1", 1.0, Note.TENSOR_CORE, workspace=1000),
    engine("eng2", 2.0, Note.WINOGRAD, Note.WINOGRAD_TILE_4x4),
    engine("eng0", 3.0, Note.NONDETERMINISTIC),
    engine("eng3", 9.0, builds=False),
    engine("eng4", 4.0, workspace=5000),
    engine("eng5", 0.5, Note.TENSOR_CORE, Note.NONDETERMINISTIC),
]


class Tensor:
    def __init__(self, uid: int, dim: list[int] | None = None, stride: list[int] | None = None) -> None:
        self.uid, self.dim, self.stride, self.is_output = uid, dim, stride, False
        self.kind: Any = None

    def get_uid(self) -> int:
        return self.uid

    def set_output(self, value: bool) -> Tensor:
        self.is_output = value
        return self

    def set_data_type(self, dtype: Kind) -> Tensor:
        self.kind = dtype
        return self

    def set_dim(self, dim: list[int]) -> Tensor:
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> Tensor:
        self.stride = stride
        return self

    def at(self, address: int) -> Any:
        """The array itself: floats, or bfloat16's bits."""
        assert self.dim and self.stride
        count = 1 + sum((d - 1) * s for d, s in zip(self.dim, self.stride, strict=True))
        dtype = np.dtype({Kind.FLOAT: np.float32, Kind.BFLOAT16: BITS}[self.kind])
        flat = np.frombuffer((ctypes.c_char * (dtype.itemsize * count)).from_address(address), dtype)
        return as_strided(flat, self.dim, [dtype.itemsize * s for s in self.stride])


class FakeGraph:
    """cudnn.pygraph, in as far as it is used, with the order of calls that it wants."""

    engines: ClassVar[list[Engine]] = ENGINES
    ran: ClassVar[list[Engine]] = []
    workspaces: ClassVar[list[int]] = []
    built_plans: ClassVar[list[str]] = []
    uncapturable: ClassVar[bool] = False

    def __init__(
        self,
        name: str = "test_graph",
        io_data_type: Any = None,
        intermediate_data_type: Any = None,
        compute_data_type: Any = None,
        handle: Any = None,
    ) -> None:
        assert {intermediate_data_type, compute_data_type} == {Kind.FLOAT}
        assert handle is HANDLE
        self.kind = io_data_type
        self.tensors: list[Tensor] = []
        self.stage, self.built, self.barred = 0, set[int](), set[int]()

    def tensor(
        self,
        dim: list[int],
        stride: list[int],
        data_type: Any = None,
        is_virtual: bool = False,
        is_pass_by_value: bool = False,
        ragged_offset: Any = None,
        reordering_type: Any = None,
        name: str = "",
        uid: int = -1,
    ) -> Tensor:
        assert data_type is self.kind and len(dim) == len(stride)
        assert all(isinstance(value, int) for value in [*dim, *stride])
        return self._new(dim, stride).set_data_type(data_type)

    def _new(self, *layout: Any) -> Tensor:
        self.tensors.append(Tensor(100 + len(self.tensors), *layout))
        return self.tensors[-1]

    def _op(self, compute: Any, *inputs: Tensor) -> Tensor:
        self.compute, self.inputs, self.output = compute, inputs, self._new()
        return self.output

    def conv_fprop(
        self,
        image: Tensor,
        weight: Tensor,
        padding: list[int],
        stride: list[int],
        dilation: list[int],
        compute_data_type: Any = None,
        name: str = "",
    ) -> Tensor:
        def compute(x: Any, w: Any, y: Any) -> None:
            y[...] = 0
            for xs, ys, group, r, s in taps(x, w, y, padding, stride, dilation):
                ys += np.einsum("nchw,kc->nkhw", xs, w[group, :, r, s])

        return self._op(compute, image, weight)

    def conv_dgrad(
        self,
        loss: Tensor,
        filter: Tensor,
        padding: list[int],
        stride: list[int],
        dilation: list[int],
        compute_data_type: Any = None,
        name: str = "",
    ) -> Tensor:
        def compute(dy: Any, w: Any, dx: Any) -> None:
            dx[...] = 0
            for xs, ys, group, r, s in taps(dx, w, dy, padding, stride, dilation):
                xs += np.einsum("nkhw,kc->nchw", ys, w[group, :, r, s])

        return self._op(compute, loss, filter)

    def conv_wgrad(
        self,
        image: Tensor,
        loss: Tensor,
        padding: list[int],
        stride: list[int],
        dilation: list[int],
        compute_data_type: Any = None,
        name: str = "",
    ) -> Tensor:
        def compute(x: Any, dy: Any, dw: Any) -> None:
            dw[...] = 0
            for xs, ys, group, r, s in taps(x, dw, dy, padding, stride, dilation):
                dw[group, :, r, s] += np.einsum("nchw,nkhw->kc", xs, ys)

        return self._op(compute, image, loss)

    def matmul(
        self, A: Tensor, B: Tensor, compute_data_type: Any = None, padding: float = 0.0, name: str = ""
    ) -> Tensor:
        def compute(a: Any, b: Any, c: Any) -> None:
            c[...] = a @ b

        return self._op(compute, A, B)

    def _step(self, stage: int) -> None:
        assert self.stage == stage - 1, "the calls come in the wrong order"
        self.stage = stage

    def validate(self) -> None:
        self._step(1)
        assert self.output.is_output and self.output.kind is self.kind and self.output.dim

    def build_operation_graph(self) -> None:
        self._step(2)

    def create_execution_plans(self, heuristics: list[Mode]) -> None:
        self._step(3)
        assert heuristics == [Mode.A, Mode.B, Mode.FALLBACK]
        if not self.engines:
            raise NotSupported("No valid engine configs")

    def get_execution_plan_count(self) -> int:
        assert self.stage == 3
        return len(self.engines)

    def get_plan_name_at_index(self, index: int) -> str:
        return self.engines[index].name

    def deselect_numeric_notes(self, notes: list[Note]) -> None:
        assert self.stage == 3, "notes are those of plans"
        self.barred |= {i for i, e in enumerate(self.engines) if set(notes) & set(e.notes)}

    def build_plan_at_index(self, index: int) -> None:
        if index in self.barred or not self.engines[index].builds:
            raise NotSupported("Deselecting execution plan\nand more")
        self.built.add(index)
        self.built_plans.append(self.engines[index].name)

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        assert index in self.built
        return self.engines[index].workspace

    def execute_plan_at_index(
        self, tensor_dict: dict[int, int], workspace: int, index: int, handle: Any = None
    ) -> None:
        assert index in self.built and not self.barred and handle is HANDLE
        chosen = self.engines[index]
        if chosen.workspace:  # all of it can be written
            ctypes.memset(workspace, 0x7F, chosen.workspace)
        *inputs, output = (tensor.at(tensor_dict[tensor.uid]) for tensor in (*self.inputs, self.output))
        if self.kind is Kind.FLOAT:
            self.compute(*inputs, output)
        else:
            sums = np.zeros(output.shape, np.float32)
            self.compute(*map(unpack, inputs), sums)
            output[...] = pack(sums)
        FakeGraph.ran.append(chosen)
        FakeGraph.workspaces.append(workspace)


def taps(
    x: Any, w: Any, y: Any, padding: list[int], stride: list[int], dilation: list[int]
) -> Iterator[tuple[Any, Any, slice, int, int]]:
    """For each group and element of the filters: the part of x under it, the part of y it adds to."""
    groups = x.shape[1] // w.shape[1]
    c, k = w.shape[1], w.shape[0] // groups
    for group in range(groups):
        for r in range(w.shape[2]):
            for s in range(w.shape[3]):
                ranges = []
                for size, outputs, tap, apart, pad, step in zip(
                    x.shape[2:], y.shape[2:], (r, s), dilation, padding, stride, strict=True
                ):
                    at = tap * apart
                    inside = [o for o in range(outputs) if 0 <= o * step + at - pad < size]
                    begin, end = (inside[0], inside[-1] + 1) if inside else (0, 0)
                    first = begin * step + at - pad
                    ranges.append((slice(first, first + step * (end - begin), step), slice(begin, end)))
                (xh, yh), (xw, yw) = ranges
                yield (
                    x[:, group * c : (group + 1) * c, xh, xw],
                    y[:, group * k : (group + 1) * k, yh, yw],
                    slice(group * k, (group + 1) * k),
                    r,
                    s,
                )


@pytest.fixture
def frontend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The fake frontend in the place of the real one; its engines and what they ran are the test's own."""
    module: Any = ModuleType("cudnn")
    module.__version__ = "1.32.0"
    module.backend_version = lambda: 91400
    module.cudnnGraphNotSupportedError = NotSupported
    module.data_type, module.heur_mode, module.numerical_note = Kind, Mode, Note
    module.pygraph = FakeGraph
    module.create_handle = lambda: HANDLE
    module.streams = []
    module.set_stream = lambda handle, stream: module.streams.append((handle, stream))
    monkeypatch.setitem(sys.modules, "cudnn", module)
    monkeypatch.setattr(peer, "gpu", lambda name: Gpu())
    monkeypatch.setattr(peer, "Clock", FakeClock)
    monkeypatch.setattr(FakeGraph, "engines", ENGINES)
    monkeypatch.setattr(FakeGraph, "ran", [])
    monkeypatch.setattr(FakeGraph, "workspaces", [])
    monkeypatch.setattr(FakeGraph, "built_plans", [])
    return module


def case(operation: str, problem: Any, precision: str = "fp32") -> Case:
    return Case("some", problem.n, "layer", operation, problem, precision)


PROBLEMS = {
    "conv": ConvProblem(2, 8, 7, 6, 4, 3, 2, stride=(2, 1), padding=(1, 0)),
    "groups": ConvProblem(2, 5, 6, 4, 6, 3, 3, padding=(1, 1), groups=2),
    "ceil": ConvProblem(1, 9, 10, 3, 4, 4, 4, stride=(3, 3), rounding="ceil"),
    "ceil_padded": ConvProblem(2, 7, 8, 4, 4, 3, 4, stride=(3, 3), padding=(1, 1), groups=2, rounding="ceil"),
    "floor_leaves_pixels": ConvProblem(2, 8, 8, 2, 3, 3, 3, stride=(4, 4)),
    "dilated": ConvProblem(2, 9, 8, 4, 4, 3, 2, stride=(1, 2), padding=(1, 1), groups=2, dilation=(2, 3)),
    "padded_below": ConvProblem(1, 6, 7, 3, 4, 3, 3, stride=(2, 1), padding=((0, 1), (1, 3))),
    "fc": FcProblem(3, 7, 5),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_plan_computes_the_row(frontend: Any, name: str, direction: str, precision: str) -> None:
    problem = PROBLEMS[name]
    operation = f"{'fc' if name == 'fc' else 'conv'}_{direction}"
    options = {"bias": False} if direction == "fprop" else {}
    inputs = make_inputs(operation, problem, **options)
    wanted = getattr(reference, operation)(problem, *inputs.values())
    plans = peer.CuDNN("cuda:0", precision).plans(case(operation, problem, precision))
    # A fully connected layer has those of two graphs.
    assert [plan.name for plan in plans] == ["eng0", "eng1", "eng2", "eng4", "eng5"] * (1 + (name == "fc"))
    for plan in plans:
        plan.load(inputs)
        ((output, before),) = plan.results().items()
        assert np.isnan(values(before)).all()
        plan.call()
        ((output, kept),) = plan.results().items()
        assert (kept.dtype == BITS) == (precision == "bf16")
        result = values(kept)
        if precision == "bf16":
            wanted = unpack(pack(wanted))
        assert output == {"fprop": "y", "dgrad": "dx", "wgrad": "dw"}[direction]
        np.testing.assert_array_equal(result, wanted.reshape(result.shape))
        assert result.shape == tuple(getattr(problem, f"{output[-1]}_shape"))


def test_inputs_are_copied_once_for_all_plans(frontend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    monkeypatch.setattr(Gpu, "array", lambda self, host: copies.append(host) or np.array(host))
    plans = peer.CuDNN("cuda:0", "fp32").plans(case("fc_fprop", PROBLEMS["fc"]))
    first, second = (make_inputs("fc_fprop", PROBLEMS["fc"], seed=seed, bias=False) for seed in (0, 1))
    for plan in plans:
        plan.load(first)
    assert len(copies) == 2
    plans[0].load(second)
    plans[1].call()
    wanted = reference.fc_fprop(PROBLEMS["fc"], *second.values())
    assert (plans[1].results()["y"] == wanted).all()


def test_plans_may_run_in_any_order_after_a_larger_workspace_was_needed(frontend: Any) -> None:
    row_ = case("conv_fprop", PROBLEMS["conv"])
    plans = {plan.name: plan for plan in peer.CuDNN("cuda:0", "fp32").plans(row_)}
    inputs = make_inputs("conv_fprop", PROBLEMS["conv"], bias=False)
    small, large = plans["eng1"], plans["eng4"]
    small.load(inputs)
    before = small._buffers.workspace
    large.load(inputs)
    small.call()
    assert small._buffers.workspace != before and FakeGraph.workspaces == [large._buffers.workspace]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_columns_hold_what_their_notes_allow(frontend: Any, precision: str) -> None:
    side = peer.CuDNN("cuda:0", precision)
    columns = {
        plan.name: tuple(column for column in side.columns if plan.may_fill(column))
        for plan in side.plans(case("conv_fprop", PROBLEMS["conv"], precision))
    }
    # Tensor cores are TF32's and bfloat16's.
    tensor_cores = precision in ("tf32", "bf16")
    assert columns == {
        "eng0": ("best", "strict"),
        "eng1": ("best", "strict", "deterministic") if tensor_cores else ("best",),
        "eng2": ("best",),
        "eng4": ("best", "strict", "deterministic"),
        "eng5": ("best", "strict") if tensor_cores else ("best",),
    }
    assert set().union(*columns.values()) == set(side.columns)


@pytest.mark.parametrize("verify", VERIFICATIONS)
def test_a_row_is_prepared_and_says_what_was_left_out(frontend: Any, verify: str) -> None:
    side = peer.CuDNN("cuda:0", "fp32", verify)
    answer = side.prepare("cifar-quick", 2, "conv3", "conv_wgrad")
    kept = {column: plan["kernel"] for column, plan in answer["plans"].items()}
    assert kept == {"best": "eng5", "strict": "eng0", "deterministic": "eng4"}
    assert answer["failed"] == {"eng3": "Deselecting execution plan"} and not answer["wrong"]
    assert side.time("strict", 2) == [3.0, 3.0]
    assert frontend.streams == [(HANDLE, STREAM)]
    assert side.about()["frontend"] == "1.32.0" and side.about()["cudnn"] == 91400


def test_a_graph_is_timed_and_its_launch_told_apart(frontend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    side = peer.CuDNN("cuda:0", "fp32")
    assert side.verify == FINITE
    strict = side.prepare("cifar-quick", 2, "conv3", "conv_fprop")["plans"]["strict"]
    assert strict == {
        "kernel": "eng0", "seconds": 3.0, "how": "graph", "launch_seconds": LAUNCH,
        "called_seconds": 3.0 + LAUNCH,
    }  # fmt: skip
    monkeypatch.setattr(FakeGraph, "uncapturable", True)
    strict = side.prepare("cifar-quick", 2, "conv3", "conv_fprop")["plans"]["strict"]
    assert strict["how"] == "not captured: some engines cannot be"
    assert strict["seconds"] == strict["called_seconds"] == side.time("strict", 1)[0] == 3.0 + LAUNCH


def test_only_plans_that_may_stand_in_a_column_are_built_again(frontend: Any) -> None:
    """Building can take a second: each plan once, then for a column the fastest until one will do."""
    peer.CuDNN("cuda:0", "fp32").prepare("cifar-quick", 2, "conv3", "conv_fprop")
    first = ["eng0", "eng1", "eng2", "eng4", "eng5"]
    assert FakeGraph.built_plans == [*first, "eng0", "eng4"]


def test_another_precision_is_used_from_a_row_on(frontend: Any) -> None:
    side = peer.CuDNN("cuda:0", "fp32")
    for precision, kept in (("fp32", "eng0"), ("bf16", "eng5"), ("tf32", "eng5"), ("fp32", "eng0")):
        answer = side.prepare("cifar-quick", 2, "conv3", "conv_fprop", precision=precision)
        assert answer["plans"]["strict"]["kernel"] == kept and side.precision == precision


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_not_written_is_seen_where_it_is(
    frontend: Any, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    right = FakeGraph.execute_plan_at_index

    def execute(self: FakeGraph, tensor_dict: Any, workspace: int, index: int, handle: Any = None) -> None:
        tensor = self.output
        before = tensor.at(tensor_dict[tensor.uid])[0, 0, 0, 0].copy()
        right(self, tensor_dict, workspace, index, handle)
        if self.engines[index].name == "eng5":
            tensor.at(tensor_dict[tensor.uid])[0, 0, 0, 0] = before

    monkeypatch.setattr(FakeGraph, "execute_plan_at_index", execute)
    monkeypatch.setattr(Gpu, "host", None)  # nothing comes back to be looked at
    answer = peer.CuDNN("cuda:0", precision).prepare("cifar-quick", 2, "conv3", "conv_fprop")
    assert answer["wrong"] == {"eng5": "1 of 8,192 elements of y are NaN, infinite or not written"}
    assert answer["plans"]["best"]["kernel"] == "eng1"


def test_a_wrong_plan_is_never_kept(frontend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = FakeGraph.execute_plan_at_index

    def execute(self: FakeGraph, tensor_dict: Any, workspace: int, index: int, handle: Any = None) -> None:
        right(self, tensor_dict, workspace, index, handle)
        if self.engines[index].name == "eng5":
            self.output.at(tensor_dict[self.output.uid])[0, 0, 0, 0] += 1

    monkeypatch.setattr(FakeGraph, "execute_plan_at_index", execute)
    answer = peer.CuDNN("cuda:0", "fp32", FULL).prepare("cifar-quick", 2, "conv3", "conv_fprop")
    assert answer["plans"]["best"]["kernel"] == "eng1"
    assert list(answer["wrong"]) == ["eng5"]


def test_time_for_building_is_bounded_where_that_is_asked(
    frontend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second passes at every look at the clock.
    monkeypatch.setattr(peer.time, "monotonic", iter(range(0, 1000)).__next__)
    monkeypatch.setenv(peer.PLAN_SECONDS, "3")
    side = peer.CuDNN("cuda:0", "fp32")
    plans = side.plans(case("conv_fprop", PROBLEMS["conv"]))
    assert [plan.name for plan in plans] == ["eng0", "eng1", "eng2"]
    assert side.about()["plan_seconds"] == 3.0
    assert side._failed == {"3 more plans of conv_fprop": f"not built within 3 s ({peer.PLAN_SECONDS})"}


def test_what_cudnn_has_no_plan_for_is_refused(frontend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    side = peer.CuDNN("cuda:0", "fp32")
    with pytest.raises(Refused, match="convolutions and matrix products only"):
        side.plans(case("maxpool_forward", PoolProblem(1, 4, 4, 4)))
    monkeypatch.setattr(FakeGraph, "engines", [])
    with pytest.raises(Refused, match="conv_fprop: No valid engine configs"):
        side.plans(case("conv_fprop", PROBLEMS["conv"]))


def test_what_is_missing_is_named_with_its_command(frontend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("Unable to find symbol cudnnCreate")

    monkeypatch.setattr(frontend, "create_handle", fail)
    with pytest.raises(PeerMissing, match=r"cudnnCreate.*pip install .*nvidia-cudnn-cu13"):
        peer.CuDNN("cuda:0", "fp32")
    monkeypatch.setitem(sys.modules, "cudnn", None)
    with pytest.raises(PeerMissing, match="pip install nvidia-cudnn-frontend"):
        peer.CuDNN("cuda:0", "fp32")
    monkeypatch.undo()
    with pytest.raises(PeerMissing, match="computes on GPUs, not on cpu:0"):
        peer.CuDNN("cpu:0", "fp32")
