"""Networks: specs, shapes, memory, placement, steps, gradients, state."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cconvnet import nets
from cconvnet.devices import Device, DeviceUnavailable, get_device
from cconvnet.nets import (
    NEURONS,
    RELU,
    ConvSpec,
    DropoutSpec,
    FcSpec,
    InputSpec,
    LayerSpec,
    LrnSpec,
    LrStep,
    NetSpec,
    Neuron,
    NeuronSpec,
    PoolSpec,
    SoftmaxCostSpec,
    SumSpec,
    TrainRecipe,
    alexnet,
    alexnet_2012,
    chain,
    compare,
    gaussian,
    lrn_alpha,
    place,
    spec_from_dict,
    spec_to_dict,
)
from cconvnet.network import Network, Slot, plan_memory, table
from cconvnet.network.gradcheck import FINITE_DIFFERENCES, gradcheck, small_spec
from cconvnet.training.schedule import StepSchedule

CLASSES = 4


def net_of(
    *layers: LayerSpec, image: tuple[int, int, int] = (7, 6, 2), stored: tuple[int, int] = (9, 9)
) -> NetSpec:
    """A small net of these layers, an FC layer and the cost."""
    ends = (FcSpec(name="last", outputs=CLASSES), SoftmaxCostSpec(name="cost"))
    recipe = TrainRecipe(batch=4, epochs=1, lr=0.1)
    return NetSpec("test", chain(*layers, *ends), InputSpec(*image, scale=1 / 64), stored, CLASSES, recipe)


def conv(name: str, filters: int = 4, **values: Any) -> ConvSpec:
    return ConvSpec(name=name, filters=filters, window=(3, 3), padding=(1, 1), **values)


# Every layer type, an activation read three times, and a group that is no divisor of 4.
BRANCHES = net_of(
    conv("trunk", 6, neuron=RELU),
    conv("left", 6, inputs=("trunk",), groups=3, neuron=Neuron("tanh", 1.5, 0.5)),
    conv("right", 6, inputs=("trunk",), bias=None),
    SumSpec(name="sum", inputs=("left", "trunk", "right")),
    LrnSpec(name="norm", size=3, alpha=0.3, groups=2),
    PoolSpec(name="pool", pool="avg", window=(2, 3), rounding="ceil"),
    NeuronSpec(name="soft", neuron=Neuron("softrelu")),
    DropoutSpec(name="drop", keep=0.7),
    FcSpec(name="hidden", outputs=8, neuron=Neuron("logistic")),
)


def batch_of(spec: NetSpec, n: int, seed: int = 0) -> dict[str, Any]:
    """Arguments of load()."""
    draws = np.random.default_rng(seed)
    room = (spec.stored[0] - spec.input.height, spec.stored[1] - spec.input.width)
    return {
        "images": draws.integers(0, 256, (n, *spec.stored_shape), np.uint8),
        "labels": draws.integers(0, spec.classes, n),
        "top": draws.integers(0, room[0] + 1, n),
        "left": draws.integers(0, room[1] + 1, n),
        "mirror": draws.integers(0, 2, n).astype(bool),
        "shift": draws.normal(0, 9, (n, spec.input.channels)),
    }


def train(network: Network, steps: int, n: int | None = None) -> list[float]:
    losses = []
    for step in range(steps):
        network.load(**batch_of(network.spec, n or network.batch, step))
        network.forward(train=True, step=step)
        network.backward()
        network.update(0.02, 0.9)
        losses.append(network.result().loss)
    return losses


def gradients(network: Network) -> dict[str, np.ndarray[Any, Any]]:
    return {name: p.host("gradient") for name, p in network.parameters.items()}


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Bitwise, and by name."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.tobytes() == other[name].tobytes(), name


# ---- specs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [*map(nets.build, nets.NAMES), BRANCHES], ids=lambda spec: spec.name)
def test_a_spec_survives_json(spec: NetSpec) -> None:
    text = json.dumps(spec_to_dict(spec), allow_nan=False)
    assert spec_from_dict(json.loads(text)) == spec


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("layers", 0, "filtres"), 3, "layer conv1.*did you mean 'filters'"),
        (("layers", 0, "type"), "convolution", "layer conv1: type must be one of.*not 'convolution'"),
        (("layers", 1, "pool"), "maximum", "layer pool1: pool must be one of avg, max.*did you mean 'max'"),
        (("layers", 4, "neuron", "kind"), "rellu", "neuron must be one of.*did you mean 'relu'"),
        (("layers", 0, "window"), [3, 3, 3], "layer conv1: window must be an integer or a pair"),
        (("layers", 0, "weight_decay"), float("nan"), "layer conv1: weight_decay must be finite"),
        (("clases",), 3, "did you mean 'classes'"),
        (("stored",), [4, 4], "stored .4x4. must not be smaller than the input .8x8."),
    ],
)
def test_a_wrong_description_is_refused_by_name(path: tuple[Any, ...], value: Any, message: str) -> None:
    values: Any = spec_to_dict(nets.build("lenet"))
    *parents, last = path
    target = values
    for key in parents:
        target = target[key]
    target[last] = value
    with pytest.raises(ValueError, match=message):
        spec_from_dict(values)


def test_a_missing_key_is_named() -> None:
    values = spec_to_dict(nets.build("lenet"))
    del values["layers"][0]["filters"]
    with pytest.raises(ValueError, match="layer conv1: the key 'filters' is missing"):
        spec_from_dict(values)


@pytest.mark.parametrize("function", [nets.build, nets.stored_size])
def test_an_unknown_network_is_answered_with_the_nearest(function: Any) -> None:
    with pytest.raises(ValueError, match="not 'alexnett'; did you mean 'alexnet'"):
        function("alexnett")


def test_cuda_convnets_scale_is_divided_by_the_number_of_values_summed() -> None:
    assert lrn_alpha(1e-4, 5) == pytest.approx(2e-5)
    assert lrn_alpha(5e-5, 3, "same_map") == pytest.approx(5e-5 / 9)


def test_schedule() -> None:
    schedule = StepSchedule(0.01, (LrStep(2, 0.1), LrStep(5, 0.5)))
    assert [schedule.at(epoch) for epoch in (0, 1.9, 2, 4, 5, 9)] == pytest.approx(
        [0.01, 0.01, 0.001, 0.001, 0.0005, 0.0005]
    )
    with pytest.raises(ValueError, match="lr must be"):
        StepSchedule(-1.0)
    for step in ({"epoch": 1, "factor": -0.1}, {"epoch": float("nan"), "factor": 1}):
        with pytest.raises(ValueError, match=r"epoch must be|factor must be"):
            LrStep(**step)
    with pytest.raises(ValueError, match=r"of must be one of.*did you mean 'weight'"):
        LrStep(1, 0.1, of="weights")


def test_a_schedule_tells_layers_and_biases_apart() -> None:
    steps = (LrStep(1, 0.1, of="weight"), LrStep(2, 0.5, layers=("conv1",)), LrStep(3, 0, ("conv1",), "bias"))
    schedule = StepSchedule(1.0, steps)
    assert schedule.at(3) == schedule.at(3, "conv2") == pytest.approx(0.1)
    assert schedule.at(3, "conv2", "bias") == 1
    assert [schedule.at(e, "conv1") for e in (0, 1, 2, 3)] == pytest.approx([1, 0.1, 0.05, 0.05])
    assert [schedule.at(e, "conv1", "bias") for e in (0, 1, 2, 3)] == [1, 1, 0.5, 0]


# ---- the networks known by name --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_alexnet() -> Network:
    return Network(nets.build("alexnet"), batch=1, devices="cpu:0")


def test_alexnet_is_the_papers(full_alexnet: Network) -> None:
    description = full_alexnet.describe()
    layers = {layer["name"]: layer for layer in description["layers"]}
    assert description["parameters"] == 60_965_224
    parameters = {name: layer["parameters"] for name, layer in layers.items() if layer["parameters"]}
    assert parameters == {
        "conv1": 34_944,
        "conv2": 307_456,
        "conv3": 885_120,
        "conv4": 663_936,
        "conv5": 442_624,
        "fc6": 37_752_832,
        "fc7": 16_781_312,
        "fc8": 4_097_000,
    }
    shapes = {name: layer["output_shape"][1:] for name, layer in layers.items()}
    assert shapes["conv1"] == [55, 55, 96]
    assert shapes["pool1"] == [27, 27, 96]
    assert shapes["conv2"] == [27, 27, 256]
    assert shapes["pool2"] == [13, 13, 256]
    assert shapes["conv3"] == shapes["conv4"] == [13, 13, 384]
    assert shapes["conv5"] == [13, 13, 256]
    assert shapes["pool5"] == [6, 6, 256]
    assert shapes["fc8"] == shapes["cost"] == [1000]
    assert description["copies"] == []


def test_alexnets_first_weights_are_the_papers(full_alexnet: Network) -> None:
    for name, parameter in full_alexnet.parameters.items():
        value = parameter.host("value")
        if name.endswith(".bias"):
            ones = name in ("conv2.bias", "conv4.bias", "conv5.bias", "fc6.bias", "fc7.bias")
            assert (value == float(ones)).all(), name
        else:
            # 35,000 and more draws: the mean is known to 2e-4 at four standard errors.
            assert abs(value.mean()) < 3e-4, name
            assert value.std() == pytest.approx(0.01, rel=0.02), name


def test_gradients_share_memory(full_alexnet: Network) -> None:
    """Conv1 and pool1 are alive together and largest, since the normalisation between them is fused; all else
    fits beside or into them."""
    tensors = [layer.output for layer in full_alexnet.layers if layer.output.gradient is not None]
    largest = (55 * 55 + 27 * 27) * 96 * 4
    arena = tensors[0].gradient.base
    while arena.base is not None:
        arena = arena.base
    assert largest <= arena.nbytes <= largest + 64 * 4
    assert sum(tensor.count * 4 for tensor in tensors) > 1.5 * arena.nbytes


@pytest.mark.parametrize(
    ("name", "shapes", "parameters"),
    [
        ("lenet", {"pool1": [4, 4, 20], "pool2": [2, 2, 50]}, 520 + 25_050 + 100_500 + 5_010),
        (
            "cifar-quick",
            {"pool1": [16, 16, 32], "pool2": [8, 8, 32], "pool3": [4, 4, 64]},
            2_432 + 25_632 + 51_264 + 65_600 + 650,
        ),
        (
            "cifar-18pct",
            {"rnorm1": [16, 16, 32], "rnorm2": [8, 8, 32], "pool3": [4, 4, 64]},
            2_432 + 25_632 + 51_264 + 10_250,
        ),
    ],
)
def test_shapes(name: str, shapes: dict[str, list[int]], parameters: int) -> None:
    description = Network(nets.build(name), batch=3, devices="cpu:0").describe()
    found = {layer["name"]: layer["output_shape"] for layer in description["layers"]}
    assert {layer: found[layer] for layer in shapes} == {layer: [3, *s] for layer, s in shapes.items()}
    assert description["parameters"] == parameters
    assert json.loads(json.dumps(description)) == description
    header, rows = table(description)
    assert len(rows) == len(description["layers"])
    assert {len(row) for row in rows} == {len(header)}


@pytest.mark.parametrize("image", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (17, 40, 2)])
def test_lenet_adapts_to_its_images(image: tuple[int, int, int]) -> None:
    spec = nets.build("lenet", image_shape=image, classes=5)
    network = Network(spec, batch=2, devices="cpu:0")
    losses = train(network, 1)
    assert spec.stored_shape == image
    assert network.outputs("cost").shape == (2, 5)
    assert np.isfinite(losses).all()


def test_alexnet_crops_seven_eighths() -> None:
    spec = nets.build("alexnet", image_shape=(256, 192, 1), classes=7)
    assert (spec.input.height, spec.input.width, spec.input.channels) == (224, 168, 1)
    assert nets.stored_size("alexnet") == 256
    assert nets.stored_size("lenet") is None


def test_a_network_too_deep_for_its_images_names_the_layer() -> None:
    with pytest.raises(ValueError, match="layer pool5: window_h is 3, larger than the padded image, 1"):
        Network(alexnet.build((32, 32, 3), 10, width=1 / 16), batch=1, devices="cpu:0")


# ---- the graph -------------------------------------------------------------------------------------------


def dense(*layers: LayerSpec) -> NetSpec:
    return dataclasses.replace(BRANCHES, layers=layers)


COST = SoftmaxCostSpec(name="cost", inputs=("fc",))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([FcSpec(name="fc", outputs=4), COST], "layer fc: inputs must not be empty"),
        ([FcSpec(name="fc", outputs=4, inputs=("dato",)), COST], "layer fc: an input.*did you mean 'data'"),
        (
            [
                FcSpec(name="fc", outputs=4, inputs=("data",)),
                SoftmaxCostSpec(name="cost", inputs=("fc", "data")),
            ],
            "layer cost: inputs must be one layer, not 2",
        ),
        (
            [
                conv("c", inputs=("data",)),
                conv("d", inputs=("c", "data"), per_input=({}, {"stride": 2})),
                COST,
            ],
            r"layer d: inputs must give outputs of one shape, not \[7, 6, 4\] from c, \[4, 3, 4\] from data",
        ),
        ([FcSpec(name="fc", outputs=5, inputs=("data",)), COST], "each of the 4 classes, not 5"),
        ([FcSpec(name="fc", outputs=4, inputs=("data",))], "exactly one softmax_cost layer"),
        (
            [
                FcSpec(name="fc", outputs=4, inputs=("data",)),
                FcSpec(name="x", outputs=1, inputs=("fc",)),
                COST,
            ],
            "layer x: no layer reads it",
        ),
        (
            [
                FcSpec(name="fc", outputs=4, inputs=("data",)),
                FcSpec(name="fc", outputs=4, inputs=("fc",)),
                COST,
            ],
            "layer fc: two layers have this name",
        ),
        (
            [FcSpec(name="a", outputs=3, inputs=("data",)), SumSpec(name="fc", inputs=("a", "data")), COST],
            "layer fc: inputs must have one shape",
        ),
        (
            [conv("c", 4, groups=3, inputs=("data",)), FcSpec(name="fc", outputs=4, inputs=("c",)), COST],
            r"layer c: groups \(3\) must divide c \(2\)",
        ),
    ],
)
def test_a_graph_that_makes_no_sense_is_refused(layers: list[LayerSpec], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Network(dense(*layers), batch=2, devices="cpu:0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"seed": -1}, "seed must be"),
        ({"precision": "fp8"}, "precision must be one of fp32, tf32, bf16, not 'fp8'"),
        ({"devices": []}, "devices must not be empty"),
        ({"towers": 0}, "towers must be at least as many as the 1 devices, not 0"),
        ({"devices": "gpu:0"}, "device must be"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Network(BRANCHES, **{"batch": 2, "devices": "cpu:0", **arguments})


def test_first_weights_depend_on_name_and_seed_alone(device: Device) -> None:
    alone = Network(net_of(conv("b")), batch=2, devices="cpu:0").state()
    between = net_of(conv("a"), conv("c", 2), conv("b", inputs=("data",), device=0))
    # Nothing reads a and c but their likes: join them, so that the graph is whole.
    layers = [*between.layers[:3], SumSpec(name="ab", inputs=("a", "b")), *between.layers[3:]]
    layers = [
        dataclasses.replace(layer, inputs=("ab",)) if layer.name == "last" else layer
        for layer in layers
        if layer.name != "c"
    ]
    joined = Network(dataclasses.replace(between, layers=tuple(layers)), batch=3, devices=device).state()
    assert alone["b.weight"].tobytes() == joined["b.weight"].tobytes()
    assert alone["b.weight"].tobytes() != joined["a.weight"].tobytes()
    other = Network(net_of(conv("b")), batch=2, devices="cpu:0", seed=1).state()
    assert alone["b.weight"].tobytes() != other["b.weight"].tobytes()


# ---- memory ----------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 20), st.integers(0, 6)), max_size=30))
def test_planned_memory_never_overlaps(drawn: list[tuple[int, int, int]]) -> None:
    slots = [Slot(count, first, first + life) for count, first, life in drawn]
    total = plan_memory(slots)
    for index, a in enumerate(slots):
        assert 0 <= a.offset <= total - a.count
        assert a.offset % 64 == 0
        for b in slots[:index]:
            same_time = a.first <= b.last and b.first <= a.last
            same_place = a.offset < b.offset + b.count and b.offset < a.offset + a.count
            assert not (same_time and same_place)


def test_slots_that_never_meet_lie_on_each_other() -> None:
    assert plan_memory([Slot(100, 0, 1), Slot(90, 2, 3), Slot(80, 4, 4)]) == 100


def test_a_step_allocates_no_array() -> None:
    """Measured on the emulator: NumPy reports its arrays to tracemalloc, kernels take none of its memory."""
    spec = small_spec("cifar-18pct")
    network = Network(spec, batch=2, devices="emulator:0")
    network.load(**batch_of(spec, 2))
    network.forward(train=True, step=0)
    network.backward()
    network.update(0.1, 0.9)
    tracemalloc.start()
    try:
        network.forward(train=True, step=1)
        network.backward()
        network.update(0.1, 0.9)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    smallest = min(layer.output.array.nbytes for layer in network.layers if layer.type == "conv")
    assert peak < smallest / 2


def test_memory_is_counted(device: Device) -> None:
    network = Network(net_of(conv("c")), batch=2, devices=device)
    n, stored, image = 2, 9 * 9 * 2, 7 * 6 * 2
    arrays = n * (stored + 9) + 4 * (
        stored + n * 2 + n * image
    )  # images, top, left, mirror, mean, shift, data
    arrays += 4 * n * (7 * 6 * 4 + CLASSES + CLASSES) + 12 * n  # activations; labels, losses, ranks
    arrays += 3 * 4 * (4 * 3 * 3 * 2 + 4 + 168 * CLASSES + CLASSES)  # value, gradient, velocity
    gradients = 4 * (n * 168 + n * CLASSES)
    found = network.describe()["memory_bytes"]
    assert found == sum(network.memory.values())
    workspace = max(layer.workspace_bytes() for layer in network.layers)
    assert arrays + gradients <= found <= arrays + gradients + 64 * 4 + workspace


# ---- steps -----------------------------------------------------------------------------------------------


def test_training_lowers_the_loss(device: Device) -> None:
    spec = nets.build("lenet")
    network = Network(spec, batch=8, devices=device)
    network.load(**batch_of(spec, 8))
    losses = []
    for step in range(12):
        network.forward(train=True, step=step)
        network.backward()
        network.update(0.02, 0.9)
        losses.append(network.result().loss)
    assert losses[-1] < 0.5 * losses[0]


def test_a_second_run_is_bitwise_the_first(device: Device) -> None:
    one, other = (Network(BRANCHES, batch=4, devices=device, seed=3) for _ in range(2))
    assert train(one, 3) == train(other, 3)
    assert_equal(one.state(), other.state())
    third = Network(BRANCHES, batch=4, devices=device, seed=4)
    train(third, 3)
    assert third.state()["trunk.weight"].tobytes() != one.state()["trunk.weight"].tobytes()


def test_the_loss_is_that_of_the_probabilities(device: Device) -> None:
    network = Network(BRANCHES, batch=4, devices=device)
    batch = batch_of(BRANCHES, 4)
    network.load(**batch)
    network.forward(train=False)
    result = network.result()
    p = network.outputs("cost").astype(np.float64)
    own = p[np.arange(4), batch["labels"]]
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(result.losses, -np.log(own), rtol=1e-5)
    assert result.loss == pytest.approx(-np.log(own).mean(), rel=1e-5)
    assert (result.rank == (p > own[:, None]).sum(axis=1)).all()
    assert (result.correct == (p.argmax(axis=1) == batch["labels"])).all()
    assert result.count == 4


def test_a_short_batch_counts_its_own_images_only(device: Device) -> None:
    """It equals a network of that batch size, and what the batch before left behind does not matter."""
    batch = batch_of(BRANCHES, 3, seed=5)
    found = []
    for size in (3, 8):
        network = Network(BRANCHES, batch=size, devices=device)
        network.load(**batch_of(BRANCHES, size, seed=6))
        network.forward(train=True, step=7)
        network.load(**batch)
        network.forward(train=True, step=7)
        network.backward()
        found.append((network.result(), gradients(network)))
    (small, right), (large, given_) = found
    assert large.count == 3
    np.testing.assert_allclose(large.losses, small.losses, rtol=1e-5)
    assert (large.rank == small.rank).all()
    for name, gradient in right.items():
        size = np.linalg.norm(gradient)
        assert size > 0
        assert np.linalg.norm(given_[name] - gradient) <= 1e-5 * size, name


def test_crop_mirror_mean_and_shift_reach_the_first_layer(device: Device) -> None:
    network = Network(BRANCHES, batch=4, devices=device)
    batch = batch_of(BRANCHES, 4)
    mean = np.random.default_rng(1).uniform(0, 255, BRANCHES.stored_shape).astype(np.float32)
    network.set_mean(mean)
    network.load(**batch)
    network.forward(train=False)
    height, width = BRANCHES.input.height, BRANCHES.input.width
    for n, row in enumerate(network.outputs("data")):
        top, left = batch["top"][n], batch["left"][n]
        window = np.s_[top : top + height, left : left + width]
        pixels = batch["images"][n][window] - mean[window].astype(np.float64)
        pixels = pixels[:, ::-1] if batch["mirror"][n] else pixels
        expected = (pixels + batch["shift"][n]) * BRANCHES.input.scale
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-4)
    # Without offsets the crop is in the middle.
    network.set_mean(None)
    network.load(batch["images"], batch["labels"])
    network.forward(train=False)
    middle = batch["images"][:, 1:8, 1:7] * BRANCHES.input.scale
    np.testing.assert_allclose(network.outputs("data"), middle, rtol=1e-6)


@pytest.mark.parametrize("inverted", [False, True])
def test_dropout(device: Device, inverted: bool) -> None:
    spec = net_of(DropoutSpec(name="drop", keep=0.25, inverted=inverted), image=(16, 16, 3), stored=(16, 16))
    network = Network(spec, batch=4, devices=device)
    network.load(**batch_of(spec, 4))

    def run(train: bool, step: int) -> tuple[Any, Any]:
        network.forward(train=train, step=step)
        return network.outputs("data"), network.outputs("drop")

    x, y = run(True, 0)
    kept = y != 0
    # 3,072 draws: the share kept is 0.25 +- 0.04 at five standard errors.
    assert abs(kept.mean() - 0.25) < 0.04
    np.testing.assert_array_equal(y[kept], x[kept] * np.float32(4 if inverted else 1))
    assert (run(True, 0)[1] == y).all()
    assert ((run(True, 1)[1] != 0) != kept).any()
    x, y = run(False, 0)
    np.testing.assert_array_equal(y, x * np.float32(1 if inverted else 0.25))


def test_the_update_is_the_papers(device: Device) -> None:
    spec = net_of(
        conv("c", lr_scale=0.5, weight_decay=0.1, bias_lr_scale=3.0),
        conv("frozen", lr_scale=0, bias_lr_scale=0),
    )
    network = Network(spec, batch=2, devices=device)
    train(network, 2)
    before, gradient = network.state(), {}
    network.load(**batch_of(spec, 2, seed=9))
    network.forward(train=True)
    network.backward()
    gradient = gradients(network)
    network.update(0.2, 0.8)
    after = network.state()
    for name, lr, decay in (("c.weight", 0.1, 0.1), ("c.bias", 0.6, 0.0), ("last.weight", 0.2, 0.0)):
        w, v = before[name].astype(np.float64), before[f"{name}.velocity"]
        velocity = 0.8 * v - lr * (gradient[name] + decay * w)
        np.testing.assert_allclose(after[f"{name}.velocity"], velocity, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(after[name], w + velocity, rtol=1e-5, atol=1e-7)
        assert np.abs(after[name] - before[name]).max() > 0
    for name in ("frozen.weight", "frozen.bias"):
        assert np.abs(gradient[name]).max() > 0
        assert after[name].tobytes() == before[name].tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 9, 9, 2), np.float32)}, "images must be uint8.n, 9, 9, 2., not float32"),
        ({"images": np.zeros((2, 9, 9, 3), np.uint8)}, "images must be uint8"),
        ({"images": np.zeros((5, 9, 9, 2), np.uint8)}, "images must be from 1 to 4 in number, not 5"),
        ({"images": np.zeros((0, 9, 9, 2), np.uint8)}, "images must be from 1 to 4 in number, not 0"),
        ({"labels": np.zeros(3, np.int32)}, "labels must be integers.2."),
        ({"labels": np.zeros(2)}, "labels must be integers"),
        ({"labels": np.array([0, 4])}, "labels must be from 0 to 3, not from 0 to 4"),
        ({"labels": np.array([-1, 0])}, "labels must be from 0 to 3, not from -1 to 0"),
        ({"top": np.array([0, 3])}, "top must be from 0 to 2, not from 0 to 3"),
        ({"left": np.array([0.0, 1.0])}, "left must be integers.2."),
        ({"mirror": np.zeros((2, 1), bool)}, "mirror must be integers.2."),
        ({"shift": np.zeros((2, 3))}, "shift must be floats.2, 2."),
    ],
)
def test_a_wrong_batch_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    network = Network(BRANCHES, batch=4, devices="cpu:0")
    with pytest.raises(ValueError, match=message):
        network.load(**{**batch_of(BRANCHES, 2), **change})


def test_a_step_without_a_batch_is_refused() -> None:
    network = Network(BRANCHES, batch=4, devices="cpu:0")
    for step in (lambda: network.forward(train=True), network.backward, network.result):
        with pytest.raises(RuntimeError, match="load"):
            step()
    with pytest.raises(ValueError, match="mean must have the shape"):
        network.set_mean(np.zeros((7, 6, 2), np.float32))
    with pytest.raises(ValueError, match="did you mean 'trunk'"):
        network.outputs("trunc")


# ---- several devices -------------------------------------------------------------------------------------


def placed(*first: str) -> NetSpec:
    """BRANCHES with these layers on the first device and all others on the second."""
    layers = [dataclasses.replace(layer, device=int(layer.name not in first)) for layer in BRANCHES.layers]
    return dataclasses.replace(BRANCHES, layers=tuple(layers))


# `left` and `right` share one copy of the trunk.
SPLIT = placed("trunk", "sum")


def two_devices(device: Device) -> list[Device]:
    try:
        return [device, get_device(f"{device.kind}:1")]
    except DeviceUnavailable as error:
        pytest.skip(str(error))


def test_two_devices_are_bitwise_one(device: Device) -> None:
    pair = two_devices(device)
    spec = placed("trunk", "right", "sum", "drop")
    one = Network(BRANCHES, batch=4, devices=device)
    two = Network(spec, batch=4, devices=pair)
    assert train(one, 3) == train(two, 3)
    assert_equal(one.state(), two.state())
    assert {layer["device"] for layer in two.describe()["layers"]} == {d.name for d in pair}
    assert two.describe()["device"] == f"{pair[0].name},{pair[1].name}"
    assert len(two.describe()["copies"]) == 5


def test_on_one_device_everything_is_there(device: Device) -> None:
    one = Network(SPLIT, batch=4, devices=device)
    assert {layer["device"] for layer in one.describe()["layers"]} == {device.name}
    assert one.describe()["copies"] == []
    assert train(one, 2) == train(Network(BRANCHES, batch=4, devices=device), 2)


def test_a_layer_lives_where_its_first_input_does(device: Device) -> None:
    pair = two_devices(device)
    layers = [
        dataclasses.replace(layer, device={"trunk": 0, "right": 1, "pool": "cpu:1"}.get(layer.name))
        for layer in BRANCHES.layers
    ]
    layers[5] = dataclasses.replace(layers[5], device=pair[1].name)  # pool, by its name
    spec = dataclasses.replace(BRANCHES, layers=tuple(layers))
    places = {
        layer["name"]: layer["device"] for layer in Network(spec, batch=2, devices=pair).describe()["layers"]
    }
    first, second = pair[0].name, pair[1].name
    assert [places[name] for name in ("trunk", "left", "right", "sum", "norm")] == [
        first,
        first,
        second,
        first,
        first,
    ]
    assert {places[name] for name in ("pool", "soft", "drop", "hidden", "last", "cost")} == {second}


@pytest.mark.parametrize(
    ("places", "devices", "message"),
    [
        ({}, ["cpu:0", "cpu:0"], "device cpu:0 is given twice; cpu:1 would be another one"),
        ({}, ["cpu:0", "emulator:0"], "devices must be of one kind: emulator:0 is no cpu device like cpu:0"),
        ({}, ["cpu:0", "cpu:1"], "no layer of test lives on cpu:1; place one there or leave it out"),
        (
            {"left": 2},
            ["cpu:0", "cpu:1"],
            "layer left: device must be below the number of devices given, 2, not 2",
        ),
        ({"left": -1}, ["cpu:0", "cpu:1"], "layer left: device must be below the number of devices given"),
        (
            {"left": "cpu:2"},
            ["cpu:0", "cpu:1"],
            "layer left: device must be one of the network's, cpu:0, cpu:1, not cpu:2",
        ),
        (
            {"left": "gpu"},
            ["cpu:0", "cpu:1"],
            "layer left: device must be cuda:N, cpu:N or emulator:N, not 'gpu'",
        ),
    ],
)
def test_wrong_places_are_refused(places: dict[str, Any], devices: list[str], message: str) -> None:
    layers = tuple(dataclasses.replace(layer, device=places.get(layer.name)) for layer in BRANCHES.layers)
    with pytest.raises(ValueError, match=message):
        Network(dataclasses.replace(BRANCHES, layers=layers), batch=2, devices=devices)


def test_an_absent_second_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceUnavailable, match="cuda"):
        Network(alexnet.build((76, 76, 3), 10, width=1 / 16), batch=2, devices=["cuda:0", "cuda:99"])


def test_gradients_of_readers_are_summed_on_their_device_first(device: Device) -> None:
    """Of three readers two share a copy, so the sum is rounded in another order: close, and repeatable."""
    one = Network(BRANCHES, batch=4, devices=device)
    two, again = (Network(SPLIT, batch=4, devices=two_devices(device)) for _ in range(2))
    losses = train(two, 3)
    assert losses == train(again, 3)
    assert_equal(two.state(), again.state())
    assert losses == pytest.approx(train(one, 3), rel=1e-5)


def test_copies_are_listed_and_counted(device: Device) -> None:
    first, second = (d.name for d in two_devices(device))
    network = Network(SPLIT, batch=4, devices=[first, second])
    image = 4 * 7 * 6 * 6 * 4  # images x height x width x channels x bytes
    copies = network.describe()["copies"]
    assert [(c["layer"], c["source"], c["from"], c["to"], c["bytes"]) for c in copies] == [
        ("left", "trunk", first, second, image),
        ("sum", "left", second, first, image),
        ("sum", "right", second, first, image),
        ("norm", "sum", first, second, image),
    ]
    listed = sum(copy["bytes"] for copy in copies)
    network.load(**batch_of(SPLIT, 4))
    network.forward(train=True)
    assert network.copied_bytes == listed
    network.backward()
    assert network.copied_bytes == 2 * listed == network.describe()["copied_bytes_per_step"]
    assert network.copy_seconds > 0


def test_images_reach_every_device_that_reads_them_without_a_copy(device: Device) -> None:
    pair = two_devices(device)
    spec = net_of(
        conv("here"),
        conv("there", inputs=("data",), device=1),
        SumSpec(name="both", inputs=("here", "there")),
    )
    network = Network(spec, batch=2, devices=pair)
    assert [copy["source"] for copy in network.describe()["copies"]] == ["there"]
    plain = Network(spec, batch=2, devices=device)
    network.set_mean(np.ones(spec.stored_shape, np.float32))
    plain.set_mean(np.ones(spec.stored_shape, np.float32))
    assert train(network, 2) == train(plain, 2)
    assert_equal(network.state(), plain.state())


# ---- two towers ------------------------------------------------------------------------------------------

TOWERS = {
    name: build(image_shape=(76, 76, 3), classes=10, width=1 / 16)
    for name, build in (("alexnet", alexnet.build), ("alexnet-2012", alexnet_2012.build))
}
STEPS = 20


def steps_of(spec: NetSpec, devices: Any, steps: int) -> dict[str, np.ndarray[Any, Any]]:
    """The state after some steps with dropout, crops and mirror images."""
    network = Network(spec, batch=4, devices=devices, seed=5)
    train(network, steps)
    return network.state()


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Of all tensors, relative to the largest element of each."""
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max() / np.abs(one[name]).max()) for name in one)


