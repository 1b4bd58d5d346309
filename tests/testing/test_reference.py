"""Tests of the reference: formulas written out pixel by pixel, known answers, finite differences."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.float64 import assert_same, normal

from cconvnet._problem import (
    BiasProblem,
    ContrastNormProblem,
    ConvProblem,
    DropoutProblem,
    FcProblem,
    FilterBlocksProblem,
    InputProblem,
    L2CostProblem,
    LocalProblem,
    LrnProblem,
    NeuronProblem,
    NormLimitProblem,
    PoolProblem,
    SgdProblem,
    SoftmaxProblem,
)
from cconvnet.testing import reference
from cconvnet.testing.problems import CONTRAST_NORM, CONV, FC, LOCAL, LRN, POOL

Array = np.ndarray[Any, Any]

SMALL_CONV = {name: problem for name, problem in CONV.items() if problem.flops < 100_000}


def numerical_gradient(f: Callable[[Array], Array], x: Array, dy: Array, step: float) -> Array:
    """The gradient of <dy, f(x)> by x, by central differences."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * step
            ends.append(float(np.sum(dy * f(moved))))
        gradient[index] = (ends[0] - ends[1]) / (2 * step)
    return gradient


def assert_gradient(analytic: Array, numerical: Array) -> None:
    error = np.abs(analytic - numerical).max()
    assert error <= 1e-7 * (1 + np.abs(numerical).max())


# ---- convolution ---------------------------------------------------------------------------------


def conv_by_definition(problem: ConvProblem | LocalProblem, x: Array, w: Array) -> Array:
    """The formula of ConvProblem in kernels/problem.h, term by term; `w` may have filters per position."""
    w = np.broadcast_to(w, (problem.p, problem.q, *w.shape[-4:]))
    y = np.zeros(problem.y_shape)
    c_per_group, k_per_group = problem.c // problem.groups, problem.k // problem.groups
    for n, p, q, k in np.ndindex(*problem.y_shape):
        first = k // k_per_group * c_per_group
        for r, s, c in np.ndindex(problem.r, problem.s, c_per_group):
            i = p * problem.stride_h - problem.pad_h + r * problem.dilation_h
            j = q * problem.stride_w - problem.pad_w + s * problem.dilation_w
            if 0 <= i < problem.h and 0 <= j < problem.w:
                y[n, p, q, k] += x[n, i, j, first + c] * w[p, q, k, r, s, c]
    return y


@pytest.mark.parametrize("name", SMALL_CONV)
def test_conv_fprop_is_its_definition(name: str) -> None:
    problem = CONV[name]
    x, w, bias = normal(problem.x_shape), normal(problem.w_shape, 1), normal(problem.k, 2)
    y = conv_by_definition(problem, x, w) + bias
    np.testing.assert_allclose(reference.conv_fprop(problem, x, w, bias), y, atol=1e-12)
    np.testing.assert_allclose(
        reference.conv_fprop(problem, x, w, bias, relu=True), np.maximum(y, 0), atol=1e-12
    )


def test_conv_fprop_by_hand() -> None:
    problem = ConvProblem(1, 1, 3, 1, 1, 1, 2)
    assert reference.conv_fprop(problem, [1, 2, 5], [10, 1]).ravel().tolist() == [12, 25]
    # Rounding up adds a window, which reads one pixel and a zero beyond the edge.
    problem = ConvProblem(1, 1, 3, 1, 1, 1, 2, stride=(1, 2), rounding="ceil")
    assert reference.conv_fprop(problem, [1, 2, 5], [10, 1]).ravel().tolist() == [12, 50]
    # A padding at the right alone adds it too, and so does a number of outputs.
    for same in (
        ConvProblem(1, 1, 3, 1, 1, 1, 2, stride=(1, 2), padding=(0, (0, 1))),
        ConvProblem(1, 1, 3, 1, 1, 1, 2, stride=(1, 2), outputs=(1, 2)),
    ):
        assert same == problem
    problem = ConvProblem(1, 1, 3, 1, 1, 1, 2, padding=(0, (1, 0)))
    assert reference.conv_fprop(problem, [1, 2, 5], [10, 1]).ravel().tolist() == [1, 12, 25]
    problem = ConvProblem(1, 1, 4, 1, 1, 1, 2, padding=(0, (1, 0)), dilation=(1, 3))
    assert reference.conv_fprop(problem, [1, 2, 5, 4], [10, 1]).ravel().tolist() == [5, 14]
    assert reference.conv_dgrad(problem, [1, 2], [10, 1]).ravel().tolist() == [20, 0, 1, 2]
    assert reference.conv_wgrad(problem, [1, 2, 5, 4], [1, 2]).ravel().tolist() == [2, 13]


