"""Max unpooling: its definition, its gradient, ties, and the layer in networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_networks import batch_of

import cconvnet as cc
from cconvnet import ops
from cconvnet._problem import PoolProblem
from cconvnet.bench.cases import cases
from cconvnet.devices import Device
from cconvnet.formats import cuda_convnet_writer
from cconvnet.formats.ini import ConfigError
from cconvnet.nets import NetSpec, UnpoolSpec, receptive, spec_from_dict, spec_to_dict
from cconvnet.nets.shapes import shapes
from cconvnet.nets.transform import scaled, towers
from cconvnet.network import Network
from cconvnet.network.gradcheck import gradcheck
from cconvnet.testing import compare, reference
from cconvnet.testing.check import check, run
from cconvnet.testing.problems import POOL

Array = np.ndarray[Any, Any]
FORWARD, BACKWARD = "maxunpool_forward", "maxunpool_backward"
OPERATIONS = [FORWARD, BACKWARD]
# Few pixels are the largest of a window.
NONZERO = {FORWARD: 0.01, BACKWARD: 0.25}


@pytest.mark.parametrize("name", POOL)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_exact(device: Device, element: str, operation: str, name: str) -> None:
    """Integers from -4 to 4 have many ties."""
    least = 0.0 if name == "one_of_each" else NONZERO[operation]
    check(operation, POOL[name], device, element=element, nonzero=least)


@pytest.mark.parametrize("name", ["overlapping", "tail", "ceil_padded", "stride_1", "begins_inside"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_real(device: Device, element: str, operation: str, name: str) -> None:
    """Sums round; arrays may begin anywhere."""
    check(operation, POOL[name], device, element=element, data="real")
    check(operation, POOL[name], device, element=element, data="real", offset=4)


@pytest.mark.parametrize("name", POOL)
def test_the_reference_is_the_definition(name: str) -> None:
    problem, draws = POOL[name], np.random.default_rng(0)
    u = draws.integers(-2, 3, problem.x_shape).astype(float)
    x, dy = draws.standard_normal(problem.y_shape), draws.standard_normal(problem.x_shape)
    y, dx = np.zeros(problem.x_shape), np.zeros(problem.y_shape)
    for n, p, q, c in np.ndindex(*problem.y_shape):
        first = p * problem.stride_h - problem.pad_h, q * problem.stride_w - problem.pad_w
        top, left = max(first[0], 0), max(first[1], 0)
        pixels = u[n, top : first[0] + problem.window_h, left : first[1] + problem.window_w, c]
        i, j = np.unravel_index(pixels.argmax(), pixels.shape)  # the first of equal ones
        y[n, top + i, left + j, c] += x[n, p, q, c]
        dx[n, p, q, c] = dy[n, top + i, left + j, c]
    np.testing.assert_allclose(reference.maxunpool_forward(problem, x, u), y, atol=1e-14)
    np.testing.assert_array_equal(reference.maxunpool_backward(problem, u, dy), dx)
    assert np.isclose((y * dy).sum(), (x * dx).sum()) and np.isclose(y.sum(), x.sum())


def row(device: Device, element: str, u: list[float], channels: int = 1, **windows: Any) -> list[list[float]]:
    """Return y for x = 1, 2, 4, ..., and dx for dy = 1, 2, 3, ..., of a row of pixels in each channel."""
    problem = PoolProblem(1, 1, len(u), channels, **{"window": (1, 2), "stride": (1, 2), **windows})

    def spread(values: Any) -> Array:
        return np.repeat(np.array(values, np.float32)[None, None, :, None], channels, axis=-1)

    given = {"x": spread(2.0 ** np.arange(problem.q)), "u": spread(u)}
    y = run(FORWARD, problem, device, given, element=element)["y"]
    dy = {"u": spread(u), "dy": spread(np.arange(len(u)) + 1)}
    dx = run(BACKWARD, problem, device, dy, element=element)["dx"]
    found = [compare.values(array) for array in (y, dx)]
    assert all((array == array[..., :1]).all() for array in found)
    return [array[0, 0, :, 0].tolist() for array in found]


@pytest.mark.parametrize("channels", [1, 16])
def test_the_first_of_equal_maxima_is_the_place(device: Device, element: str, channels: int) -> None:
    assert row(device, element, [7, 7, 5, 5, 0, 0], channels) == [[1, 0, 2, 0, 4, 0], [1, 3, 5]]
    assert row(device, element, [-0.0, 0.0, 0.0, -0.0], channels) == [[1, 0, 2, 0], [1, 3]]
    inf, nan = np.inf, np.nan
    assert row(device, element, [-inf, -inf, inf, inf], channels) == [[1, 0, 2, 0], [1, 3]]
    assert row(device, element, [9, nan, nan, nan, nan, inf], channels) == [[0, 1, 2, 0, 4, 0], [2, 3, 5]]


def test_values_of_windows_that_share_a_maximum_are_added(device: Device, element: str) -> None:
    wide = {"window": (1, 3), "stride": (1, 1)}
    assert row(device, element, [1, 2, 9, 3, 0, 0], **wide) == [[0, 0, 7, 8, 0, 0], [3, 3, 3, 4]]
    # Pixels between windows, or in none, are 0.
    apart = {"window": (1, 1), "stride": (1, 3), "outputs": (1, 2)}
    assert row(device, element, [1, 2, 3, 4, 5], **apart) == [[1, 0, 0, 2, 0], [1, 4]]


def test_without_ties_it_is_the_gradient_of_pooling(device: Device) -> None:
    """Each is the adjoint of taking values at the places of maxima."""
    problem = POOL["overlapping"]
    draws = np.random.default_rng(1)
    u = draws.permutation(np.prod(problem.x_shape)).reshape(problem.x_shape).astype(np.float32)
    x = draws.integers(-4, 5, problem.y_shape).astype(np.float32)
    settings = {"window": (3, 3), "stride": (2, 2)}
    u, x = device.array(u), device.array(x)
    largest = ops.maxpool_forward(u, **settings)
    spread = device.host(ops.maxunpool_forward(x, u, **settings))
    assert np.array_equal(spread, device.host(ops.maxpool_backward(u, largest, x, **settings)))
    taken = device.host(ops.maxunpool_backward(u, u, **settings))
    assert np.array_equal(taken, device.host(largest))


def test_shapes_that_do_not_fit_are_refused() -> None:
    u = np.zeros((1, 6, 6, 2), np.float32)
    with pytest.raises(ValueError, match=r"x must have shape \(1, 3, 3, 2\)"):
        ops.maxunpool_forward(np.zeros((1, 2, 3, 2), np.float32), u, window=2)
    with pytest.raises(ValueError, match="window_h is 9"):
        ops.maxunpool_backward(u, u, window=9)


@pytest.mark.parametrize(
    ("window", "stride", "padding"), [((2, 2), (2, 2), 0), ((3, 2), (4, 3), (1, 0)), ((2, 3), (2, 3), (1, 1))]
)
def test_it_is_pytorchs(device: Device, window: Any, stride: Any, padding: Any) -> None:
    torch = pytest.importorskip("torch")
    draws = np.random.default_rng(2)
    u = torch.tensor(draws.integers(0, 9, (2, 5, 12, 13)), dtype=torch.float32)
    pooled, places = torch.nn.functional.max_pool2d(u, window, stride, padding, return_indices=True)
    x = torch.randn(pooled.shape, requires_grad=True)
    y = torch.nn.functional.max_unpool2d(x, places, window, stride, padding, output_size=u.shape[2:])
    dy = torch.randn(y.shape)
    y.backward(dy)

    def here(tensor: Any) -> Array:
        return np.ascontiguousarray(tensor.detach().numpy().transpose(0, 2, 3, 1))

    settings = {"window": window, "stride": stride, "padding": padding}
    own = ops.maxunpool_forward(device.array(here(x)), device.array(here(u)), **settings)
    assert np.array_equal(device.host(own), here(y))
    dx = ops.maxunpool_backward(device.array(here(u)), device.array(here(dy)), **settings)
    assert np.array_equal(device.host(dx), here(x.grad))


# ---- networks -------------------------------------------------------------------------------------------


def segmenter(overlapping: bool = False) -> NetSpec:
    """Return an encoder of two poolings and its mirror image, as in SegNet, with a class for each pixel."""
    size, stride = (3, 2) if overlapping else (2, 2)
    x = cc.image(13, 12, 3).conv(4, 3, pad=1).bn().relu()
    first = x.maxpool(size, stride, rounding="ceil")
    y = first.conv(6, 3, pad=1).relu()
    second = y.maxpool(2)
    z = second.conv(6, 1).tanh().unpool(second).conv(4, 3, pad=1).relu()
    return z.unpool(first).conv(3, 3, pad=1).softmax("segmenter", per_pixel=True)


@pytest.mark.parametrize("devices", [["cpu:0"], ["emulator:0"]])
@pytest.mark.parametrize("overlapping", [False, True])
def test_gradients(devices: list[str], overlapping: bool) -> None:
    report = gradcheck(segmenter(overlapping), devices)
    assert report.ok, report.failures


def test_two_devices_compute_what_one_does() -> None:
    """The map of maxima is copied, and no gradient of it comes back."""
    x = cc.image(8, 8, 3).conv(4, 3, pad=1, name="a").relu()
    pool = x.maxpool(2)
    y = pool.conv(4, 3, pad=1, device=1, name="b").relu()
    spec = y.unpool(pool).conv(4, 3, name="c").fc(3).softmax("apart")
    report = gradcheck(spec, ["cpu:0", "cpu:1"])
    assert report.ok, report.failures
    found = Network(spec, batch=2, devices=["cpu:0", "cpu:1"])
    copied = [copy for copy in found.graph.copies if copy in found.graph.backward]
    assert len(found.graph.copies) == 2 and len(copied) == 1


def test_a_tower_on_each_device() -> None:
    x = cc.image(8, 8, 3).conv(8, 3, pad=1, split=True).relu()
    pool = x.maxpool(2)
    spec = pool.conv(8, 1, split=True).unpool(pool).fc(3, device=0).softmax("towers")
    assert next(layer for layer in spec.layers if isinstance(layer, UnpoolSpec)).split
    report = gradcheck(spec, ["cpu:0", "cpu:1"])
    assert report.ok, report.failures
    halves = [layer for layer in towers(spec, 2).layers if isinstance(layer, UnpoolSpec)]
    assert [shapes(towers(spec, 2))[layer.name] for layer in halves] == [(8, 8, 4)] * 2


def test_maxima_need_no_gradients() -> None:
    """The map has one buffer, and the pooling still computes the gradient of the ReLU before it."""
    x = cc.image(16, 16, 3).conv(8, 3, pad=1).relu()
    pool = x.maxpool(2)
    y = pool.conv(8, 1)
    spec, plain = (end.fc(3).softmax() for end in (y.unpool(pool), y))
    graphs = [Network(one, batch=2, devices="cpu:0").graph for one in (spec, plain)]
    assert graphs[0].finished_by["conv1"] == graphs[1].finished_by["conv1"] == "pool1"
    map_bytes = 2 * 16 * 16 * 8 * 4
    assert sum(graphs[0].gradient_bytes.values()) <= sum(graphs[1].gradient_bytes.values()) + map_bytes
    unpool = next(layer for layer in graphs[0].layers if layer.name == "unpool1")
    assert unpool.input_gradients[0] is not None and unpool.input_gradients[1] is None


def test_a_layer_that_would_learn_nothing_is_refused() -> None:
    x = cc.image(8, 8, 3)
    places = x.conv(4, 3, pad=1, name="places").relu()
    y = x.conv(4, 2, 2, name="values").unpool(places.maxpool(2))
    with pytest.raises(
        ValueError, match="layer places: it would learn nothing, since only the places of its"
    ):
        Network(y.fc(3).softmax(), batch=1, devices="cpu:0")
    # Images have maxima, too, and so has what does not learn.
    seen = x.conv(3, 2, 2).unpool(x.blur(3, 1.0).maxpool(2)).fc(3).softmax()
    report = gradcheck(seen, ["cpu:0"])
    assert report.ok, report.failures


def test_it_learns_the_same_fused_or_not_and_again() -> None:
    states = []
    for fuse in (True, False, True):
        network = Network(segmenter(True), batch=4, devices="cpu:0", seed=1, fuse=fuse)
        for step in range(3):
            network.load(**batch_of(network.spec, 4, step))
            network.train_step(step, 0.05, 0.9)
        states.append(network.state())
    for name, value in states[0].items():
        assert np.allclose(value, states[1][name], rtol=1e-4, atol=1e-6), name
        assert np.array_equal(value, states[2][name]), name


def bars(count: int, seed: int) -> tuple[Array, Array]:
    """Return images in whose noise a bar lies, horizontal or vertical, and the class of each pixel."""
    draws = np.random.default_rng(seed)
    x = draws.integers(0, 80, (count, 16, 16, 1)).astype(np.uint8)
    y = np.zeros((count, 16, 16), np.int32)
    for image, classes in zip(x, y, strict=True):
        kind, top, left = (int(draws.integers(low, high)) for low, high in ((1, 3), (0, 13), (0, 8)))
        bar = slice(top, top + 3), slice(left, left + 9)
        bar = bar if kind == 1 else bar[::-1]
        image[bar], classes[bar] = draws.integers(120, 255, image[bar].shape), kind
    return x, y


def test_a_small_segnet_learns() -> None:
    def conv(x: cc.nets.Value, filters: int) -> cc.nets.Value:
        return x.conv(filters, 3, pad=1, bias=None).bn().relu()

    first = conv(cc.image(16, 16, 1), 12).maxpool(2)
    second = conv(first, 24).maxpool(2)
    decoded = conv(conv(conv(second, 24).unpool(second), 12).unpool(first), 12)
    network = Network(decoded.conv(3, 1).softmax("bars", per_pixel=True), batch=16, devices="cpu:0")
    images, labels = bars(480, seed=0)
    network.set_mean(images.mean(0, dtype=np.float32))
    for step in range(120):
        chosen = np.arange(16 * step, 16 * step + 16) % len(images)
        network.load(images[chosen], labels[chosen])
        network.train_step(step, 0.1, 0.9)
    images, labels = bars(16, seed=1)
    network.load(images, labels)
    network.forward(train=False)
    found = network.outputs("cost").argmax(-1)
    for kind in range(3):
        both, either = (found == kind) & (labels == kind), (found == kind) | (labels == kind)
        assert both.sum() > 0.75 * either.sum(), kind


def test_wrong_poolings_are_refused() -> None:
    x = cc.image(8, 8, 3)
    pool, y = x.maxpool(2), x.conv(3, 2, 2)
    for other in (x, x.avgpool(2), pool.conv(3, 1), "pool1"):
        with pytest.raises(ValueError, match="unpool needs the output of a max pooling, not"):
            y.unpool(other)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"layer unpool1: its values must have the shape .* 4x4x3, not 4x4x2"
    ):
        x.conv(2, 2, 2).unpool(pool)
    with pytest.raises(ValueError, match="4x4x3, not 8x8x3"):
        x.unpool(pool)
    spec = y.unpool(pool).features()
    alone = dataclasses.replace(spec.layers[-1], inputs=(spec.layers[0].name,))
    lacking = dataclasses.replace(spec, layers=(*spec.layers[:-1], alone))
    with pytest.raises(
        ValueError, match="layer unpool1: inputs must be two, values and what the pooling reads"
    ):
        shapes(lacking)
    with pytest.raises(ValueError, match=r"^layer unpool1: inputs must be at least two, not 1"):
        Network(lacking, batch=1, devices="cpu:0")


def test_its_spec_is_plain_data(tmp_path: Path) -> None:
    spec = segmenter()
    assert spec_from_dict(spec_to_dict(spec)) == spec
    rows = {row.name: row.shape for row in spec.table().rows}
    assert (rows["unpool1"], rows["unpool2"]) == ((7, 6, 6), (13, 12, 4))
    wider = scaled(spec, width=2.0, image=(26, 24))
    assert shapes(wider)["unpool2"] == (26, 24, 8)
    with pytest.raises(ValueError, match="layer unpool1: outputs of an unpooling do not all see alike"):
        receptive.fields(spec, "unpool1")
    pool = cc.image(8, 8, 3).conv(4, 3, pad=1).maxpool(2)
    spec = pool.unpool(pool).fc(3).softmax()
    with pytest.raises(ConfigError, match="unpool1: the files have no unpooling"):
        cuda_convnet_writer.write(spec, tmp_path / "layers.cfg", tmp_path / "params.cfg")


def test_benchmarks_measure_it() -> None:
    found = [case for case in cases(spec_to_dict(segmenter()), 2) if case.layer == "unpool2"]
    assert [case.operation for case in found] == OPERATIONS
    assert {case.problem.x_shape for case in found} == {(2, 13, 12, 4)}