@pytest.mark.parametrize("name", TOWERS)
def test_two_towers_compute_what_two_groups_compute(name: str) -> None:
    """In float64, where rounding cannot hide a difference: not one term is missing or standing elsewhere."""
    one = steps_of(TOWERS[name], "reference:0", 3)
    two = steps_of(TOWERS[name], ["reference:0", "reference:1"], 3)
    assert largest_difference(one, two) < 1e-13


@pytest.mark.parametrize("name", TOWERS)
def test_two_towers_are_two_groups_to_rounding(device: Device, name: str) -> None:
    """Conv3, fc6, fc7 and fc8 sum over the channels of both towers: in one sum where these lie on one device,
    in two, one per weight matrix, where they lie on two. So rounding differs there, and then everywhere."""
    pair = two_devices(device)
    one, two = steps_of(TOWERS[name], device, STEPS), steps_of(TOWERS[name], pair, STEPS)
    # 4e-7 and 6e-7 were found; a value that rounding carries over a kink would add more.
    assert largest_difference(one, two) < 2e-5
    assert max(abs(value).max() for value in two.values()) > 0
    again = steps_of(TOWERS[name], pair, STEPS)
    assert_equal(two, again)


@pytest.mark.parametrize("name", TOWERS)
def test_two_towers_on_one_device_are_bitwise_those_on_two(device: Device, name: str) -> None:
    """The same towers with the same sums; only the copies are not needed."""
    pair = two_devices(device)
    one = Network(TOWERS[name], batch=4, devices=device, towers=2, seed=5)
    train(one, STEPS)
    assert one.describe()["copies"] == [] and one.copied_bytes == 0
    assert_equal(one.state(), steps_of(TOWERS[name], pair, STEPS))


