"""The functions of cconvnet.torch beside PyTorch's own, and beside cconvnet.ops bit by bit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from cconvnet import ops
from cconvnet.devices import Device

torch = pytest.importorskip("torch")
ct = pytest.importorskip("cconvnet.torch")
functional = torch.nn.functional

UNIT = 2.0**-53


@dataclass(frozen=True)
class Case:
    """A function of cconvnet.torch and PyTorch's, and the shapes of the tensors it is differentiated by.

    `roundings` is how many roundings at most a result or a gradient passes through, each of an intermediate
    of at most `scale` times the largest of the results that PyTorch has for the absolute values.
    """

    ours: Callable[..., Any]
    theirs: Callable[..., Any] | None
    shapes: tuple[tuple[int, ...], ...]
    roundings: int
    options: dict[str, Any] = field(default_factory=dict)
    positive: bool = False


X = (2, 6, 7, 8)
CONV = [
    {},
    {"stride": (2, 1), "padding": (1, 2)},
    {"dilation": (2, 1), "padding": 2},
    {"groups": 2, "padding": "same"},
    {"dilation": (1, 3), "padding": "same"},
    {"padding": "valid", "stride": 3},
]
TRANSPOSED = [
    {},
    {"stride": (2, 3), "padding": 1, "output_padding": (1, 2)},
    {"groups": 2, "dilation": (1, 2), "padding": (0, 1)},
]
POOLS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (2, 3), "stride": (3, 2), "ceil_mode": True},
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
]


def conv_weights(options: dict[str, Any]) -> tuple[int, ...]:
    return (4, 6 // options.get("groups", 1), 3, 2)


CASES: dict[str, Case] = {
    **{
        f"conv2d {options}": Case(
            ct.conv2d, functional.conv2d, (X, conv_weights(options), (4,)), 2 * 7 * 8 + 1, options
        )
        for options in CONV
    },
    **{
        f"conv_transpose2d {options}": Case(
            ct.conv_transpose2d,
            functional.conv_transpose2d,
            (X, (6, 4 // options.get("groups", 1), 3, 2), (4,)),
            2 * 30 * 30 + 1,
            options,
        )
        for options in TRANSPOSED
    },
    "linear": Case(ct.linear, functional.linear, ((2, 3, 5), (4, 5), (4,)), 7),
    "linear without bias": Case(ct.linear, functional.linear, ((3, 5), (4, 5)), 6),
    **{f"max_pool2d {o}": Case(ct.max_pool2d, functional.max_pool2d, (X,), 9, o) for o in POOLS},
    **{
        f"avg_pool2d {o} {counted}": Case(
            ct.avg_pool2d, functional.avg_pool2d, (X,), 20, {**o, "count_include_pad": counted}
        )
        for o in POOLS
        for counted in (True, False)
    },
    **{
        f"local_response_norm {size}": Case(
            ct.local_response_norm,
            functional.local_response_norm,
            (X,),
            8 * size + 30,
            {"size": size, "alpha": 0.5 * size, "beta": 0.75, "k": 2.0},  # floats, as alpha / size is
        )
        for size in (1, 4, 5)
    },
    "relu": Case(ct.relu, torch.relu, (X,), 1),
    "tanh": Case(ct.tanh, torch.tanh, ((3, 5),), 12),
    "sigmoid": Case(ct.sigmoid, torch.sigmoid, (X,), 12),
    "softplus": Case(ct.softplus, functional.softplus, (X,), 12),
    "neuron sqrt": Case(
        lambda x, **o: ct.neuron(x, "sqrt", **o), torch.sqrt, ((3, 5),), 12, positive=True
    ),
    "neuron brelu": Case(lambda x, **o: ct.neuron(x, "brelu", 1.5, **o), lambda x: x.clamp(0, 1.5), (X,), 1),
    "neuron silu": Case(lambda x, **o: ct.neuron(x, "silu", **o), functional.silu, (X,), 12),
    "neuron linear": Case(lambda x, **o: ct.neuron(x, "linear", 1.5, 2, **o), lambda x: 1.5 * x + 2, (X,), 4),
    "maximum": Case(ct.maximum, torch.maximum, (X, X), 1),
    "local2d": Case(
        ct.local2d, None, ((2, 4, 5, 6), (3, 3, 6, 2, 3, 2), (6, 3, 3)), 0, {"groups": 2, "stride": (1, 2)}
    ),
    "contrast_norm": Case(ct.contrast_norm, None, (X,), 0, {"size": 3, "alpha": 0.5}),
}  # fmt: skip


def drawn(case: Case, seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in case.shapes]
    return [(t.abs() + 0.25 if case.positive else t).requires_grad_() for t in tensors]


def with_gradients(function: Callable[..., Any], tensors: list[Any], **options: Any) -> list[Any]:
    """Return a function's result, and its gradients for a sum with weights that depend on the position."""
    result = function(*tensors, **options)
    weights = torch.cos(torch.arange(result.numel(), dtype=torch.float64)).reshape(result.shape)
    return [result.detach(), *torch.autograd.grad(result, tensors, weights.to(result.dtype))]


