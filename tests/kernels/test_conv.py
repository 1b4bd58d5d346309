"""Convolution: its three passes and every row of every selection table."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.adjoint import assert_adjoint

from cconvnet._problem import ConvProblem
from cconvnet.devices import Device
from cconvnet.testing import compare, reference
from cconvnet.testing.check import check, check_fused, exact_impls, make_inputs, own_impls, repro, run
from cconvnet.testing.networks import NETWORKS, Layer, layers
from cconvnet.testing.problems import CONV, with_precision

PASSES = ["conv_fprop", "conv_dgrad", "conv_wgrad"]

# Where strides leave pixels out and taps see nothing but padding, gradients are rightly 0.
SPARSE = {"stride_beyond_filter", "1x1_strided", "1x1_padded", "padded_beyond_filter",
          "padded_and_strided", "dilated_groups"}  # fmt: skip


def share_of_nonzeros(name: str) -> float:
    return 0.1 if name in SPARSE else 0.25


@pytest.mark.parametrize("name", CONV)
@pytest.mark.parametrize("operation", PASSES)
def test_exact(device: Device, precision: str, operation: str, name: str) -> None:
    problem = with_precision(CONV[name], precision)
    for impl in own_impls(operation, problem, device):
        check(operation, problem, device, impl=impl, nonzero=share_of_nonzeros(name))


@pytest.mark.parametrize(
    "name", ["plain", "tail", "strided", "groups_tail", "ceil_hangs_over", "one_image", "rgb"]
)
@pytest.mark.parametrize("operation", PASSES)
def test_real(device: Device, precision: str, operation: str, name: str) -> None:
    problem = with_precision(CONV[name], precision)
    for impl in own_impls(operation, problem, device):
        check(operation, problem, device, impl=impl, data="real")


def test_real_sums_of_many_terms(device: Device) -> None:
    """9,216 terms in fprop, 4,096 in wgrad: naive sums would exceed the bound."""
    check("conv_fprop", ConvProblem(1, 6, 6, 256, 8, 6, 6), device, data="real")
    check("conv_wgrad", ConvProblem(4, 32, 32, 4, 8, 3, 3, padding=(1, 1)), device, data="real")
    check("conv_dgrad", ConvProblem(1, 3, 3, 4, 1024, 3, 3, padding=(1, 1)), device, data="real")


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["tail", "groups", "1x1", "wide_k"])
def test_bias_and_relu(device: Device, precision: str, name: str, bias: bool, relu: bool) -> None:
    problem = with_precision(CONV[name], precision)
    for impl in own_impls("conv_fprop", problem, device):
        check("conv_fprop", problem, device, impl=impl, bias=bias, relu=relu)


@pytest.mark.parametrize("operation", PASSES)
def test_windows_that_see_nothing_of_the_image(device: Device, precision: str, operation: str) -> None:
    """The windows of the only column are in the padding at the left, for an image as wide and a wider one."""
    for width in (1, 3):
        problem = ConvProblem(
            4,
            9,
            width,
            6,
            12,
            2,
            2,
            stride=(4, 1),
            padding=(2, 2),
            groups=3,
            outputs=(3, 1),
            precision=precision,
        )
        check(operation, problem, device, nonzero=0.0)


@pytest.mark.parametrize("dropout", ["whole", "rows", "part", "odd_part"])
@pytest.mark.parametrize("name", ["plain", "tail", "groups_tail"])
def test_dropout_on_the_way(device: Device, precision: str, name: str, dropout: str) -> None:
    problem = with_precision(CONV[name], precision)
    for impl in own_impls("conv_fprop", problem, device):
        check("conv_fprop", problem, device, impl=impl, relu=True, dropout=dropout, nonzero=0.05)
        check_fused("conv_fprop", problem, device, impl=impl, relu=True, dropout=dropout)
    check("conv_fprop", problem, device, offset=4, relu=True, dropout=dropout, nonzero=0.05)


@pytest.mark.parametrize("update", ["plain", "full", "halted"])
@pytest.mark.parametrize("name", ["plain", "tail", "groups_tail"])
def test_update_behind_the_gradient(device: Device, precision: str, name: str, update: str) -> None:
    problem = with_precision(CONV[name], precision)
    for impl in own_impls("conv_wgrad", problem, device):
        check("conv_wgrad", problem, device, impl=impl, update=update)
        check_fused("conv_wgrad", problem, device, impl=impl, update=update)
    check("conv_wgrad", problem, device, offset=4, update=update)
    check_fused("conv_wgrad", problem, device, update=update, nesterov=True)


@pytest.mark.parametrize("name", ["plain", "tail", "groups_tail"])
def test_relu_on_the_way(device: Device, precision: str, name: str) -> None:
    problem = with_precision(CONV[name], precision)
    for impl in own_impls("conv_fprop", problem, device):
        check_fused("conv_fprop", problem, device, impl=impl, relu=True)


@pytest.mark.parametrize("name", ["plain", "tail", "groups_tail"])
@pytest.mark.parametrize("operation", PASSES)
def test_unrounded(device: Device, operation: str, name: str) -> None:
    """Floats of 24 bits, each of which tf32 rounds to 11."""
    if not device.serves("tf32"):
        pytest.skip(f"{device.name} has no tf32")
    problem = with_precision(CONV[name], "tf32")
    for impl in own_impls(operation, problem, device):
        check(operation, problem, device, impl=impl, data="unrounded")


@pytest.mark.parametrize("offset", [4, 8])
@pytest.mark.parametrize("name", ["plain", "tail", "groups", "1x1", "rgb"])
@pytest.mark.parametrize("operation", PASSES)
def test_any_alignment(device: Device, precision: str, operation: str, name: str, offset: int) -> None:
    problem = with_precision(CONV[name], precision)
    if precision == "bf16":
        offset //= 2
    check(operation, problem, device, offset=offset)
    for impl in own_impls(operation, problem, device):
        try:
            check(operation, problem, device, offset=offset, impl=impl)
        except ValueError as error:
            # A row that was asked for by name says what it wants.
            assert "16-byte" in str(error) and str(impl) in str(error)


@pytest.mark.parametrize("name", ["tail", "groups_tail", "rgb", "strided"])
@pytest.mark.parametrize("operation", ["conv_fprop", "conv_dgrad"])
def test_nan_reaches_only_the_windows_that_hold_it(
    device: Device, precision: str, operation: str, name: str
) -> None:
    """A kernel that reads beyond a sum's end and multiplies by zero would spread it: NaN * 0 is NaN."""
    problem = with_precision(CONV[name], precision)
    inputs = make_inputs(operation, problem)
    if operation == "conv_fprop":
        inputs |= {"bias": None, "relu": False}
    moving = inputs["x" if operation == "conv_fprop" else "dy"]
    pixels = moving.size // moving.shape[-1]
    for pixel in (0, pixels // 2, pixels - 1):
        poisoned = moving.copy()
        poisoned.reshape(pixels, -1)[pixel] = np.nan
        given = inputs | {"x" if operation == "conv_fprop" else "dy": poisoned}
        expected = getattr(reference, operation)(problem, *given.values())
        assert 0 < np.isnan(expected).sum() < expected.size
        for impl in own_impls(operation, problem, device):
            (result,) = run(operation, problem, device, given, impl=impl).values()
            result = compare.values(result)
            # oneDNN multiplies bfloat16s in pairs: the last of an odd number of channels together with the
            # first of the next pixel, by a weight of 0.
            pairs = device.kind == "cpu" and precision == "bf16"
            where = np.isnan(expected) if pairs else np.full(expected.shape, True)
            assert (np.isnan(result) == np.isnan(expected))[where].all(), repro(operation, problem, device)


@pytest.mark.parametrize("name", CONV)
def test_gradients_are_adjoint(device: Device, name: str) -> None:
    assert_adjoint("conv", CONV[name], device)


def real_layers() -> dict[str, Layer]:
    """Return the convolutions of all networks, each shape once."""
    unique: dict[str, Layer] = {}
    for network in NETWORKS:
        for layer in layers(network).values():
            if layer.kind == "conv":
                unique.setdefault(repr(layer.problem()), layer.named(f"{network}/{layer.name}"))
    return {layer.name: layer for layer in unique.values()}


REAL_LAYERS = real_layers()


@pytest.mark.parametrize("name", [name for name in REAL_LAYERS if name.startswith("alexnet")])
@pytest.mark.parametrize("operation", PASSES)
def test_alexnet(device: Device, precision: str, operation: str, name: str) -> None:
    layer = REAL_LAYERS[name]
    problem = layer.small(5_000_000) if device.kind == "emulator" else layer.problem(n=2)
    problem = with_precision(problem, precision)
    check(operation, problem, device, impl=exact_impls(operation, problem, device)[0], nonzero=0.1)


@pytest.mark.parametrize("name", REAL_LAYERS)
@pytest.mark.parametrize("operation", PASSES)
def test_real_layers(device: Device, operation: str, name: str) -> None:
    """Whole on the CPU and a GPU; on the emulator with the image and, if needed, the channels reduced."""
    layer = REAL_LAYERS[name]
    if device.kind == "emulator":
        check(operation, layer.small(4_000_000), device, nonzero=0.1)
        return
    problem = layer.problem(n=1 if device.kind == "cpu" else 2)
    chosen = exact_impls(operation, problem, device)[: None if device.kind == "cuda" else 1]
    for impl in chosen:
        # Three quarters of the pixels get no gradient from a 1x1 filter of stride 2.
        check(operation, problem, device, impl=impl, nonzero=0.1)


@pytest.mark.long
@pytest.mark.parametrize("name", REAL_LAYERS)
@pytest.mark.parametrize("operation", PASSES)
def test_real_layers_whole_on_every_row(device: Device, precision: str, operation: str, name: str) -> None:
    problem = with_precision(REAL_LAYERS[name].problem(n=2 if device.kind == "cpu" else 1), precision)
    for impl in own_impls(operation, problem, device):
        check(operation, problem, device, impl=impl, nonzero=0.1)


@pytest.mark.parametrize("operation", PASSES)
def test_unknown_impl(device: Device, operation: str) -> None:
    with pytest.raises(ValueError, match="no_such_row"):
        check(operation, CONV["plain"], device, impl="no_such_row")


@pytest.mark.parametrize("operation", PASSES)
def test_nan_of_the_call_before_is_forgotten(device: Device, precision: str, operation: str) -> None:
    """Memory that a device keeps between calls, or that follows an array, has no influence.

    Windows of one column are read in pairs of pixels.
    """
    large = ConvProblem(8, 14, 14, 32, 32, 3, 3, padding=(1, 1), precision=precision)
    for name in PASSES:
        arrays = make_inputs(name, large)
        poisoned = {n: np.full_like(a, np.nan) if isinstance(a, np.ndarray) else a for n, a in arrays.items()}
        run(name, large, device, poisoned)
    for problem in (
        ConvProblem(4, 10, 2, 16, 24, 3, 4, stride=(3, 3), padding=(1, 1), groups=2, precision=precision),
        ConvProblem(2, 3, 2, 1, 4, 2, 2, stride=(1, 3), precision=precision),
        # The middle column of taps sees nothing of the image.
        ConvProblem(4, 13, 2, 4, 40, 3, 3, stride=(3, 3), padding=(0, 2), precision=precision),
    ):
        check(operation, problem, device, nonzero=0.1)


@pytest.mark.parametrize("operation", ["conv_fprop", "conv_wgrad"])
@pytest.mark.parametrize("channels", [3, 8])
def test_what_no_window_reads_has_no_influence(
    device: Device, precision: str, operation: str, channels: int
) -> None:
    """Blocks that hang over the output read such pixels, and must not multiply them by zero."""
    problem = ConvProblem(2, 12, 30, channels, 8, 3, 3, outputs=(5, 9), precision=precision)
    inputs = make_inputs(operation, problem)
    inputs["x"][:, 7:] = inputs["x"][:, :, 11:] = np.nan
    if operation == "conv_fprop":
        inputs |= {"bias": None, "relu": False}
    expected = getattr(reference, operation)(problem, *inputs.values())
    assert np.isfinite(expected).all()
    for impl in own_impls(operation, problem, device):
        (result,) = run(operation, problem, device, inputs, impl=impl).values()
        assert np.array_equal(compare.values(result), expected), repro(operation, problem, device)


def test_blocks_that_compute_several_patches(device: Device, precision: str) -> None:
    """Each of the 24 groups has 33 blocks for its 34 patches."""
    problem = ConvProblem(34, 8, 16, 24, 24, 1, 1, groups=24, precision=precision)
    for impl in own_impls("conv_fprop", problem, device):
        if impl is not None and "few_channels" in impl:
            check("conv_fprop", problem, device, impl=impl)


@pytest.mark.parametrize("channels", [3, 8])
def test_nan_in_a_filter_reaches_its_channel_alone(device: Device, precision: str, channels: int) -> None:
    problem = ConvProblem(1, 6, 7, channels, 8, 3, 3, padding=(1, 1), precision=precision)
    inputs = make_inputs("conv_fprop", problem) | {"bias": None, "relu": False}
    inputs["w"][5] = np.nan
    for impl in own_impls("conv_fprop", problem, device):
        y = compare.values(run("conv_fprop", problem, device, inputs, impl=impl)["y"])
        assert np.isnan(y[..., 5]).all() and np.isfinite(np.delete(y, 5, axis=-1)).all()


def test_nan_and_infinity_reach_the_result(device: Device, precision: str) -> None:
    """Neither ReLU nor a zero weight hides a NaN or infinite activation."""
    problem = ConvProblem(1, 4, 4, 3, 5, 3, 3, padding=(1, 1), precision=precision)
    x, w = np.ones(problem.x_shape, np.float32), np.ones(problem.w_shape, np.float32)
    w[0] = 0
    x[0, 0, 0, 0] = np.nan
    for impl in exact_impls("conv_fprop", problem, device):
        inputs = {"x": x, "w": w, "bias": None, "relu": True}
        y = compare.values(run("conv_fprop", problem, device, inputs, impl=impl)["y"])
        broken = np.isnan(y[0, :, :, 1])
        assert broken[:2, :2].all() and broken.sum() == 4, repro("conv_fprop", problem, device)
        assert np.isnan(y[0, :2, :2, 0]).all()