def test_towers_of_their_own_are_bitwise_the_same_on_one_device_and_on_two(device: Device) -> None:
    """Where the towers are layers of their own, every sum has the same terms in the same order."""
    pair = two_devices(device)
    spec = net_of(
        conv("a1", inputs=("data",), device=0, neuron=RELU),
        conv("b1", inputs=("data",), device=1, neuron=RELU),
        conv("a2", inputs=("a1", "b1"), device=0, neuron=RELU, per_input=({"init": gaussian(0.2)}, {})),
        conv("b2", inputs=("b1", "a1"), device=1, neuron=RELU),
        DropoutSpec(name="da", inputs=("a2",)),
        DropoutSpec(name="db", inputs=("b2",)),
        FcSpec(name="a3", inputs=("da", "db"), outputs=6, device=0, neuron=Neuron("tanh")),
        FcSpec(name="b3", inputs=("db", "da"), outputs=6, device=1, bias=None, neuron=RELU),
        FcSpec(name="both", inputs=("a3", "b3"), outputs=5, device=0),
    )
    one, two = Network(spec, batch=4, devices=device), Network(spec, batch=4, devices=pair)
    assert train(one, STEPS) == train(two, STEPS)
    assert_equal(one.state(), two.state())
    assert {"a2.weight.0", "a2.weight.1", "a3.weight.0"} <= set(two.parameters)


