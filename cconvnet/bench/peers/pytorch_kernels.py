"""PyTorch's operations, one by one, in the memory layouts it offers.

For an operation that we compute as one, PyTorch computes its parts in turn.

In bf16 every tensor is bfloat16 where ours is. So are the gradients of filters and biases, which we write as
floats: PyTorch's functions return the type they are given, as under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# This import comes first: it reports a missing PyTorch.
from cconvnet.bench.peers.pytorch import set_up

# isort: split

import torch

from cconvnet.bench.cases import Case
from cconvnet.bench.peers.gpu import gpu
from cconvnet.bench.peers.padding import covering_image
from cconvnet.bench.peers.pytorch_layers import neuron
from cconvnet.bench.peers.pytorch_windows import ceil_mode, check_windows, pooling
from cconvnet.bench.peers.side import Plan, Refused, Replay, Side
from cconvnet.bench.tiles import Tiled, tile
from cconvnet.bench.timing import FLUSHED, GRAPH, wall_seconds
from cconvnet.bfloat16 import BITS, pack
from cconvnet.nets import Neuron

Array = np.ndarray[Any, Any]
Tensors = dict[str, Any]
# A function that prepares the inputs, which is not timed, and returns the call that is timed. That call
# returns the outputs by name.
Maker = Callable[[Any, Tensors], Callable[[], Tensors]]

# Arrays whose sizes and layout backward functions read.
_SIZES_OF = {"conv_dgrad": "x", "conv_wgrad": "w", "avgpool_backward": "x"}


class _Plan(Plan):
    """One maker in one layout: "nchw", "channels_last", or "" where arrays have no channels."""

    def __init__(self, side: PyTorch, case: Case, make: Maker, name: str, layout: str = "") -> None:
        self._side, self._case, self._make, self._layout = side, case, make, layout
        self.name = name
        self._compute: Callable[[], Tensors] | None = None
        self._outputs: Tensors = {}

    def load(self, inputs: dict[str, Any]) -> None:
        # Free earlier inputs first.
        self._outputs, self._compute = {}, None
        problem, operation = self._case.problem, self._case.operation
        if name := _SIZES_OF.get(operation):
            shape = getattr(problem, f"{name}_shape")
            tiled = any(isinstance(value, Tiled) for value in inputs.values())
            inputs = inputs | {name: Tiled(shape) if tiled else np.zeros(shape, np.float32)}
        tensors = {name: self._tensor(name, value) for name, value in inputs.items()}
        self._compute = self._make(problem, tensors)

    def _is_bf16(self, name: str) -> bool:
        """Return whether an array is bfloat16; one that only PyTorch reads has the type of the others."""
        if _SIZES_OF.get(self._case.operation) == name:
            return self._case.element == "bf16"
        return bool(self._case.dtype(name) == BITS)

    def _tensor(self, name: str, value: Any) -> Any:
        if isinstance(value, Tiled):
            tensor = self._side.tiled(value)
        elif isinstance(value, np.ndarray):
            # A copy, since some operations write into their inputs.
            tensor = torch.from_numpy(value).to(self._side.torch_device, copy=True)
        else:
            return value
        if tensor.dtype == torch.float32 and self._is_bf16(name):
            tensor = tensor.to(torch.bfloat16)
        if tensor.ndim != 4:
            return tensor
        last = self._layout == "channels_last"
        return tensor.permute(0, 3, 1, 2).contiguous(
            memory_format=torch.channels_last if last else torch.contiguous_format
        )

    def call(self) -> None:
        assert self._compute is not None
        # Free the memory for the next results.
        self._outputs = {}
        self._outputs = self._compute()

    def results(self) -> dict[str, Array]:
        return {name: self._array(value) for name, value in self._outputs.items()}

    def bad(self) -> dict[str, tuple[int, int]]:
        return {
            name: (value.numel() - int(torch.isfinite(value).sum()), value.numel())
            for name, value in self._outputs.items()
        }

    @staticmethod
    def _array(tensor: Any) -> Array:
        if tensor.ndim == 4:
            tensor = tensor.permute(0, 2, 3, 1)
        tensor = tensor.detach().contiguous().cpu()
        if tensor.dtype == torch.bfloat16:
            return pack(tensor.float().numpy())
        return np.asarray(tensor.numpy())


class PyTorch(Side):
    """PyTorch on the CPU or on our GPU.

    Raises:
        PeerMissing: It is not installed, or does not support the GPU.
    """

    def __init__(self, device: str, precision: str, verify: str | None = None) -> None:
        super().__init__(device, precision, verify)
        on_gpu = device.partition(":")[0] == "cuda"
        self._ordinal = gpu(device).ordinal if on_gpu else None
        self.torch_device = set_up(self._ordinal, precision)
        if on_gpu:
            size = torch.cuda.get_device_properties(self.torch_device).L2_cache_size
            self._flush = torch.empty(max(FLUSHED * size // 4, 1), device=self.torch_device)
            # All work is on one stream, since captured work must not depend on another: a backward pass runs
            # on the stream of its forward pass. The side is alone in its process.
            self._stream = torch.cuda.Stream(self.torch_device)
            torch.cuda.set_stream(self._stream)
            torch.backends.cudnn.benchmark = True
        torch.set_grad_enabled(False)
        self._base: Any = None

    def use(self, precision: str) -> None:
        """Compute in another precision from the next case on."""
        super().use(precision)
        set_up(self._ordinal, precision)

    def tiled(self, wanted: Tiled) -> Any:
        """Return a new tensor of floats."""
        if self._base is None:
            self._base = torch.from_numpy(tile()).to(self.torch_device)
        times = -(-wanted.size // len(self._base))
        return self._base.repeat(times)[: wanted.size].clone().view(wanted.shape)

    def about(self) -> dict[str, Any]:
        """Describe the versions and threads."""
        if self._ordinal is None:
            return {"version": torch.__version__, "threads": torch.get_num_threads()}
        return {"version": torch.__version__, "cuda": torch.version.cuda}

    def plans(self, case: Case) -> Sequence[Plan]:
        """Return the plans of a case, one for each layout."""
        maker = getattr(self, f"_{case.operation}", None)
        if maker is None:
            raise Refused(f"{case.operation} has no counterpart in PyTorch")
        problem = case.problem
        if case.operation == "dropout":
            if not math.isclose(problem.scale * problem.keep, 1):
                raise Refused("PyTorch's dropout scales by 1 / keep")
            return [
                _Plan(self, case, self._dropout, "dropout"),
                _Plan(self, case, self._native_dropout, "native_dropout"),
            ]
        problems = problem if isinstance(problem, tuple) else (problem,)
        if not hasattr(problems[0], "h"):
            return [_Plan(self, case, maker, case.operation)]
        if "pool" in case.operation:
            check_windows(problems[-1])
        if case.operation.startswith("lrn"):
            lrn = problems[0]
            if lrn.region == "same_map" and lrn.size % 2 == 0:
                raise Refused("PyTorch's pooling has no windows of even size around each pixel")
            if lrn.region != "same_map" and lrn.groups > 1:
                # Groups become images, without a copy in this layout alone.
                return [_Plan(self, case, maker, "nchw", "nchw")]
        return [_Plan(self, case, maker, layout, layout) for layout in ("nchw", "channels_last")]

    def seconds(self, plan: Plan, count: int) -> list[float]:
        """Return the time of each call."""
        if self._ordinal is None:
            return wall_seconds(plan.call, count)
        cuda = torch.cuda
        events = [(cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)) for _ in range(count)]
        for begin_event, end_event in events:
            self._flush.fill_(0.0)  # as Clock does
            begin_event.record()
            plan.call()
            end_event.record()
        cuda.synchronize()
        return [begin_event.elapsed_time(end_event) / 1e3 for begin_event, end_event in events]

    def captured(self, plan: Plan) -> tuple[Plan, str]:
        """Capture a plan's work in a CUDA graph, if PyTorch allows it."""
        if self._ordinal is None:
            return plan, ""
        torch.cuda.synchronize()
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                plan.call()
            graph.replay()
            torch.cuda.synchronize()
        except Exception as error:  # any error of what the driver refuses
            return plan, f"not captured: {(str(error).splitlines() or [type(error).__name__])[0]}"
        return Replay(plan, graph.replay), GRAPH

    def serves(self, precision: str) -> bool:
        """Return whether PyTorch computes in a precision on this device."""
        return precision != "tf32" or self._ordinal is not None

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self._ordinal is not None:
            torch.cuda.synchronize()

    def launch_seconds(self, plan: Plan, count: int) -> list[float]:
        """Return the host's time of each call."""
        times = []
        for _ in range(count):
            torch.cuda.synchronize()
            times += wall_seconds(plan.call, 1)
        torch.cuda.synchronize()
        return times

    # PyTorch writes into existing memory where it can: each page of new memory costs a page fault.

    @staticmethod
    def _unwritten(tensor: Any) -> Any:
        return tensor.fill_(math.nan)

    # ---- sums of products ----

    def _padded(self, problem: Any, x: Any) -> Any:
        """Pad x with zeros below and to the right for windows that extend beyond it.

        Windows do so where sizes were rounded up.
        """
        _, h, w, _ = covering_image(problem)
        if (h, w) == (problem.h, problem.w):
            return x
        return torch.nn.functional.pad(x, (0, w - problem.w, 0, h - problem.h))

    @staticmethod
    def _window(problem: Any) -> list[list[int]]:
        return [
            [problem.stride_h, problem.stride_w],
            [problem.pad_h, problem.pad_w],
            [problem.dilation_h, problem.dilation_w],
        ]

    def _conv_fprop(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        window = self._window(problem)
        x, w = self._padded(problem, tensors["x"]), tensors["w"]
        return lambda: {"y": torch.conv2d(x, w, None, *window, problem.groups)}

    def _backward(self, problem: Any, tensors: Tensors, mask: list[bool]) -> Callable[[], Any]:
        arguments = [
            tensors["dy"],
            self._padded(problem, tensors["x"]),
            tensors["w"],
            None,
            *self._window(problem),
            False,
            [0, 0],
        ]
        backward = torch.ops.aten.convolution_backward
        return lambda: backward(*arguments, problem.groups, mask)

    def _conv_dgrad(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        compute = self._backward(problem, tensors, [True, False, False])
        return lambda: {"dx": compute()[0][:, :, : problem.h, : problem.w]}

    def _conv_wgrad(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        compute = self._backward(problem, tensors, [False, True, False])
        return lambda: {"dw": compute()[1]}

    def _product(self, name: str, a: Any, b: Any) -> Callable[[], Tensors]:
        out = self._unwritten(torch.empty((a.shape[0], b.shape[1]), dtype=a.dtype, device=self.torch_device))
        return lambda: {name: torch.mm(a, b, out=out)}

    def _fc_fprop(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        return self._product("y", tensors["x"], tensors["w"].t())

    def _fc_dgrad(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        return self._product("dx", tensors["dy"], tensors["w"])

    def _fc_wgrad(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        return self._product("dw", tensors["dy"].t(), tensors["x"])

    # ---- normalisation ----

    def _normalised(self, problem: Any, x: Any) -> Any:
        """Normalise in bf16 as under autocast: on a CPU not every function that it needs has bfloat16."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
            return self._own_norm(problem, x).to(x.dtype)

    @staticmethod
    def _own_norm(problem: Any, x: Any) -> Any:
        functional = torch.nn.functional
        if problem.region == "same_map":
            sums = functional.avg_pool2d(x * x, problem.size, 1, problem.size // 2, divisor_override=1)
            return x * (problem.k + problem.alpha * sums) ** -problem.beta
        if problem.groups == 1:
            return functional.local_response_norm(
                x, problem.size, problem.alpha * problem.size, problem.beta, problem.k
            )
        apart = x.view(problem.n * problem.groups, problem.c // problem.groups, problem.h, problem.w)
        y = functional.local_response_norm(
            apart, problem.size, problem.alpha * problem.size, problem.beta, problem.k
        )
        return y.view(problem.n, problem.c, problem.h, problem.w)

    def _lrn_forward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        return lambda: {"y": self._normalised(problem, tensors["x"])}

    def _lrn_backward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        x = tensors["x"].requires_grad_()
        with torch.enable_grad():
            y = self._normalised(problem, x)
        return lambda: {"dx": torch.autograd.grad(y, x, tensors["dy"], retain_graph=True)[0]}

    def _batch_norm_statistics(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        x = tensors["x"][: problem.counted]

        def compute() -> Tensors:
            variance, mean = torch.var_mean(x.float(), 0, correction=0)
            return {"mean": mean, "variance": variance}

        return compute

    def _batch_norm_forward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        if problem.counted < problem.rows:
            raise Refused("PyTorch's batch normalisation has no rows that do not count")
        names = ("x", "mean", "variance", "gamma", "beta")
        arguments = [tensors[name] for name in names]
        shortcut, relu = tensors["shortcut"], tensors["relu"]

        def compute() -> Tensors:
            y = torch.nn.functional.batch_norm(*arguments, False, 0.0, problem.eps)
            if shortcut is not None:
                y += shortcut
            return {"y": torch.relu_(y) if relu else y}

        return compute

    def _batch_norm_backward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        if problem.counted < problem.rows:
            raise Refused("PyTorch's batch normalisation has no rows that do not count")
        x, y, dy, mean, variance, gamma = (
            tensors[name] for name in ("x", "y", "dy", "mean", "variance", "gamma")
        )
        reciprocal = torch.rsqrt(variance + problem.eps)

        def compute() -> Tensors:
            gradient = dy if y is None else torch.ops.aten.threshold_backward(dy, y, 0)
            dx, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(
                gradient, x, gamma, None, None, mean, reciprocal, True, problem.eps, [True, True, True]
            )
            return {"dx": dx, "dgamma": dgamma, "dbeta": dbeta}

        return compute

    def _lrn_maxpool(self, problem: Any, x: Any) -> Any:
        lrn, pool = problem
        return torch.max_pool2d(self._normalised(lrn, x), *pooling(pool), 1, ceil_mode(pool))  # type: ignore[call-arg, arg-type]

    def _lrn_maxpool_forward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        return lambda: {"y": self._lrn_maxpool(problem, tensors["x"])}

    def _lrn_maxpool_backward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        x = tensors["x"].requires_grad_()
        with torch.enable_grad():
            y = self._lrn_maxpool(problem, x)
        return lambda: {"dx": torch.autograd.grad(y, x, tensors["dy"], retain_graph=True)[0]}

    # ---- pooling ----

    def _maxpool_forward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        # Its backward pass needs the indices.
        forward = torch.ops.aten.max_pool2d_with_indices
        arguments = [tensors["x"], *pooling(problem), [1, 1], ceil_mode(problem)]
        y, indices = forward(*arguments)
        self._unwritten(y)
        return lambda: {"y": forward.out(*arguments, out=y, indices=indices)[0]}

    def _maxpool_backward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        aten = torch.ops.aten
        arguments = [*pooling(problem), [1, 1], ceil_mode(problem)]
        indices = aten.max_pool2d_with_indices(tensors["x"], *arguments)[1]
        backward = aten.max_pool2d_with_indices_backward.grad_input
        dx = self._unwritten(tensors["x"].clone())
        return lambda: {"dx": backward(tensors["dy"], tensors["x"], *arguments, indices, grad_input=dx)}

    def _unpooled(self, problem: Any, u: Any) -> Any:
        """Return where PyTorch puts the values of windows: they must not overlap."""
        if problem.stride_h < problem.window_h or problem.stride_w < problem.window_w:
            raise Refused("PyTorch's unpooling does not add values of windows that overlap")
        arguments = [*pooling(problem), [1, 1], ceil_mode(problem)]
        return torch.ops.aten.max_pool2d_with_indices(u, *arguments)[1]

    def _maxunpool_forward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        indices, size = self._unpooled(problem, tensors["u"]), [problem.h, problem.w]
        unpool = torch.ops.aten.max_unpool2d
        y = self._unwritten(unpool(tensors["x"], indices, size))
        return lambda: {"y": unpool.out(tensors["x"], indices, size, out=y)}

    def _maxunpool_backward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        indices = self._unpooled(problem, tensors["u"]).flatten(2)
        dy = tensors["dy"].flatten(2)
        dx = self._unwritten(torch.gather(dy, 2, indices))
        return lambda: {"dx": torch.gather(dy, 2, indices, out=dx).unflatten(2, (problem.p, problem.q))}

    def _avgpool_forward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        forward = torch.ops.aten.avg_pool2d
        arguments = [tensors["x"], *pooling(problem), ceil_mode(problem), problem.count_padding]
        y = self._unwritten(forward(*arguments))
        return lambda: {"y": forward.out(*arguments, out=y)}

    def _avgpool_backward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        arguments = [*pooling(problem), ceil_mode(problem), problem.count_padding, None]
        backward = torch.ops.aten.avg_pool2d_backward.grad_input
        dx = self._unwritten(tensors["x"].clone())
        return lambda: {"dx": backward(tensors["dy"], tensors["x"], *arguments, grad_input=dx)}

    # ---- elements ----

    def _relu_bias_backward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        backward = torch.ops.aten.threshold_backward.grad_input
        dx = self._unwritten(tensors["y"].clone())
        db = self._unwritten(torch.empty(problem.k, dtype=dx.dtype, device=self.torch_device))

        def compute() -> Tensors:
            backward(tensors["dy"], tensors["y"], 0, grad_input=dx)
            return {"dx": dx, "db": torch.sum(dx, 0, out=db)}

        return compute

    @staticmethod
    def _neuron(problem: Any, x: Any) -> Any:
        return neuron(Neuron(problem.neuron, problem.a, problem.b), x)

    def _neuron_forward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        return lambda: {"y": self._neuron(problem, tensors["x"])}

    def _neuron_backward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        x = tensors["x"].requires_grad_()
        with torch.enable_grad():
            y = self._neuron(problem, x)
        return lambda: {"dx": torch.autograd.grad(y, x, tensors["dy"], retain_graph=True)[0]}

    def _dropout(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        return lambda: {"y": torch.nn.functional.dropout(tensors["x"], 1 - problem.keep, True)}

    def _native_dropout(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        return lambda: {"y": torch.native_dropout(tensors["x"], 1 - problem.keep, True)[0]}

    # ---- loss and update ----

    def _softmax_cross_entropy(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        labels, aten = tensors["labels"].long(), torch.ops.aten
        scale = torch.full((problem.n,), tensors["scale"], device=self.torch_device)
        weight = torch.zeros((), device=self.torch_device)
        ignored = -100 if problem.ignore is None else problem.ignore  # -100 is no class

        def compute() -> Tensors:
            logits = tensors["logits"].float()  # as under autocast
            logarithms = aten._log_softmax(logits, 1, False)
            loss = aten.nll_loss_forward(logarithms, labels, None, 0, ignored)[0]
            gradient = aten.nll_loss_backward(scale, logarithms, labels, None, 0, ignored, weight)
            dlogits = aten._log_softmax_backward_data(gradient, logarithms, 1, torch.float32)
            return {"loss": loss, "dlogits": dlogits.to(tensors["logits"].dtype)}

        return compute

    def _l2_cost_forward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        return lambda: {"loss": 0.5 * (tensors["x"].float() - tensors["target"]).square().sum(1)}

    def _l2_cost_backward(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        x, target, scale = tensors["x"], tensors["target"], tensors["scale"]
        return lambda: {"dx": ((x.float() - target) * scale).to(x.dtype)}

    def _sgd_update(self, problem: Any, tensors: Tensors) -> Callable[[], Tensors]:
        # Its momentum is not yet multiplied by the learning rate.
        momentum = tensors["v"] / -problem.lr
        rates = {
            "lr": problem.lr,
            "momentum": problem.momentum,
            "weight_decay": problem.weight_decay,
            "dampening": 0.0,
        }
        flags = {"nesterov": problem.nesterov, "maximize": False, "is_first_step": False}
        rounded = torch.empty_like(tensors["w"], dtype=torch.bfloat16) if self.precision == "bf16" else None

        def compute() -> Tensors:
            torch._fused_sgd_([tensors["w"]], [tensors["g"]], [momentum], **rates, **flags)  # type: ignore[call-overload]
            return {"w": tensors["w"]} | ({} if rounded is None else {"w_bf16": rounded.copy_(tensors["w"])})

        return compute