@pytest.mark.parametrize("name", CONV)
def test_conv_gradients_are_adjoint(name: str) -> None:
    """<dy, conv(x, w)> = <dgrad(dy, w), x> = <wgrad(x, dy), w>, since conv is linear in each."""
    problem = CONV[name]
    x, w, dy = normal(problem.x_shape), normal(problem.w_shape, 1), normal(problem.y_shape, 2)
    forward = np.sum(dy * reference.conv_fprop(problem, x, w))
    scale = np.sum(np.abs(dy) * reference.conv_fprop(problem, np.abs(x), np.abs(w)))
    assert abs(np.sum(reference.conv_dgrad(problem, dy, w) * x) - forward) <= 1e-13 * scale
    assert abs(np.sum(reference.conv_wgrad(problem, x, dy) * w) - forward) <= 1e-13 * scale


@pytest.mark.parametrize(
    "name", ["one_channel", "groups_strided", "ceil_groups_padded", "unequal_and_dilated"]
)
def test_conv_gradients_by_differences(name: str) -> None:
    problem = CONV[name]
    x, w, dy = normal(problem.x_shape), normal(problem.w_shape, 1), normal(problem.y_shape, 2)
    by_x = numerical_gradient(lambda v: reference.conv_fprop(problem, v, w), x, dy, 1.0)
    by_w = numerical_gradient(lambda v: reference.conv_fprop(problem, x, v), w, dy, 1.0)
    assert_gradient(reference.conv_dgrad(problem, dy, w), by_x)
    assert_gradient(reference.conv_wgrad(problem, x, dy), by_w)


# ---- locally connected ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["plain", "strided", "groups_tail", "ceil_hangs_over", "filter_beyond_image"]
)
def test_local_fprop_is_its_definition(name: str) -> None:
    problem = LOCAL[name]
    x, w, bias = normal(problem.x_shape), normal(problem.w_shape, 1), normal(problem.bias_shape, 2)
    y = conv_by_definition(problem, x, w) + bias
    np.testing.assert_allclose(reference.local_fprop(problem, x, w, bias), y, atol=1e-12)
    np.testing.assert_allclose(
        reference.local_fprop(problem, x, w, bias, relu=True), np.maximum(y, 0), atol=1e-12
    )


@pytest.mark.parametrize("name", LOCAL)
def test_local_gradients_are_adjoint(name: str) -> None:
    problem = LOCAL[name]
    x, w, dy = normal(problem.x_shape), normal(problem.w_shape, 1), normal(problem.y_shape, 2)
    forward = np.sum(dy * reference.local_fprop(problem, x, w))
    scale = np.sum(np.abs(dy) * reference.local_fprop(problem, np.abs(x), np.abs(w)))
    assert abs(np.sum(reference.local_dgrad(problem, dy, w) * x) - forward) <= 1e-13 * scale
    assert abs(np.sum(reference.local_wgrad(problem, x, dy) * w) - forward) <= 1e-13 * scale


@pytest.mark.parametrize("name", ["one_channel", "depthwise", "stride_of_two_axes"])
def test_local_gradients_by_differences(name: str) -> None:
    problem = LOCAL[name]
    x, w, dy = normal(problem.x_shape), normal(problem.w_shape, 1), normal(problem.y_shape, 2)
    by_x = numerical_gradient(lambda v: reference.local_fprop(problem, v, w), x, dy, 1.0)
    by_w = numerical_gradient(lambda v: reference.local_fprop(problem, x, v), w, dy, 1.0)
    assert_gradient(reference.local_dgrad(problem, dy, w), by_x)
    assert_gradient(reference.local_wgrad(problem, x, dy), by_w)


def test_local_by_hand() -> None:
    problem = LocalProblem(1, 1, 3, 1, 1, 1, 2)
    assert reference.local_fprop(problem, [1, 2, 5], [10, 1, 0, 3], [100, 200]).ravel().tolist() == [112, 215]
    assert reference.local_dgrad(problem, [1, 2], [10, 1, 0, 3]).ravel().tolist() == [10, 1, 6]
    assert reference.local_wgrad(problem, [1, 2, 5], [1, 2]).ravel().tolist() == [1, 2, 4, 10]


# ---- fully connected, bias -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "tail", "one_image", "one_of_each"])
def test_fc_is_a_1x1_convolution(name: str) -> None:
    problem = FC[name]
    conv = ConvProblem(problem.n, 1, 1, problem.c, problem.k, 1, 1)
    x, w, dy, bias = (
        normal((problem.n, problem.c)),
        normal((problem.k, problem.c), 1),
        normal((problem.n, problem.k), 2),
        normal(problem.k),
    )
    assert_same(reference.fc_fprop(problem, x, w, bias), reference.conv_fprop(conv, x, w, bias))
    assert_same(reference.fc_dgrad(problem, dy, w), reference.conv_dgrad(conv, dy, w))
    assert_same(reference.fc_wgrad(problem, x, dy), reference.conv_wgrad(conv, x, dy))