@pytest.mark.parametrize("name", TOWERS)
def test_copies_go_into_conv3_and_the_fc_layers_and_nowhere_else(name: str) -> None:
    spec = TOWERS[name]
    network = Network(spec, batch=8, devices=["cpu:0", "cpu:1"])
    description = network.describe()
    sizes = {layer["name"]: 8 * int(np.prod(layer["output_shape"][1:])) for layer in description["layers"]}
    half = {
        source: 4 * sizes[source] // 2
        for source in ("pool2", "pool5", "relu5", "dropout6", "dropout7")
        if source in sizes
    }
    into_fc6 = "relu5" if name == "alexnet-2012" else "pool5"
    assert sorted(
        (c["layer"], c["source"], c["from"], c["to"], c["bytes"]) for c in description["copies"]
    ) == sorted(
        (layer, source, f"cpu:{a}", f"cpu:{1 - a}", half[source])
        for layer, source, sides in (
            ("conv3", "pool2", (0, 1)),
            ("fc6", into_fc6, (0, 1)),
            ("fc7", "dropout6", (0, 1)),
            ("fc8", "dropout7", (1,)),
        )
        for a in sides
    )
    train(network, 3, n=8)
    assert (
        network.copied_bytes
        == 3 * description["copied_bytes_per_step"]
        == 6 * sum(c["bytes"] for c in description["copies"])
    )
    one = Network(spec, batch=8, devices="cpu:0").describe()
    assert one["copies"] == [] and one["parameters"] == description["parameters"]
    assert [layer["output_shape"] for layer in one["layers"]] == [
        layer["output_shape"] for layer in description["layers"]
    ]
    assert {layer["name"]: layer["device"] for layer in description["layers"]}["fc8"] == "cpu:0"


