"""Batch normalisation: statistics, normalised values and their gradients."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import COMPILER
from helpers.mutants import KERNELS

from cconvnet import bfloat16, ops
from cconvnet._problem import BatchNormProblem
from cconvnet.devices import Device, get_device
from cconvnet.testing import compare, reference
from cconvnet.testing.check import check, check_fused, make_inputs, run
from cconvnet.testing.reference.base import Array

# With powers of two for counts, and this eps, all of a small integer's results are exact.
EPS = 2.0**-10
EXACT = [
    BatchNormProblem(1, 1, eps=EPS),
    BatchNormProblem(32, 5, eps=EPS),
    BatchNormProblem(64, 32, eps=EPS),
    BatchNormProblem(130, 33, 128, EPS),
    BatchNormProblem(300, 40, 256, EPS),
    BatchNormProblem(512, 264, 2, EPS),
]
# Rows that end in and behind strands, groups and groups of groups; two and three launches.
REAL = [
    BatchNormProblem(9, 3),
    BatchNormProblem(7, 13, 5),
    BatchNormProblem(33, 64),
    BatchNormProblem(257, 300, eps=1e-3),
    BatchNormProblem(1025, 16, 1000),
    BatchNormProblem(5000, 3),
    BatchNormProblem(3000, 520, 2900),
    BatchNormProblem(34_000, 8),
]
OPERATIONS = ["batch_norm_statistics", "batch_norm_forward", "batch_norm_backward"]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("problem", EXACT, ids=repr)
def test_exact(device: Device, element: str, operation: str, problem: BatchNormProblem) -> None:
    counted = problem.counted / problem.rows
    least = counted / 2 if problem.counted * problem.k > 100 else 0
    for offset in (0, 4):
        check(operation, problem, device, element=element, offset=offset, nonzero=least)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("problem", REAL, ids=repr)
def test_real(device: Device, element: str, operation: str, problem: BatchNormProblem) -> None:
    check(operation, problem, device, element=element, data="real")


@pytest.mark.parametrize("problem", [EXACT[2], EXACT[3]], ids=repr)
def test_shortcut_and_relu_exactly(device: Device, problem: BatchNormProblem) -> None:
    check("batch_norm_forward", problem, device, shortcut=True)
    check("batch_norm_forward", problem, device, shortcut=True, relu=True, offset=4)
    check("batch_norm_backward", problem, device, relu=True, dshortcut=True)
    check("batch_norm_backward", problem, device, dshortcut=True, offset=4)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("problem", [REAL[1], REAL[2], REAL[3]], ids=repr)
def test_a_fused_forward_pass_has_the_bits_of_the_separate_ones(
    device: Device, element: str, problem: BatchNormProblem, shortcut: bool, relu: bool
) -> None:
    options = {"shortcut": shortcut, "relu": relu}
    for offset in (0, 4):
        check_fused("batch_norm_forward", problem, device, element=element, offset=offset, **options)


@pytest.mark.parametrize("problem", [REAL[1], REAL[2], REAL[3]], ids=repr)
def test_a_fused_backward_pass_has_the_bits_of_the_separate_ones(
    device: Device, element: str, problem: BatchNormProblem
) -> None:
    for dshortcut in (False, True):
        check_fused("batch_norm_backward", problem, device, element=element, relu=True, dshortcut=dshortcut)


@pytest.mark.parametrize("in_place", ["x", "shortcut"])
@pytest.mark.parametrize("problem", [EXACT[2], EXACT[3]], ids=repr)
def test_the_forward_pass_in_place(device: Device, problem: BatchNormProblem, in_place: str) -> None:
    check("batch_norm_forward", problem, device, shortcut=True, relu=True, in_place=in_place)


def test_the_backward_pass_in_place(device: Device, element: str) -> None:
    check("batch_norm_backward", EXACT[3], device, element=element, relu=True, in_place="dy")
    check("batch_norm_backward", EXACT[3], device, element=element, in_place="dy", offset=4)


class Arrays:
    """Arrays of a backward pass on a device."""

    def __init__(self, device: Device, problem: BatchNormProblem, element: str) -> None:
        self.device, self.problem = device, problem
        inputs = make_inputs("batch_norm_backward", problem, "real", element=element, relu=True)
        dtype = bfloat16.BITS if element == "bf16" else np.float32
        self.inputs = [
            device.array(bfloat16.pack(value) if dtype == bfloat16.BITS and value.ndim == 2 else value)
            for value in inputs.values()
        ]
        self.dy = self.inputs[2]
        self.dx, self.dshortcut = (device.zeros((problem.rows, problem.k), dtype) for _ in range(2))
        self.sums = [device.zeros((problem.k,)) for _ in range(2)]

    def run(self, dx: Any, dshortcut: Any) -> None:
        module, problem = self.device.module, self.problem
        size = module.batch_norm_backward_workspace(problem)
        workspace = self.device.zeros((size,), np.uint8) if size else None
        module.batch_norm_backward(
            problem, *self.inputs, dx, *self.sums, workspace, self.device.stream, dshortcut=dshortcut
        )
        self.device.synchronize()

    def host(self, *arrays: Any) -> list[bytes]:
        return [self.device.host(array).tobytes() for array in (*arrays, *self.sums)]


@pytest.mark.parametrize("problem", [REAL[1], REAL[2]], ids=repr)
def test_outputs_that_are_not_wanted_change_no_other(
    device: Device, element: str, problem: BatchNormProblem
) -> None:
    arrays = Arrays(device, problem, element)
    arrays.run(arrays.dx, arrays.dshortcut)
    dx, dshortcut, *sums = arrays.host(arrays.dx, arrays.dshortcut)
    for wanted in ((arrays.dx, None), (None, arrays.dshortcut), (None, None)):
        again = Arrays(device, problem, element)
        targets = [None if target is None else device.zeros(target.shape, target.dtype) for target in wanted]
        again.run(*targets)
        for target, bits in zip(targets, (dx, dshortcut), strict=True):
            assert target is None or device.host(target).tobytes() == bits
        assert again.host() == sums
    arrays.run(arrays.dx, arrays.dy)  # the gradient of the shortcut in the place of dy
    assert arrays.host(arrays.dx, arrays.dy) == [dx, dshortcut, *sums]


@pytest.mark.parametrize("k", [3, 40])
def test_a_short_batch_has_the_bits_of_one_of_its_size(device: Device, element: str, k: int) -> None:
    """100 images of 128, of 25 pixels; and what lies in the others changes nothing."""
    pixels, short, full = 25, 100, 128
    whole = BatchNormProblem(pixels * short, k)
    part = BatchNormProblem(pixels * full, k, whole.rows)
    for operation in OPERATIONS:
        options = {
            "batch_norm_forward": {"shortcut": True, "relu": True},
            "batch_norm_backward": {"relu": True, "dshortcut": True},
        }.get(operation, {})
        inputs = make_inputs(operation, whole, "real", element=element, **options)
        longer = {
            name: np.concatenate([value, np.full((part.rows - whole.rows, k), np.nan, np.float32)])
            if isinstance(value, np.ndarray) and value.ndim == 2
            else value
            for name, value in inputs.items()
        }
        wanted = run(operation, whole, device, inputs, element=element)
        actual = run(operation, part, device, longer, element=element)
        for name, value in wanted.items():
            compare.assert_same_bits(name, actual[name][: len(value)], value)
            assert not np.any(actual[name][len(value) :])


def naive_variance(x: Array) -> Array:
    """Return E[x^2] - E[x]^2 of each column in float32, by NumPy's pairwise sums."""
    columns = np.ascontiguousarray(x.T)
    return np.asarray((columns * columns).mean(axis=1) - columns.mean(axis=1) ** 2)