WITH_ORACLE = [name for name, case in CASES.items() if case.theirs]


# PyTorch's own: it copies the image to pad one side more than the other.
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", WITH_ORACLE)
def test_results_and_gradients_are_pytorchs(name: str) -> None:
    case = CASES[name]
    tensors = drawn(case)
    ours = with_gradients(case.ours, tensors, device="reference:0", **case.options)
    theirs = with_gradients(case.theirs, tensors, **case.options)
    # Sums of absolute values bound every intermediate of the sums.
    largest = with_gradients(
        case.theirs, [t.detach().abs().requires_grad_() for t in tensors], **case.options
    )
    for actual, wanted, scale in zip(ours, theirs, largest, strict=True):
        assert actual.shape == wanted.shape and actual.dtype == torch.float64
        bound = case.roundings * UNIT * max(1.0, float(scale.abs().max()), float(wanted.abs().max()))
        assert float((actual - wanted).abs().max()) <= bound, bound


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    case = CASES[name]
    small = [t.detach().requires_grad_() for t in drawn(case, seed=1)]
    assert torch.autograd.gradcheck(
        lambda *tensors: case.ours(*tensors, device="reference:0", **case.options), small, fast_mode=True
    )


@pytest.mark.parametrize("name", ["conv2d {}", "linear", "avg_pool2d {'kernel_size': 2} True"])
def test_products_in_float32_round_within_their_bound(name: str) -> None:
    """The error of a sum of n products is at most gamma(n) times the sum of their absolute values."""
    case = CASES[name]
    tensors = drawn(case)
    single = [t.detach().float().requires_grad_() for t in tensors]
    exact = [t.detach().double().requires_grad_() for t in single]
    ours = with_gradients(case.ours, single, **case.options)
    result = case.theirs(*exact, **case.options)
    weights = torch.cos(torch.arange(result.numel(), dtype=torch.float64)).reshape(result.shape).float()
    theirs = [result.detach(), *torch.autograd.grad(result, exact, weights.double())]
    magnitudes = [t.detach().abs().requires_grad_() for t in exact]
    result = case.theirs(*magnitudes, **case.options)
    sums = [result.detach(), *torch.autograd.grad(result, magnitudes, weights.double().abs())]
    gamma = case.roundings * 2.0**-24 / (1 - case.roundings * 2.0**-24)
    for actual, wanted, total in zip(ours, theirs, sums, strict=True):
        assert actual.dtype == torch.float32
        assert bool(((actual.double() - wanted).abs() <= gamma * total + 2.0**-126).all())


# ---- bits -----------------------------------------------------------------------------------------------


def images(*shape: int) -> Any:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))
    return made.to(memory_format=torch.channels_last) if len(shape) == 4 else made


def nhwc(tensor: Any) -> Any:
    return tensor.detach().permute(0, 2, 3, 1).contiguous()


def equal(a: Any, b: Any) -> None:
    assert a.dtype == b.dtype and a.shape == b.shape
    assert torch.equal(a, b)