def test_a_state_moves_between_one_device_and_two(device: Device) -> None:
    pair, spec = two_devices(device), TOWERS["alexnet-2012"]
    two = Network(spec, batch=4, devices=pair)
    train(two, 1)
    state = two.state()
    one = Network(spec, batch=4, devices=device)
    one.load_state(state)
    assert_equal(one.state(), state)
    back = Network(spec, batch=4, devices=pair)
    back.load_state(one.state())
    assert_equal(back.state(), state)
    assert train(back, 2) == train(two, 2)
    assert_equal(back.state(), two.state())


def test_gradients_of_two_towers(device: Device) -> None:
    spec = TOWERS["alexnet-2012"]
    report = gradcheck(spec, two_devices(device), batch=2, samples=1)
    assert report.ok, report.failures
    assert f"{device.kind}:0,{device.kind}:1" in {check.against for check in report.checks}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv2": {"groups": 1}}, None),
        (
            {"conv2": {"groups": 3, "filters": 18}},
            r"layer conv2: groups \(3\) cannot be split over 2 devices",
        ),
        ({"conv1": {"filters": 7}}, r"layer conv1: filters \(7\) cannot be split over 2 devices"),
        ({"lrn1": {"groups": 1}}, r"layer lrn1: groups \(1\) cannot be split over 2 devices"),
        ({"pool1": {"split": False}}, "layer pool1: it is not split over devices, but its input lrn1 is"),
        ({"fc6": {"split": False}}, "layer dropout6: it is split over devices, but its input fc6 is not"),
        (
            {"pool5": {"device": 0}},
            "layer pool5: a layer that is split lives on all devices; leave out device 0",
        ),
        ({"cost": {"split": True}}, "layer cost: it is split over devices, but its input fc8 is not"),
        ({"fc7": {"norm_limit": 1.0}}, "layer fc7: norm_limit cannot be kept"),
    ],
)
def test_what_cannot_be_split_is_refused(change: dict[str, dict[str, Any]], message: str | None) -> None:
    spec = alexnet.build((76, 76, 3), 10, width=1 / 8)
    layers = tuple(dataclasses.replace(layer, **change.get(layer.name, {})) for layer in spec.layers)
    spec = dataclasses.replace(spec, layers=layers)
    if message is None:
        copies = Network(spec, batch=2, devices=["cpu:0", "cpu:1"]).describe()["copies"]
        assert [copy["layer"] for copy in copies][:2] == ["conv2", "conv2"]
        return
    with pytest.raises(ValueError, match=message):
        Network(spec, batch=2, devices=["cpu:0", "cpu:1"])