def test_the_variance_of_numbers_far_from_0(device: Device) -> None:
    rows = 1_000_000 if device.kind in ("cpu", "cuda") else 5000
    x = np.random.default_rng(0).standard_normal((rows, 4), np.float32) + np.float32(1000)
    exact = x.astype(np.float64).var(axis=0)

    def error(variance: Array) -> float:
        return float(np.abs(variance / exact - 1).max())

    outputs = run("batch_norm_statistics", BatchNormProblem(rows, 4), device, {"x": x})
    assert error(outputs["variance"]) <= 1e-4
    assert error(outputs["unbiased"] * ((rows - 1) / rows)) <= 1e-4
    np.testing.assert_allclose(outputs["mean"], x.mean(axis=0, dtype=np.float64), rtol=1e-6)
    assert not error(naive_variance(x)) <= 1e-4, "the numbers are too easy to show anything"


# Prints the variance of 4096 numbers around 1000 over the exact one.
PROGRAM = r"""
#include <cstdio>

#include "batch_norm.cu"

int main() {
  const int rows = 4096;
  std::vector<float> x(rows);
  double sum = 0, squares = 0;
  for (int i = 0; i < rows; ++i) {
    x[i] = 1000.0f + static_cast<float>(i * 2654435761u >> 8) / (1 << 24);
    sum += x[i] - 1000.5;
    squares += (x[i] - 1000.5) * (x[i] - 1000.5);
  }
  const auto problem = cconvnet::BatchNormProblem::make(rows, 1, 0, 1e-5f);
  std::vector<char> workspace(cconvnet::batch_norm_statistics_workspace(problem));
  float mean, variance, unbiased;
  cconvnet::batch_norm_statistics(problem, x.data(), &mean, &variance, &unbiased, workspace.data(), nullptr);
  std::printf("%.9g", variance / (squares / rows - sum / rows * sum / rows));
}
"""
NAIVE = (
    "const float distance = of.lane[i] - moments.first.lane[i];",
    "moments.second.lane[i] = fmaf(distance, distance, moments.second.lane[i]);",
    "moments.second.lane[i] += of.lane[i] * of.lane[i] - moments.first.lane[i] * moments.first.lane[i];",
)