def test_a_network_has_the_bits_of_the_operations(device: Device, element: str) -> None:
    dtype = torch.bfloat16 if element == "bf16" else torch.float32
    x, w, b, v = (
        images(*shape).to("cuda" if device.kind == "cuda" else "cpu", dtype).requires_grad_()
        for shape in ((2, 4, 8, 8), (6, 4, 3, 3), (6,), (5, 54))
    )
    y = ct.conv2d(x, w, b, padding=1, device=device)
    r = ct.relu(y, device=device)
    n = ct.local_response_norm(r, 5, 0.25, device=device)
    d = ct.dropout(n, 0.25, seed=7, device=device)
    p = ct.max_pool2d(d, 3, 2, device=device)
    # As the operations flatten, in the order of the memory.
    logits = ct.linear(p.permute(0, 2, 3, 1).flatten(1), v, device=device)
    labels = torch.tensor([3, 1], device=x.device)
    loss = ct.cross_entropy(logits, labels, device=device)
    loss.backward()

    on: dict[str, Any] = {"device": device}
    hx, hw, hv, hb = nhwc(x), nhwc(w), v.detach(), b.detach().float()
    hy = ops.conv_fprop(hx, hw, hb, padding=1, **on)
    hr = ops.relu_forward(hy, **on)
    hn = ops.lrn_forward(hr, alpha=0.25, k=1.0, average=True, **on)
    keep: dict[str, Any] = {"keep": 0.75, "scale": 1 / 0.75, "seed": 7}
    hd = ops.dropout(hn, **keep, **on)
    hp = ops.maxpool_forward(hd, **on)
    hl = ops.fc_fprop(hp.reshape(2, -1), hv, **on)
    equal(nhwc(p), hp)
    equal(logits.detach(), hl)
    q, losses, _ = ops.softmax_cross_entropy_forward(hl, labels.int(), **on)
    equal(loss.detach(), losses.mean())
    dl = (ops.softmax_cross_entropy_backward(q, labels.int(), 0.5, **on)).to(dtype)
    equal(v.grad, ops.fc_wgrad(hp.reshape(2, -1), dl, **on).to(dtype))
    dp = ops.fc_dgrad(dl, hv, **on).reshape(hp.shape)
    dd = ops.maxpool_backward(hd, hp, dp, **on)
    dr = ops.lrn_backward(hr, ops.dropout(dd, **keep, **on), alpha=0.25, k=1.0, average=True, **on)
    dy = ops.relu_backward(hr, dr, **on)
    equal(b.grad, ops.bias_grad(dy, **on).to(dtype))
    equal(nhwc(w.grad), ops.conv_wgrad(hx, dy, 3, padding=1, **on).to(dtype))
    equal(nhwc(x.grad), ops.conv_dgrad(dy, hw, hx.shape, padding=1, **on))


def test_channels_last_tensors_are_read_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = ops.conv_fprop

    def spied(x: Any, w: Any, *arguments: Any, **options: Any) -> Any:
        seen.extend((x.data_ptr(), w.data_ptr()))
        return plain(x, w, *arguments, **options)

    monkeypatch.setattr(ops, "conv_fprop", spied)
    x, w = images(2, 4, 8, 8), images(6, 4, 3, 3).requires_grad_()
    y = ct.conv2d(x, w)
    assert seen == [x.data_ptr(), w.data_ptr()]
    assert y.is_contiguous(memory_format=torch.channels_last) and y.shape == (2, 6, 6, 6)
    equal(ct.conv2d(x.contiguous(), w.contiguous()), y)  # any layout has the same bits
    relu = ct.relu(x.contiguous())
    assert relu.is_contiguous()
    assert ct.relu(y).is_contiguous(memory_format=torch.channels_last)


def test_gradients_that_nobody_needs_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "conv_dgrad", None)
    x, w = images(2, 4, 8, 8), images(6, 4, 3, 3).requires_grad_()
    ct.conv2d(x, w).sum().backward()
    assert w.grad is not None and x.grad is None