# ---- gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", nets.NAMES)
def test_gradients_of_every_network(name: str) -> None:
    report = gradcheck(small_spec(name), "cpu:0", batch=2)
    assert report.ok, report.failures
    parameters = {check.name for check in report.checks if check.against == FINITE_DIFFERENCES}
    network = Network(small_spec(name), batch=1, devices="cpu:0")
    assert parameters == set(network.parameters)
    activations = {check.name for check in report.checks if check.against == "cpu:0"} - parameters
    assert activations == {layer.name for layer in network.spec.layers}
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True
    header, rows = report.table()
    assert header[1:] == [FINITE_DIFFERENCES, "cpu:0"]
    assert len(rows) == len(parameters) + len(activations)


@pytest.mark.parametrize("spec", [nets.build("lenet"), BRANCHES], ids=lambda spec: spec.name)
def test_gradients_on_every_device(device: Device, spec: NetSpec) -> None:
    report = gradcheck(spec, device, batch=3, seed=1)
    assert report.ok, report.failures


def test_gradients_across_two_devices(device: Device) -> None:
    report = gradcheck(SPLIT, two_devices(device))
    assert report.ok, report.failures


@pytest.mark.parametrize("kind", NEURONS)
@pytest.mark.parametrize("where", ["in conv", "own layer"])
def test_gradients_of_every_neuron(kind: str, where: str) -> None:
    neuron = Neuron(kind, 0.8, 0.3)
    # The root needs positive values and a slope that is not too steep.
    before = conv("c", neuron=Neuron("softrelu")) if kind == "sqrt" else conv("c")
    spec = net_of(before, NeuronSpec(name="f", neuron=neuron))
    if where == "in conv" and kind != "sqrt":
        spec = net_of(conv("c", neuron=neuron))
    report = gradcheck(spec, "cpu:0", batch=3)
    assert report.ok, report.failures