@pytest.mark.skipif(shutil.which(COMPILER.split()[0]) is None, reason="needs a host compiler")
def test_the_naive_variance_would_be_noticed(tmp_path: Path) -> None:
    """The kernel's own squared distances are within 1e-4; E[x^2] - E[x]^2 in their place are not."""
    source = (KERNELS / "column_pairs.cuh").read_text()
    distance, square, naive = NAIVE
    assert source.count(distance) == source.count(square) == 1
    errors = []
    for name, text in (("own", source), ("naive", source.replace(distance, "").replace(square, naive))):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "column_pairs.cuh").write_text(text)
        shutil.copy(KERNELS / "batch_norm.cu", folder)
        (folder / "program.cu").write_text(PROGRAM)
        flags = ["-std=c++17", "-O0", "-w", "-DCCONVNET_EMULATOR", f"-I{folder}", f"-I{KERNELS}", "-x", "c++"]
        command = [*COMPILER.split(), *flags, "program.cu", "-o", "program"]
        subprocess.run(command, cwd=folder, check=True, timeout=200)
        done = subprocess.run([folder / "program"], capture_output=True, text=True, check=True, timeout=200)
        errors.append(abs(float(done.stdout) - 1))
    assert errors[0] <= 1e-4 < errors[1]


def test_statistics_by_hand(device: Device) -> None:
    x = np.array([[1, 10], [3, 10], [5, 40]], np.float32)
    results = ops.batch_norm_statistics(device.array(x), counted=2, device=device)
    assert [device.host(array).tolist() for array in results] == [[2, 10], [1, 0], [2, 0]]
    (mean, variance, unbiased) = ops.batch_norm_statistics(device.array(x[:1]), device=device)
    assert device.host(mean).tolist() == [1, 10]
    assert device.host(variance).tolist() == device.host(unbiased).tolist() == [0, 0]


def test_a_constant_channel_is_beta(device: Device) -> None:
    x = np.full((70, 5), 1234.567, np.float32)
    arrays = run("batch_norm_statistics", BatchNormProblem(70, 5), device, {"x": x})
    np.testing.assert_allclose(arrays["mean"], x[0], rtol=1e-6)
    assert arrays["variance"].max() <= 1e-7


def test_nan_reaches_only_its_channel(device: Device, element: str) -> None:
    x = np.ones((40, 9), np.float32)
    x[33, 4] = np.nan
    problem, ones = BatchNormProblem(40, 9), np.ones(9, np.float32)
    statistics = run("batch_norm_statistics", problem, device, {"x": x}, element=element)
    for name, value in statistics.items():
        assert np.isnan(value).tolist() == [j == 4 for j in range(9)], name
    inputs = {"x": x, "mean": statistics["mean"], "variance": statistics["variance"], "gamma": ones}
    inputs |= {"beta": ones, "shortcut": None, "relu": True}
    y = compare.values(run("batch_norm_forward", problem, device, inputs, element=element)["y"])
    assert np.isnan(y).all(axis=0).tolist() == [j == 4 for j in range(9)]
    assert np.isnan(y).sum() == 40