def test_second_derivatives_are_refused() -> None:
    x = images(2, 4, 8, 8).requires_grad_()
    (gradient,) = torch.autograd.grad((ct.relu(x) ** 2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_one_process_has_one_openmp() -> None:
    """PyTorch and oneDNN use the same libgomp, whichever is loaded first, and results do not depend on it."""
    program = """
import hashlib, sys
if {torch} == 1: import torch
import numpy as np
from cconvnet import ops
random = np.random.default_rng(0)
x, w = (random.standard_normal(shape).astype(np.float32) for shape in ((4, 16, 16, 8), (16, 3, 3, 8)))
y = ops.conv_fprop(x, w)
if {torch} == 2: import torch
if {torch}: torch.ones(999, 999).mul(2).sum(), torch.get_num_threads()
again = ops.conv_fprop(x, w), ops.maxpool_forward(y), ops.conv_wgrad(x, y, 3)
assert np.array_equal(again[0], y)
print(hashlib.sha256(b"".join(array.tobytes() for array in again)).hexdigest())
print(len({{line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}}))
"""
    told = []
    for order in (0, 1, 2):
        command = [sys.executable, "-c", program.format(torch=order)]
        told.append(
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout.split()
        )
    assert len({digest for digest, _ in told}) == 1
    assert all(int(count) <= 1 for _, count in told)


# ---- what single functions do ---------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(5, 7), (2, 7, 3, 2)])
def test_cross_entropy(reduction: str, shape: tuple[int, ...], smoothing: float) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(7, shape[:1] + shape[2:], generator=generator)
    labels.view(-1)[1] = -100
    how: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
    ours = with_gradients(
        lambda x, **o: ct.cross_entropy(x, labels, **how, **o), [logits], device="reference:0"
    )
    theirs = with_gradients(lambda x: functional.cross_entropy(x, labels, **how), [logits])
    for actual, wanted in zip(ours, theirs, strict=True):
        assert actual.shape == wanted.shape
        assert float((actual - wanted).abs().max()) <= 64 * UNIT * max(1.0, float(wanted.abs().max()))


def test_ties_of_a_pool_all_have_the_gradient() -> None:
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    ct.max_pool2d(x, 2).backward(torch.ones(1, 1, 1, 1))
    assert x.grad.tolist() == [[[[1.0, 1.0], [1.0, 1.0]]]]


def test_dropout_is_a_function_of_its_seed() -> None:
    x = images(2, 4, 8, 8).requires_grad_()
    y = ct.dropout(x, 0.25, seed=3)
    equal(ct.dropout(x.contiguous(), 0.25, seed=3), y)
    assert not torch.equal(ct.dropout(x, 0.25, seed=3, subsequence=1), y)
    y.sum().backward()
    kept = y != 0
    assert 0.5 < float(kept.float().mean()) < 0.95
    equal(x.grad, kept.float() / 0.75)
    torch.manual_seed(1)
    once = ct.dropout(x)
    torch.manual_seed(1)
    equal(ct.dropout(x), once)
    assert not torch.equal(ct.dropout(x), once)
    assert ct.dropout(x, 0.5, training=False) is x and not ct.dropout(x, 1.0).any()


def one(*shape: int) -> Any:
    return torch.ones(shape)


IMAGE, FILTER, ROWS = (1, 1, 5, 5), (1, 1, 3, 3), (2, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ct.conv2d(one(*ROWS), one(*FILTER)), ValueError, r"^input must have 4 axes \[N,C,H,W\]"),
        (
            lambda: ct.conv2d(one(2, 4, 8, 8), one(6, 3, 3, 3)),
            ValueError,
            r"^weight must have 4 in axis 1 of \[K,C/groups,R,S\], not shape \(6, 3, 3, 3\)",
        ),
        (
            lambda: ct.conv2d(one(2, 4, 8, 8), one(6, 4, 3, 3), groups=2),
            ValueError,
            "^weight must have 2 in axis 1",
        ),
        (
            lambda: ct.conv_transpose2d(one(2, 4, 8, 8), one(6, 3, 3, 3)),
            ValueError,
            "^weight must have 4 in axis 0",
        ),
        (
            lambda: ct.local2d(one(2, 4, 3, 3), one(1, 1, 6, 3, 3, 3)),
            ValueError,
            "^weight must have 4 in axis 3",
        ),
        (lambda: ct.linear(one(2, 4), one(6, 3)), ValueError, r"^weight must have 4 in axis 1 of \[K,C\]"),
        (lambda: ct.conv2d(one(*IMAGE), one(*FILTER), padding="all"), ValueError, "^padding must be"),
        (lambda: ct.conv2d(one(*IMAGE), one(*FILTER), None, 2, "same"), ValueError, "needs stride 1"),
        (lambda: ct.conv2d(one(*IMAGE).half(), one(*FILTER)), ValueError, "^x must be float32, not float16"),
        (
            lambda: ct.conv_transpose2d(one(*IMAGE), one(*FILTER), None, 1, 0, 1),
            ValueError,
            "^output_padding",
        ),
        (lambda: ct.local2d(one(*IMAGE), one(*FILTER)), ValueError, "^weight must have 6 axes"),
        (lambda: ct.dropout(one(*ROWS), 1.5), ValueError, "^p must be from 0 to 1"),
        (lambda: ct.neuron(one(*ROWS), "gelu"), ValueError, "neuron"),
        (lambda: ct.cross_entropy(one(*ROWS), one(2)), TypeError, "^target must contain classes as integers"),
        (lambda: ct.cross_entropy(one(*ROWS), one(1).int()), ValueError, "^target must have the shape"),
        (lambda: ct.cross_entropy(one(*ROWS), one(2).int(), reduction="max"), ValueError, "^reduction"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