def test_the_costs_coefficient_multiplies_the_gradients() -> None:
    spec = net_of(conv("c"))
    cost = dataclasses.replace(spec.layers[-1], coeff=0.25)
    scaled = dataclasses.replace(spec, layers=(*spec.layers[:-1], cost))
    assert gradcheck(scaled, "cpu:0").ok
    found = []
    for each in (spec, scaled):
        network = Network(each, batch=2, devices="cpu:0")
        network.load(**batch_of(each, 2))
        network.forward(train=True)
        network.backward()
        found.append((network.result().loss, gradients(network)["c.weight"]))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[1][1], 0.25 * found[0][1], rtol=1e-6)


OPERATIONS = [
    "conv_wgrad",
    "conv_dgrad",
    "bias_grad",
    "relu_bias_backward",
    "fc_dgrad",
    "lrn_backward",
    "avgpool_backward",
    "add",
]


def corrupt(monkeypatch: pytest.MonkeyPatch, device: str, operation: str) -> None:
    """Makes an operation of a device wrong in the simplest way: 1% in its last array."""
    module = get_device(device).module
    right = getattr(module, operation)

    def wrong(*arguments: Any, **rest: Any) -> None:
        right(*arguments, **rest)
        outputs = [a for a in arguments if isinstance(a, np.ndarray) and a.dtype != np.uint8]
        outputs[-1] *= 1.01

    monkeypatch.setattr(module, operation, wrong)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("device_name", ["cpu:0", "emulator:0"])