def test_gradients_are_those_of_finite_differences() -> None:
    """The reference's, in float64, through the mean and the variance."""
    problem, random = BatchNormProblem(7, 3, 5, 0.1), np.random.default_rng(1)
    x, dy, shortcut = (random.standard_normal((7, 3)) for _ in range(3))
    gamma, beta = random.standard_normal((2, 3))

    def outputs(x: Array, gamma: Array, beta: Array, shortcut: Array) -> Array:
        mean, variance, _ = reference.batch_norm_statistics(problem, x)
        return reference.batch_norm_forward(problem, x, mean, variance, gamma, beta, shortcut, True)

    arguments = [x, gamma, beta, shortcut]
    y = outputs(*arguments)
    assert 5 < np.count_nonzero(y) < 14
    mean, variance, _ = reference.batch_norm_statistics(problem, x)
    gradients = reference.batch_norm_backward(problem, x, y, dy, mean, variance, gamma, dshortcut=True)
    step = 1e-6
    for argument, gradient in zip(arguments, gradients, strict=True):
        for index in np.ndindex(argument.shape):
            kept = argument[index]
            sums = []
            for moved in (kept + step, kept - step):
                argument[index] = moved
                sums.append((dy * outputs(*arguments)).sum())
            argument[index] = kept
            assert gradient[index] == pytest.approx((sums[0] - sums[1]) / (2 * step), abs=1e-7)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"rows": 0, "k": 1}, "rows"),
        ({"rows": 1, "k": 0}, "k must"),
        ({"rows": 3, "k": 1, "counted": 4}, "counted"),
        ({"rows": 3, "k": 1, "counted": -1}, "counted"),
        ({"rows": 3, "k": 1, "eps": 0.0}, "eps"),
        ({"rows": 3, "k": 1, "eps": np.inf}, "eps"),
        ({"rows": 3, "k": 1, "eps": np.nan}, "eps"),
        ({"rows": 2**16, "k": 2**15}, "matrix"),
    ],
)
def test_bad_problems_are_refused(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        BatchNormProblem(**arguments)


def test_bad_calls_are_refused() -> None:
    x = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match="counted must be at most 4"):
        ops.batch_norm_statistics(x, counted=5)
    with pytest.raises(ValueError, match="at least 2 axes"):
        ops.batch_norm_statistics(x[0])
    mean, variance, _ = ops.batch_norm_statistics(x)
    with pytest.raises(ValueError, match="gamma"):
        ops.batch_norm_forward(x, mean, variance, mean[:2], mean)
    with pytest.raises(ValueError, match="eps"):
        ops.batch_norm_forward(x, mean, variance, mean, mean, eps=0)


def test_the_gradient_of_a_shortcut_is_written() -> None:
    x = np.random.default_rng(2).standard_normal((6, 5, 3)).astype(np.float32)
    mean, variance, _ = ops.batch_norm_statistics(x)
    ones, dshortcut = np.ones(3, np.float32), np.full_like(x, np.nan)
    y = ops.batch_norm_forward(x, mean, variance, ones, ones, shortcut=-x, relu=True, counted=4)
    dx, _, _ = ops.batch_norm_backward(x, -x, mean, variance, ones, y=y, dshortcut=dshortcut, counted=4)
    np.testing.assert_array_equal(dshortcut, np.where(y > 0, -x, 0))
    assert dx.shape == x.shape and not dx[4:].any()
    wanted = get_device("reference:0")
    again = np.empty_like(x)
    arguments = {"y": y, "dshortcut": again, "counted": 4, "device": wanted}
    wanted_dx, _, _ = ops.batch_norm_backward(x, -x, mean, variance, ones, **arguments)
    np.testing.assert_allclose(dx, wanted_dx, atol=1e-5)
    np.testing.assert_array_equal(again, dshortcut)