def test_bias_add_by_hand() -> None:
    problem, x = BiasProblem(2, 3), [[1, 2, 3], [4, 5, -6]]
    assert reference.bias_add(problem, x, [10, 20, 3]).tolist() == [[11, 22, 6], [14, 25, -3]]
    assert reference.bias_add(problem, x, [-10, 20, 3], relu=True).tolist() == [[0, 22, 6], [0, 25, 0]]


def test_relu_bias_backward_by_hand() -> None:
    y, dy = np.array([[1, -1], [0, 2], [3, 4]]), np.array([[1, 2], [3, 4], [5, 6]])
    dx, db = reference.relu_bias_backward(BiasProblem(3, 2), y, dy, 0.5)
    assert dx.tolist() == [[0.5, 0], [0, 2], [2.5, 3]] and db.tolist() == [3, 5]


def test_fc_by_hand() -> None:
    y = reference.fc_fprop(FcProblem(1, 2, 2), [1, 2], [3, 4, 5, -6], [1, 1], relu=True)
    assert y.tolist() == [[12, 0]]


# ---- neurons -------------------------------------------------------------------------------------

NEURONS = {
    "linear": (lambda x: 3 * x + 0.5, 3.0, 0.5),
    "relu": (lambda x: max(0.0, x), 1.0, 0.0),
    "tanh": (lambda x: 1.5 * math.tanh(0.75 * x), 1.5, 0.75),
    "logistic": (lambda x: 1 / (1 + math.exp(-x)), 1.0, 0.0),
    "softrelu": (lambda x: math.log(1 + math.exp(x)), 1.0, 0.0),
    "abs": (abs, 1.0, 0.0),
    "square": (lambda x: x * x, 1.0, 0.0),
    "sqrt": (math.sqrt, 1.0, 0.0),
    "brelu": (lambda x: min(1.25, max(0.0, x)), 1.25, 0.0),
    "silu": (lambda x: x / (1 + math.exp(-x)), 1.0, 0.0),
}


@pytest.mark.parametrize("neuron", NEURONS)
def test_neuron(neuron: str) -> None:
    f, a, b = NEURONS[neuron]
    # There is no kink among these points.
    x = np.array([0.1, 0.4, 1.0, 1.75, 3.0, 8.0])
    if neuron != "sqrt":
        x = np.concatenate([x, -x])
    problem = NeuronProblem(x.size, neuron, a, b)
    y = reference.neuron_forward(problem, x)
    np.testing.assert_allclose(y, [f(v) for v in x], rtol=1e-12)
    dy = normal(x.shape)
    numerical = numerical_gradient(lambda v: reference.neuron_forward(problem, v), x, dy, 1e-6)
    np.testing.assert_allclose(reference.neuron_backward(problem, x, y, dy), numerical, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("neuron", "kinks"), [("relu", [0.0]), ("abs", [0.0]), ("brelu", [0.0, 2.0])])
def test_neuron_derivative_is_0_at_a_kink(neuron: str, kinks: list[float]) -> None:
    problem = NeuronProblem(len(kinks), neuron, 2.0)
    y = reference.neuron_forward(problem, np.array(kinks))
    assert not reference.neuron_backward(problem, np.array(kinks), y, np.ones(len(kinks))).any()


@pytest.mark.parametrize("neuron", ["tanh", "logistic", "softrelu", "silu"])
def test_neuron_does_not_overflow(neuron: str) -> None:
    problem = NeuronProblem(4, neuron, 1.0, 1.0)
    x = np.array([-1e4, -700.0, 700.0, 1e4])
    with np.errstate(over="raise"):
        y = reference.neuron_forward(problem, x)
        dx = reference.neuron_backward(problem, x, y, np.ones(4))
    assert np.isfinite(y).all() and np.isfinite(dx).all()


def test_relu() -> None:
    x = np.array([-2.0, 0.0, 3.0, np.nan])
    np.testing.assert_array_equal(reference.relu_forward(x), [0, 0, 3, np.nan])
    np.testing.assert_array_equal(reference.relu_backward(x, [5, 6, 7, 8]), [0, 0, 7, 0])


# ---- local response normalisation ----------------------------------------------------------------


def lrn_by_definition(problem: LrnProblem, x: Array) -> Array:
    y = np.zeros_like(x)
    per_group = problem.c // problem.groups
    before, after = problem.size // 2, problem.size - 1 - problem.size // 2

    def window(centre: int, first: int, end: int) -> range:
        return range(max(first, centre - before), min(end, centre + after + 1))

    for n, i, j, c in np.ndindex(*x.shape):
        if problem.region == "across_channels":
            group = c // per_group * per_group
            places = itertools.product([i], [j], window(c, group, group + per_group))
        else:
            places = itertools.product(window(i, 0, problem.h), window(j, 0, problem.w), [c])
        total = sum(x[n, a, b, d] ** 2 for a, b, d in places)
        y[n, i, j, c] = x[n, i, j, c] * (problem.k + problem.alpha * total) ** -problem.beta
    return y