def test_gradcheck_finds_a_wrong_kernel(
    monkeypatch: pytest.MonkeyPatch, device_name: str, operation: str
) -> None:
    corrupt(monkeypatch, device_name, operation)
    report = gradcheck(BRANCHES, device_name)
    assert {check.against for check in report.failures} == {device_name}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_gradcheck_finds_a_wrong_formula(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    corrupt(monkeypatch, "reference:0", operation)
    report = gradcheck(BRANCHES, "cpu:0")
    assert FINITE_DIFFERENCES in {check.against for check in report.failures}


def test_gradcheck_finds_one_wrong_element(monkeypatch: pytest.MonkeyPatch) -> None:
    module = get_device("reference:0").module
    right = module.fc_wgrad

    def wrong(problem: Any, x: Any, dy: Any, dw: Any, *rest: Any, **named: Any) -> None:
        right(problem, x, dy, dw, *rest, **named)
        dw[-1, -1] = dw[-1, -1] * 2 + 0.01

    monkeypatch.setattr(module, "fc_wgrad", wrong)
    report = gradcheck(BRANCHES, "cpu:0")
    assert {"last.weight", "hidden.weight"} <= {
        c.name for c in report.failures if c.against == FINITE_DIFFERENCES
    }


def test_gradcheck_does_not_pass_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    module = get_device("cpu:0").module
    monkeypatch.setattr(module, "bias_grad", lambda problem, dy, db, *rest: db.fill(np.nan))
    report = gradcheck(BRANCHES, "cpu:0")
    assert "left.bias" in {check.name for check in report.failures}


# ---- state -----------------------------------------------------------------------------------------------


def test_training_goes_on_bitwise_from_a_state(device: Device) -> None:
    whole = Network(BRANCHES, batch=4, devices=device)
    train(whole, 2)
    state = whole.state()
    names = {name for p in whole.parameters for name in (p, f"{p}.velocity")}
    assert state.keys() == names
    resumed = Network(BRANCHES, batch=4, devices=device, seed=0)
    resumed.load_state(state)
    assert_equal(resumed.state(), state)
    assert train(resumed, 2) == train(whole, 2)
    assert_equal(resumed.state(), whole.state())
    # The state is a copy: training has not changed it.
    assert state["trunk.weight"].tobytes() != whole.state()["trunk.weight"].tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trunk.bias": None}, "the tensor 'trunk.bias' is missing"),
        ({"trunk.bios": np.zeros(6, np.float32)}, "has no tensor 'trunk.bios'"),
        ({"trunk.bias": np.zeros(7, np.float32)}, r"'trunk.bias' must be float32\[6\], not float32\[7\]"),
        ({"trunk.bias": np.zeros(6)}, r"'trunk.bias' must be float32\[6\], not float64\[6\]"),
    ],
)
def test_a_wrong_state_is_refused_and_nothing_changed(change: dict[str, Any], message: str) -> None:
    network = Network(BRANCHES, batch=4, devices="cpu:0")
    before = network.state()
    state = {name: tensor + 1 for name, tensor in before.items()} | change
    with pytest.raises(ValueError, match=message):
        network.load_state({name: tensor for name, tensor in state.items() if tensor is not None})
    assert_equal(network.state(), before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_bad_layer_is_named(device: Device, value: float) -> None:
    network = Network(BRANCHES, batch=4, devices=device)
    network.load(**batch_of(BRANCHES, 3))
    network.forward(train=True, step=1)
    network.backward()
    assert network.find_bad(backward=True) is None
    state = network.state()
    state["hidden.bias"][0] = value
    state["right.weight"][0] = value
    network.load_state(state)
    network.forward(train=True, step=1)
    bad = network.find_bad()
    assert bad is not None and bad.layer == "right"


# ---- comparing and placing -------------------------------------------------------------------------------


def test_the_originals_differences_are_told() -> None:
    rows = compare(nets.build("alexnet"), nets.build("alexnet-2012"))
    told = {(layer, value): (one, other) for layer, value, one, other in rows}
    assert len(rows) == len(told)
    assert told["conv1", "neuron"] == ("relu", "None")
    assert told["lrn1", "alpha"] == told["lrn2", "alpha"] == ("0.0001", "2e-05")
    assert told["rnorm2", "layer"] == ("-", "lrn after lrn2")
    assert told["relu1", "layer"] == ("-", "neuron after pool1")
    assert told["conv3", "init"] == ("gaussian(0.01)", "gaussian(0.03)")
    assert "x0 conv1" in told["recipe", "steps"][1]
    assert {layer for layer, _ in told} == {
        *("conv1", "lrn1", "relu1", "conv2", "lrn2", "rnorm2", "pool2", "conv3", "conv4", "conv5"),
        *("relu5", "fc6", "input", "recipe"),
    }
    assert told["input", "center_mean"] == ("False", "True")
    assert compare(BRANCHES, BRANCHES) == []
    # Turned around, the same is told of the other side, in an order that fits both.
    back = compare(nets.build("alexnet-2012"), nets.build("alexnet"))
    assert {(layer, value): (b, a) for layer, value, a, b in back} == told


def test_alexnet_2012_has_the_originals_parameters_and_schedule() -> None:
    spec = nets.build("alexnet-2012")
    network = Network(spec, batch=1, devices=["cpu:0", "cpu:1"])
    assert network.describe()["parameters"] == 60_965_224
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for name, parameter in network.parameters.items():
        value = parameter.host("value")
        if parameter.of == "bias":
            assert (value == float(parameter.layer in ones)).all(), name
            assert (parameter.lr_scale, parameter.weight_decay) == (2, 0)
        else:
            sigma = 0.03 if parameter.layer in ("conv3", "conv4", "conv5") else 0.01
            assert value.std() == pytest.approx(sigma, rel=0.02), name
            assert (parameter.lr_scale, parameter.weight_decay) == (1, 0.0005)
    schedule = StepSchedule(spec.recipe.lr, spec.recipe.steps)
    epochs = (0, 24, 25, 51, 67, 72, 79)
    assert [schedule.at(e, "fc6") for e in epochs] == pytest.approx(
        [1e-2, 1e-2, 1e-3, 1e-4, 1e-4, 1e-4, 1e-5]
    )
    assert [schedule.at(e, "conv1") for e in epochs] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4, 1e-5, 0, 0])
    assert [schedule.at(e, "fc6", "bias") for e in epochs] == [0.01] * 7
    assert schedule.at(72, "conv1", "bias") == 0


def test_layers_are_placed_by_name() -> None:
    spec = place(nets.build("lenet"), {"conv2": 1, "fc2": "cpu:0"})
    layers = Network(spec, batch=1, devices=["cpu:0", "cpu:1"]).describe()["layers"]
    assert [layer["device"][-1] for layer in layers] == ["0", "0", "1", "1", "1", "0", "0"]
    with pytest.raises(ValueError, match=r"a layer to place must be one of.*not 'conv3'; did you mean"):
        place(spec, {"conv3": 1})
