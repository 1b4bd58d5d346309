"""The sum of parts in a fixed tree: bit-identical to the same sums of NumPy, in this order and no other."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet import bfloat16
from cconvnet._problem import TreeSumProblem
from cconvnet.devices import Device
from cconvnet.testing import compare, reference
from cconvnet.testing.check import check, make_inputs, run
from cconvnet.testing.inputs import Array
from cconvnet.testing.random_problems import random_merges

# Whole vectors of both types, and a size that no vector divides.
COUNTS = (256, 259)


def merges_of(parts: int) -> list[int]:
    """Return the merges of the balanced tree: those that carry in a binary counter of the parts."""
    merges = [((part & -part).bit_length() - 1) for part in range(1, parts)]
    return [*merges, parts - 1 - sum(merges)]


def balanced(x: Array) -> Array:
    """Return the sum of the rows in the balanced tree, whose left half is the largest power of two."""
    if len(x) == 1:
        return x[0]
    half = 1 << (len(x) - 1).bit_length() - 1
    return np.add(balanced(x[:half]), balanced(x[half:]), dtype=np.float32)


def inputs_of(problem: TreeSumProblem, element: str) -> Array:
    """Return random parts, rounded to the element type."""
    return make_inputs("tree_sum", problem, "real", 1, element)["x"]


def test_the_reference_by_hand() -> None:
    """In float32 a 1 beside 2^24 is lost, but not two of them, which shows the order."""
    x = np.array([[2.0**24, 3], [1, 4], [1, 5]], np.float32)
    with reference.precision(np.float32):
        for merges, expected in (([0, 1, 1], [2.0**23, 6]), ([0, 0, 2], [2.0**23 + 1, 6])):
            y = reference.tree_sum(TreeSumProblem(2, merges, 0.5), x)
            assert y.dtype == np.float32 and y.tolist() == expected


@pytest.mark.parametrize("parts", [*range(1, 18), 31, 63, 100, 255, 256])
def test_a_balanced_tree(device: Device, element: str, parts: int) -> None:
    for count in COUNTS:
        problem = TreeSumProblem(count, merges_of(parts))
        x = inputs_of(problem, element)
        expected = balanced(x)
        assert expected.dtype == np.float32
        for offset in (0, 4):
            y = run("tree_sum", problem, device, {"x": x}, element=element, offset=offset)["y"]
            compare.assert_same_bits("y", y, expected)


@pytest.mark.parametrize("parts", [4, 5, 8, 9])
def test_another_tree_has_another_sum(device: Device, parts: int) -> None:
    x = inputs_of(TreeSumProblem(256, merges_of(parts)), "fp32")

    def total(x: Array, merges: list[int]) -> bytes:
        y = run("tree_sum", TreeSumProblem(256, merges), device, {"x": x})["y"]
        return bytes(y.tobytes())

    one_by_one = [0, *[1] * (parts - 1)]
    from_the_last = total(x, [*[0] * (parts - 1), parts - 1])
    assert from_the_last == total(x[::-1].copy(), one_by_one)
    assert len({total(x, merges_of(parts)), total(x, one_by_one), from_the_last}) == 3


@pytest.mark.parametrize("seed", range(8))
def test_any_tree(device: Device, element: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    merges = random_merges(random, int(random.integers(2, 60)))
    for count in COUNTS:
        problem = TreeSumProblem(count, merges, 1 / 3)
        check("tree_sum", problem, device, element=element, data="real", seed=seed)
        x = inputs_of(problem, element)
        with reference.precision(np.float32):
            expected = reference.tree_sum(problem, x)
        compare.assert_same_bits(
            "y", run("tree_sum", problem, device, {"x": x}, element=element)["y"], expected
        )


@pytest.mark.parametrize("count", [1, 3, 8, 1024, 2051])
def test_sizes(device: Device, element: str, count: int) -> None:
    """Also more columns than the CPU adds at once; integers have no order."""
    for merges in ([0], [0, 1], [0, 0, 0, 0, 0, 0, 0, 0, 8, 1]):
        problem = TreeSumProblem(count, merges, 0.5)
        check("tree_sum", problem, device, element=element, nonzero=0.5 if count > 8 else 0)
        check("tree_sum", problem, device, element=element, offset=4, nonzero=0.5 if count > 8 else 0)


def test_one_part_keeps_its_bits(device: Device) -> None:
    x = np.array([0x7FC12345, 0x80000000, 0x00000001, 0x7F800000], np.uint32).view(np.float32)
    for count in (4, 3):
        y = run("tree_sum", TreeSumProblem(count, [0]), device, {"x": x[None, :count]})["y"]
        assert y.view(np.uint32).tolist() == x[:count].view(np.uint32).tolist()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("parts", [1, 5])
def test_the_sum_may_be_the_first_part(device: Device, parts: int, count: int) -> None:
    problem = TreeSumProblem(count, merges_of(parts), 0.75)
    x = inputs_of(problem, "fp32")
    apart = run("tree_sum", problem, device, {"x": x})["y"]
    own = device.array(x)
    with device:
        device.module.tree_sum(problem, own, own[0], device.stream)
    device.synchronize()
    compare.assert_same_bits("y", device.host(own)[0], apart)
    compare.assert_same_bits("the other parts", device.host(own)[1:], x[1:])


def test_sums_of_extremes(device: Device, element: str) -> None:
    inf, nan, large = np.inf, np.nan, 2.0**127
    x = np.array([[inf, inf, nan, large, -0.0, large], [1, -inf, 0, large, -0.0, -large]], np.float32)
    y = run("tree_sum", TreeSumProblem(6, [0, 1], 0.5), device, {"x": x}, element=element)["y"]
    np.testing.assert_array_equal(y, [inf, nan, nan, inf, 0, 0])
    assert np.signbit(y[4]) and not np.signbit(y[5])


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ([], "merges must have 1 to 256 elements, one for each part, not 0"),
        ([0] + [1] * 256, "merges must have 1 to 256 elements, one for each part, not 257"),
        ([1], r"merges\[0\] must be from 0 to 0, since there are 1 sums, not 1"),
        ([0, 2], r"merges\[1\] must be from 0 to 1, since there are 2 sums, not 2"),
        ([0, -1], r"merges\[1\] must be from 0 to 1, since there are 2 sums, not -1"),
        ([0, 1, 0], "merges must leave one sum, not 2"),
        ([0] * 9 + [9], r"merges\[9\] must follow merges that leave fewer than 9 sums"),
    ],
)
def test_a_tree_has_one_root(merges: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TreeSumProblem(4, merges)


def test_sizes_that_are_refused() -> None:
    with pytest.raises(ValueError, match="count must be at least 1, not 0"):
        TreeSumProblem(0, [0])
    with pytest.raises(ValueError, match="x would have more than"):
        TreeSumProblem(2**30, [0, 1])


def test_repr_rebuilds_the_problem() -> None:
    problem = TreeSumProblem(12, [0, 1, 0, 2], 0.25)
    assert (problem.count, problem.parts, problem.merges, problem.scale) == (12, 4, [0, 1, 0, 2], 0.25)
    assert eval(repr(problem)) == problem  # noqa: S307
    assert problem != TreeSumProblem(12, [0, 1, 1, 1], 0.25)


def test_a_bfloat16_is_its_float(device: Device) -> None:
    if not device.serves("bf16"):
        pytest.skip(f"{device.name} has no bf16")
    problem = TreeSumProblem(40, merges_of(7), 0.1)
    bits = bfloat16.pack(inputs_of(problem, "bf16"))
    rounded, plain = (
        run("tree_sum", problem, device, {"x": x}, element=element)["y"]
        for x, element in ((bits, "bf16"), (bfloat16.unpack(bits), "fp32"))
    )
    compare.assert_same_bits("y", rounded, plain)