@pytest.mark.parametrize("name", LRN)
def test_lrn(name: str) -> None:
    problem = LRN[name]
    x = normal(problem.x_shape)
    np.testing.assert_allclose(reference.lrn_forward(problem, x), lrn_by_definition(problem, x), rtol=1e-12)
    if x.size < 300:
        dy = normal(problem.x_shape, 1)
        numerical = numerical_gradient(lambda v: reference.lrn_forward(problem, v), x, dy, 1e-5)
        assert_gradient(reference.lrn_backward(problem, x, dy), numerical)


def test_lrn_by_hand() -> None:
    # Windows of three channels: sums of squares 5, 14, 13.
    problem = LrnProblem(1, 1, 1, 3, size=3, alpha=1.0, beta=1.0, k=1.0)
    y = reference.lrn_forward(problem, [1, 2, 3]).ravel()
    np.testing.assert_allclose(y, [1 / 6, 2 / 15, 3 / 14], rtol=1e-15)


# ---- contrast normalisation ----------------------------------------------------------------------


@pytest.mark.parametrize("relu", [False, True])
def test_lrn_maxpool_gradient_by_differences(relu: bool) -> None:
    lrn, pool = LrnProblem(1, 5, 4, 6, size=3, alpha=0.3), PoolProblem(1, 5, 4, 6, (3, 3), (2, 2), (1, 0))
    before = normal(lrn.x_shape)
    before[np.abs(before) < 0.01] = 0.5  # no kink within a step
    dy = normal(pool.y_shape, 1)

    def forward(values: Array) -> Array:
        return reference.lrn_maxpool_forward(lrn, pool, np.maximum(values, 0) if relu else values)

    x = np.maximum(before, 0) if relu else before
    dx = reference.lrn_maxpool_backward(lrn, pool, x, forward(before), dy, relu)
    # If several maxima are 0, each has the whole gradient, and the ReLU makes it 0.
    assert_gradient(dx, numerical_gradient(forward, before, dy, 1e-6))


def contrast_norm_by_definition(problem: ContrastNormProblem, x: Array) -> Array:
    def window(i: int, j: int) -> tuple[slice, slice]:
        before, after = problem.size // 2, problem.size - 1 - problem.size // 2
        return slice(max(0, i - before), i + after + 1), slice(max(0, j - before), j + after + 1)

    u, y = np.zeros_like(x), np.zeros_like(x)
    for i, j in np.ndindex(problem.h, problem.w):
        u[:, i, j] = x[:, i, j] - x[:, *window(i, j)].mean(axis=(1, 2))
    for i, j in np.ndindex(problem.h, problem.w):
        d = problem.k + problem.alpha * np.square(u[:, *window(i, j)]).sum(axis=(1, 2))
        y[:, i, j] = x[:, i, j] * d**-problem.beta
    return y


@pytest.mark.parametrize("name", CONTRAST_NORM)
def test_contrast_norm(name: str) -> None:
    problem = CONTRAST_NORM[name]
    x, dy = normal(problem.x_shape), normal(problem.x_shape, 1)
    np.testing.assert_allclose(
        reference.contrast_norm_forward(problem, x), contrast_norm_by_definition(problem, x), rtol=1e-12
    )
    numerical = numerical_gradient(lambda v: reference.contrast_norm_forward(problem, v), x, dy, 1e-5)
    assert_gradient(reference.contrast_norm_backward(problem, x, dy), numerical)


def test_contrast_norm_by_hand() -> None:
    # One window over all three pixels in the middle, two at the ends: means 2, 3, 4.
    problem = ContrastNormProblem(1, 1, 3, 1, size=3, alpha=1.0, beta=1.0, k=1.0)
    y = reference.contrast_norm_forward(problem, [1, 3, 5]).ravel()
    np.testing.assert_allclose(y, [1 / 2, 3 / 3, 5 / 2], rtol=1e-15)


# ---- pooling -------------------------------------------------------------------------------------


def windows(problem: PoolProblem) -> dict[tuple[int, int], tuple[slice, slice]]:
    """The pixels of each window, clipped to the image."""
    return {
        (p, q): (
            slice(
                max(0, p * problem.stride_h - problem.pad_h),
                p * problem.stride_h - problem.pad_h + problem.window_h,
            ),
            slice(
                max(0, q * problem.stride_w - problem.pad_w),
                q * problem.stride_w - problem.pad_w + problem.window_w,
            ),
        )
        for p, q in np.ndindex(problem.p, problem.q)
    }


def counted(problem: PoolProblem, p: int, q: int) -> int:
    """Return the divisor of a window's mean: its pixels, and the padding where it counts."""
    padding = (
        ((problem.pad_h, problem.pad_bottom), (problem.pad_w, problem.pad_right))
        if problem.count_padding
        else ((0, 0), (0, 0))
    )
    ones = np.pad(np.ones((problem.h, problem.w)), padding, constant_values=1)
    top = p * problem.stride_h - problem.pad_h + padding[0][0]
    left = q * problem.stride_w - problem.pad_w + padding[1][0]
    return int(ones[max(top, 0) : top + problem.window_h, max(left, 0) : left + problem.window_w].sum())


@pytest.mark.parametrize("name", POOL)
def test_pool_is_its_definition(name: str) -> None:
    problem = POOL[name]
    x, dy = normal(problem.x_shape), normal(problem.y_shape, 1)
    # Random real numbers have no ties.
    x[:, :, :, ::2] = np.round(x[:, :, :, ::2])
    largest, mean = np.zeros(problem.y_shape), np.zeros(problem.y_shape)
    by_max, by_mean = np.zeros(problem.x_shape), np.zeros(problem.x_shape)
    for (p, q), (rows, columns) in windows(problem).items():
        pixels = x[:, rows, columns]
        largest[:, p, q] = pixels.max(axis=(1, 2))
        count = counted(problem, p, q)
        mean[:, p, q] = pixels.sum(axis=(1, 2)) / count
        top = pixels == largest[:, p, q][:, None, None]
        by_max[:, rows, columns] += top * dy[:, p, q][:, None, None]
        by_mean[:, rows, columns] += dy[:, p, q][:, None, None] / count
    np.testing.assert_array_equal(reference.maxpool_forward(problem, x), largest)
    np.testing.assert_allclose(reference.maxpool_backward(problem, x, largest, dy), by_max, atol=1e-14)
    np.testing.assert_allclose(reference.avgpool_forward(problem, x), mean, atol=1e-14)
    np.testing.assert_allclose(reference.avgpool_backward(problem, dy), by_mean, atol=1e-14)


def test_pool_by_hand() -> None:
    problem = PoolProblem(1, 1, 4, 1, window=(1, 3), stride=(1, 2), rounding="ceil")
    assert reference.maxpool_forward(problem, [1, 5, 5, 3]).ravel().tolist() == [5, 5]
    assert reference.maxpool_backward(problem, [1, 5, 5, 3], [5, 5], [10, 1]).ravel().tolist() == [
        0,
        10,
        11,
        0,
    ]
    assert reference.avgpool_forward(problem, [1, 5, 6, 3]).ravel().tolist() == [4, 4.5]
    assert reference.avgpool_backward(problem, [3, 8]).ravel().tolist() == [1, 1, 5, 4]
    # The padding counts, but not the pixels that the last window reads beyond it.
    problem = PoolProblem(1, 1, 4, 1, (1, 3), (1, 2), (0, (1, 0)), "ceil", count_padding=True)
    assert problem.q == 2 and reference.avgpool_forward(problem, [3, 6, 9, 15]).ravel().tolist() == [3, 10]
    problem = PoolProblem(1, 1, 4, 1, (1, 3), (1, 3), (0, (1, 0)), "ceil", count_padding=True)
    assert reference.avgpool_forward(problem, [3, 6, 9, 15]).ravel().tolist() == [3, 12]
    assert reference.avgpool_backward(problem, [3, 8]).ravel().tolist() == [1, 1, 4, 4]
    assert np.isnan(reference.maxpool_forward(problem, [1, np.nan, 5, 3])).ravel().tolist() == [True, False]


# ---- elementwise maximum -------------------------------------------------------------------------


def test_eltmax_gradient_by_differences() -> None:
    a, b, dy = normal((50,)), normal((50,), 1), normal((50,), 2)
    y = reference.eltmax_forward(a, b)
    assert ((y == a) | (y == b)).all() and (y >= a).all() and (y >= b).all()
    for x, other in ((a, b), (b, a)):
        expected = numerical_gradient(functools.partial(reference.eltmax_forward, other), x, dy, 1e-6)
        assert_gradient(reference.eltmax_backward(x, y, dy), expected)


def test_eltmax_by_hand() -> None:
    assert reference.eltmax_forward([1, 2, 5], [1, 3, 4]).tolist() == [1, 3, 5]
    assert np.isnan(reference.eltmax_forward([np.nan, 1], [1, np.nan])).all()
    assert reference.eltmax_backward([1, 2, 5], [1, 3, 5], [7, 8, 9]).tolist() == [7, 0, 9]


# ---- dropout -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter: list[int], key: list[int], words: str) -> None:
    """The test vectors published with Random123 for philox4x32 with 10 rounds."""
    drawn = reference.philox4x32_10(np.array(counter), np.array(key))
    assert " ".join(f"{word:08x}" for word in drawn) == words


def test_dropout_takes_its_words_in_order() -> None:
    """Element i takes word i % 4 of counter (i / 4, 0, subsequence low, high)."""
    seed, subsequence = 0x0123456789ABCDEF, 0xFEDCBA9876543210
    problem = DropoutProblem(11, 0.5, 2.0, seed, subsequence)
    kept = []
    for i in range(11):
        counter = np.array([i // 4, 0, subsequence & 0xFFFFFFFF, subsequence >> 32])
        words = reference.philox4x32_10(counter, np.array([seed & 0xFFFFFFFF, seed >> 32]))
        kept.append(bool(words[i % 4] < 2**31))
    assert 0 < sum(kept) < 11
    x = np.arange(1, 12)
    assert reference.dropout(problem, x).tolist() == [2 * v if k else 0 for v, k in zip(x, kept, strict=True)]


def test_dropout_of_a_part() -> None:
    """Columns 3 and 4 of a matrix of 6 columns and 4 rows, of all rows, of the last two and of the last."""
    x = np.arange(1, 25).reshape(4, 6)
    whole = reference.dropout(DropoutProblem(24, 0.5, 2.0, 5, 6), x)
    for first_row in (0, 2, 3):
        some = x[first_row:, 3:5]
        part = DropoutProblem(some.size, 0.5, 2.0, 5, 6, 2, 6, first=3, first_row=first_row)
        assert reference.dropout(part, some).tolist() == whole[first_row:, 3:5].tolist()
    assert 0 < np.count_nonzero(whole[:, 3:5]) < 8


@pytest.mark.parametrize(("subsequence", "step"), [(5, 0), (5, 7), (2**32 - 1, 1), (2**64 - 2, 3)])
def test_dropout_adds_the_step_to_the_subsequence(subsequence: int, step: int) -> None:
    x = np.ones(100)
    stepped = reference.dropout(DropoutProblem(100, 0.5, 2.0, 9, subsequence), x, np.array([step]))
    same = DropoutProblem(100, 0.5, 2.0, 9, (subsequence + step) % 2**64)
    assert_same(stepped, reference.dropout(same, x))


def test_dropout_keeps_its_share() -> None:
    for keep in (0.1, 0.5, 0.9):
        share = reference.dropout_mask(DropoutProblem(100_000, keep, seed=7)).mean()
        # Five standard deviations.
        assert abs(share - keep) <= 5 * math.sqrt(keep * (1 - keep) / 100_000)
    assert reference.dropout_mask(DropoutProblem(100_000, 1.0)).all()


# ---- softmax and cross-entropy -------------------------------------------------------------------


def test_softmax_by_hand() -> None:
    problem = SoftmaxProblem(2, 3)
    logits = np.log([[1, 2, 5], [4, 4, 2]])
    probabilities, loss, rank = reference.softmax_cross_entropy_forward(problem, logits, [1, 1])
    np.testing.assert_allclose(probabilities, [[0.125, 0.25, 0.625], [0.4, 0.4, 0.2]], rtol=1e-14)
    np.testing.assert_allclose(loss, [-math.log(0.25), -math.log(0.4)], rtol=1e-14)
    # Of two equal logits the lower class is first.
    assert rank.tolist() == [1, 1]
    assert reference.softmax_cross_entropy_forward(problem, logits, [2, 0])[2].tolist() == [0, 0]
    gradient = reference.softmax_cross_entropy_backward(problem, probabilities, [1, 1], 2.0)
    np.testing.assert_allclose(gradient, [[0.25, -1.5, 1.25], [0.8, -1.2, 0.4]], rtol=1e-14)


def test_softmax_gradient_by_differences() -> None:
    problem = SoftmaxProblem(3, 5)
    logits, labels, dloss = normal((3, 5)), np.array([4, 0, 2]), np.ones(3)
    probabilities = reference.softmax_forward(problem, logits)
    numerical = numerical_gradient(
        lambda v: reference.softmax_cross_entropy_forward(problem, v, labels)[1], logits, dloss, 1e-5
    )
    assert_gradient(reference.softmax_cross_entropy_backward(problem, probabilities, labels, 1.0), numerical)


def test_smoothed_softmax_by_hand_and_by_differences() -> None:
    problem = SoftmaxProblem(2, 4, smoothing=0.5)  # targets of 0.625 and 0.125
    logits, labels = np.log([[1.0, 2.0, 4.0, 1.0], [2.0, 2.0, 2.0, 2.0]]), np.array([2, 0])
    probabilities, loss, rank = reference.softmax_cross_entropy_forward(problem, logits, labels)
    np.testing.assert_allclose(loss, [np.log(8) - 0.75 * np.log(4) + 0.125 * np.log(2), np.log(4)])
    assert rank.tolist() == [0, 0]
    gradient = reference.softmax_cross_entropy_backward(problem, probabilities, labels, 2.0)
    np.testing.assert_allclose(gradient[1], 2 * (0.25 - np.array([0.625, 0.125, 0.125, 0.125])), atol=1e-15)
    numerical = numerical_gradient(
        lambda v: reference.softmax_cross_entropy_forward(problem, v, labels)[1], logits, np.ones(2), 1e-5
    )
    gradient = reference.softmax_cross_entropy_backward(problem, probabilities, labels, 1.0)
    assert_gradient(gradient, numerical)


def test_softmax_of_large_logits_is_finite() -> None:
    problem = SoftmaxProblem(1, 2)
    probabilities, loss, _ = reference.softmax_cross_entropy_forward(problem, [[1e4, -1e4]], [1])
    assert probabilities.tolist() == [[1, 0]] and loss.tolist() == [2e4]


def test_softmax_of_nan_and_of_a_label_that_is_no_class() -> None:
    problem = SoftmaxProblem(3, 2)
    logits, labels = np.array([[0, np.nan], [1, 2], [1, 2]]), np.array([0, 2, -1])
    probabilities, loss, rank = reference.softmax_cross_entropy_forward(problem, logits, labels)
    assert np.isnan(loss).all() and rank.tolist() == [2, 2, 2]
    gradient = reference.softmax_cross_entropy_backward(problem, probabilities, labels, 1.0)
    assert np.isnan(gradient).all()


def test_softmax_of_an_ignored_label() -> None:
    problem = SoftmaxProblem(3, 2, ignore=255)
    logits, labels = np.array([[0, np.nan], [1, 2], [1, 2]]), np.array([255, 0, 254])
    probabilities, loss, rank = reference.softmax_cross_entropy_forward(problem, logits, labels)
    assert loss[0] == rank[0] == 0 and loss[1] > 1 and rank[1] == 1 and np.isnan(loss[2])
    gradient = reference.softmax_cross_entropy_backward(problem, probabilities, labels, 1.0)
    assert gradient[0].tolist() == [0, 0] and gradient[1].all() and np.isnan(gradient[2]).all()


def test_l2_cost_by_hand() -> None:
    problem = L2CostProblem(2, 2)
    x, target = [[1, 2], [3, 4]], [[1, 4], [0, 0]]
    assert reference.l2_cost_forward(problem, x, target).tolist() == [2, 12.5]
    assert reference.l2_cost_backward(problem, x, target, 0.5).tolist() == [[0, -1], [1.5, 2]]


# ---- update, input, plain ------------------------------------------------------------------------


def test_sgd_update_by_hand() -> None:
    problem = SgdProblem(2, lr=0.5, momentum=0.25, weight_decay=0.125)
    v, w = reference.sgd_update(problem, [4, 0], [8, -8], [16, 0])
    assert v.tolist() == [-1, -2] and w.tolist() == [15, -2]


def test_an_update_with_nesterov_s_momentum_by_hand() -> None:
    problem = SgdProblem(2, lr=0.5, momentum=0.25, weight_decay=0.125, nesterov=True)
    v, w = reference.sgd_update(problem, [4, 0], [8, -8], [16, 0])
    assert v.tolist() == [-1, -2] and w.tolist() == [16 - 0.25 - 3, -0.5]


def test_sgd_update_with_rates_and_a_halt() -> None:
    problem, g, v, w = SgdProblem(2, 9.0, 9.0, 0.5), np.array([4, 8]), np.array([2, 4]), np.array([8, 16])
    rates = np.array([0.25, 0.5])  # lr and momentum
    new_v, new_w = reference.sgd_update(problem, g, v, w, rates, np.array([0]))
    assert new_v.tolist() == [-1, -2] and new_w.tolist() == [7, 14]
    new_v, new_w = reference.sgd_update(problem, g, v, w, rates, np.array([1]))
    assert new_v.tolist() == [2, 4] and new_w.tolist() == [8, 16]


@pytest.mark.parametrize(("loss", "halt"), [(1.0, 0), (np.inf, 1), (-np.inf, 1), (np.nan, 1)])
def test_watch_losses(loss: float, halt: int) -> None:
    assert reference.watch_losses(np.array([0.5, loss, 2.0])).tolist() == [halt]


def test_limit_norm_by_hand() -> None:
    w = [[3, 4], [0.3, 0.4], [6, -8], [0, 0], [np.nan, 9]]
    expected = [[3, 4], [0.3, 0.4], [3, -4], [0, 0], [np.nan, 9]]
    np.testing.assert_allclose(reference.limit_norm(NormLimitProblem(5, 2, 5.0), w), expected, rtol=1e-15)


def test_limit_norm_with_a_low_by_hand() -> None:
    w = [[3, 4], [0.3, 0.4], [6, -8], [0, 0], [np.nan, 9]]
    expected = [[3, 4], [1.2, 1.6], [3, -4], [0, 0], [np.nan, 9]]
    np.testing.assert_allclose(
        reference.limit_norm(NormLimitProblem(5, 2, 5.0, 2.0), w), expected, rtol=1e-15
    )


def test_limit_norm_centered_by_hand() -> None:
    # Of means 2, 2, 10 and 0.1 and of norms 2, 4, 1 and 0.
    w = [[3, 1, 3, 1], [4, 0, 4, 0], [10.5, 9.5, 10.5, 9.5], [0.1, 0.1, 0.1, 0.1], [np.inf, 1, 2, 3]]
    expected = [w[0], [3, 0, 3, 0], [15.75, 14.25, 15.75, 14.25], w[3], w[4]]
    problem = NormLimitProblem(5, 4, 3.0, 1.5, True)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(reference.limit_norm(problem, w), expected, rtol=1e-15)


def test_input_transform_by_hand() -> None:
    problem = InputProblem(2, 2, 3, 1, 1, 2)
    images = np.arange(12, dtype=np.uint8)
    y = reference.input_transform(problem, images, [1, 0], [1, 0], [0, 1])
    assert y.ravel().tolist() == [4, 5, 7, 6]
    mean, shift = [0, 0, 0, 0, 10, 20], [100, 200]
    y = reference.input_transform(problem, images, [1, 0], [1, 0], [0, 1], mean, shift, 0.5)
    assert y.ravel().tolist() == [47, 42.5, 103.5, 103]
    # A crop that would leave the image is moved inside.
    y = reference.input_transform(problem, images, [9, -9], [9, -9], [0, 0])
    assert y.ravel().tolist() == [4, 5, 6, 7]


def test_blocks_by_hand() -> None:
    """An image of 3 x 2 pixels in a border of one: two blocks by two, each of 2 x 2 pixels."""
    images = np.arange(1, 7, dtype=np.uint8).reshape(1, 3, 2, 1)
    corner = np.zeros(1, np.int32)
    problem = InputProblem(1, 3, 2, 1, 3, 2, block=2, pad=1)
    y = reference.input_transform(problem, images, corner, corner, corner)
    assert y.shape == (1, 3, 2, 4) == problem.y_shape
    assert y[0].tolist() == [
        [[0, 0, 0, 1], [0, 0, 2, 0]], [[0, 3, 0, 5], [4, 0, 6, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]],
    ]  # fmt: skip
    w = np.arange(6).reshape(1, 3, 2, 1)
    filters = FilterBlocksProblem(1, 3, 2, 1, 2)
    blocks = reference.filters_to_blocks(filters, w)
    assert blocks[0].tolist() == [[[0, 1, 2, 3]], [[4, 5, 0, 0]]]
    assert_same(reference.filters_from_blocks(filters, blocks), w.astype(float))


@pytest.mark.parametrize(
    ("block", "pad", "size", "filter_size"), [(4, 2, (19, 17), (7, 6)), (3, 0, (9, 8), (3, 5))]
)
def test_a_convolution_of_blocks_is_that_of_the_image(
    block: int, pad: int, size: tuple[int, int], filter_size: tuple[int, int]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 22, 3)).astype(np.uint8)
    corner = np.zeros(2, np.int32)
    crops = InputProblem(2, 20, 22, 3, *size), InputProblem(2, 20, 22, 3, *size, block=block, pad=pad)
    x, x_blocks = (reference.input_transform(problem, images, corner, corner, corner) for problem in crops)
    whole = ConvProblem(2, *size, 3, 5, *filter_size, stride=(block, block), padding=(pad, pad))
    filters = FilterBlocksProblem(5, *filter_size, 3, block)
    blocks = ConvProblem(2, *crops[1].y_shape[1:], 5, *filters.blocks_shape[1:3])
    w = np.random.default_rng(1).integers(-4, 5, whole.w_shape)
    y = reference.conv_fprop(blocks, x_blocks, reference.filters_to_blocks(filters, w))
    assert_same(y[:, : whole.p, : whole.q], reference.conv_fprop(whole, x, w))


def test_to_bf16_rounds() -> None:
    x = np.array([1.0, 1 + 2.0**-8, 1 + 3 * 2.0**-8])
    assert reference.to_bf16(x).tolist() == [1.0, 1.0, 1 + 2.0**-6]
    assert_same(reference.from_bf16(x), x)


def test_add_by_hand() -> None:
    assert reference.add([1, 2], [3, 5]).tolist() == [4, 7]
    assert reference.add([1, 2], [3, 5], 2, -1).tolist() == [-1, -1]


# ---- precision -----------------------------------------------------------------------------------


def test_precision_is_float32_only_inside() -> None:
    problem = FcProblem(1, 1, 1)
    with reference.precision(np.float32):
        y = reference.fc_fprop(problem, [1 / 3], [1.0])
        assert y.dtype == np.float32 and y[0, 0] == np.float32(1 / 3)
    assert reference.fc_fprop(problem, [1 / 3], [1.0]).dtype == np.float64
