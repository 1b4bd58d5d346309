"""Writing of cuda-convnet's configuration files, read back."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.layer_files import layer
from hypothesis import given, settings
from hypothesis import strategies as st

import cconvnet as cc
from cconvnet import nets
from cconvnet.formats.cuda_convnet import ConfigError, read
from cconvnet.formats.cuda_convnet_writer import normal_form, write
from cconvnet.nets import (
    ContrastNormSpec,
    ConvSpec,
    DropoutSpec,
    FcSpec,
    InputSpec,
    LayerSpec,
    LocalSpec,
    LrnSpec,
    MaxSpec,
    NetSpec,
    Neuron,
    NeuronSpec,
    PoolSpec,
    SoftmaxCostSpec,
    SumSpec,
    TrainRecipe,
    chain,
    gaussian,
    lrn_alpha,
)
from cconvnet.nets.shapes import parameters, shapes
from cconvnet.network import Network


def round_trip(spec: NetSpec, folder: Path, towers: int = 2) -> NetSpec:
    """Write a network and read it back for images of the same size."""
    write(spec, folder / "layers.cfg", folder / "layer-params.cfg", towers=towers)
    return read(folder / "layers.cfg", folder / "layer-params.cfg", image_shape=spec.stored_shape)[0]


@pytest.mark.parametrize("name", ["cifar-quick", "cifar-18pct", "cifar-13pct", "cifar-11pct"])
def test_networks_that_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    assert round_trip(nets.build(name), tmp_path) == nets.build(name)


def test_alexnet_is_written_as_two_towers(tmp_path: Path) -> None:
    spec = nets.build("alexnet")
    got = round_trip(spec, tmp_path)
    assert got == normal_form(spec)
    assert sum(parameters(got).values()) == 60_965_224
    assert {layer.device for layer in got.layers if layer.name[-1] == "b"} == {1}
    conv3 = layer(got, "conv3b")
    assert (conv3.inputs, conv3.filters, conv3.groups, conv3.per_input) == (("pool2a", "pool2b"), 192, 1, ())
    assert (layer(got, "conv4b").inputs, layer(got, "conv4b").groups) == (("conv3b",), 1)
    assert layer(got, "fc8").inputs == ("dropout7a", "dropout7b")
    assert round_trip(got, tmp_path) == got


def test_the_files_say_what_a_reader_wants_to_know(tmp_path: Path) -> None:
    spec = nets.build("cifar-11pct")
    write(spec, tmp_path / "layers.cfg", tmp_path / "layer-params.cfg")
    layers, params = ((tmp_path / file).read_text() for file in ("layers.cfg", "layer-params.cfg"))
    assert layers.startswith(
        "# cifar-11pct: layers, for images of 24x24x3, cut out of 32x32\n"
        '# cconvnet: name="cifar-11pct"\n# cconvnet: stored=[32, 32]\n# cconvnet: height=24\n'
    )
    assert "\n# cconvnet: center_mean=true\n\n[data]\n" in layers
    assert params.startswith(
        "# cifar-11pct: parameters, for 520 epochs of batches of 128\n# from epoch 500: epsW times 0.1\n"
    )
    assert '\n# cconvnet: epochs=520\n# cconvnet: steps=[{"epoch": 500, "factor": 0.1, "layers"' in params
    assert "\n[conv1]\ntype=conv\ninputs=data\nchannels=3\nfilters=64\n" in layers
    assert "initW=0.0001\n" in layers and "partialSum=0\n" in layers  # the original asks for a partialSum
    assert "\n[rnorm1]\nscale=0.001\npow=0.75\nminDiv=1\n" in params
    assert "\n[local3]\nepsW=0.001\nepsB=0.002\nmomW=0.9\nmomB=0.9\nwc=0.004\nwball=0\n" in params


def small(*layers: LayerSpec, **changes: Any) -> NetSpec:
    """A network of 9x9 images with these layers before an FC layer and the cost."""
    values = {
        "name": "small",
        "layers": chain(
            *layers, FcSpec(name="last", outputs=3, init=gaussian(0.1)), SoftmaxCostSpec(name="cost")
        ),
        "input": InputSpec(9, 9, 4),
        "stored": (9, 9),
        "classes": 3,
        "recipe": TrainRecipe(batch=2, epochs=1, lr=0.01),
    }
    return NetSpec(**{**values, **changes})


X = cc.image(9, 9).conv(4, 3)
HEADS = X.mean().fc(3).softmax(heads=[X.fc(3).head(0.3)])
CONV: dict[str, Any] = {"name": "c", "filters": 4, "window": 3, "padding": 1, "init": gaussian(0.1)}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (small(LrnSpec(name="n", size=3, groups=2)), r"layer n: groups=2: the files' norms know no groups, "),
        (small(ConvSpec(**CONV | {"window": (3, 5)})), r"layer c: window=3x5: the files know only squares"),
        (small(ConvSpec(**CONV | {"stride": (1, 2)})), r"layer c: stride=1x2: "),
        (small(ConvSpec(**CONV | {"padding": (1, 2)})), r"layer c: padding=1x2: "),
        (small(ConvSpec(**CONV | {"padding": ((0, 1), 1)})), r"layer c: padding=\(\(0, 1\), 1\): the"),
        (small(ConvSpec(**CONV, dilation=2)), r"layer c: dilation=2x2: the files know none"),
        (small(PoolSpec(name="p", pool="avg", count_padding=True)), r"layer p: count_padding=True: the"),
        (small(ConvSpec(**CONV | {"padding": -1})), r"layer c: padding=-1: the files' is not negative"),
        (
            small(ConvSpec(**CONV | {"stride": 3, "window": 4})),
            r"layer c: rounding='floor': windows of 4 in steps of 3 do not fill 9 \+ 2 x 1, and the ",
        ),
        (small(ConvSpec(**CONV, neuron=Neuron("silu"))), r"layer c: neuron=silu: the files have no such neu"),
        (small(ConvSpec(**CONV, bias=None)), r"layer c: bias=None: "),
        (small(ConvSpec(**CONV, bias_weight_decay=0.5)), r"layer c: bias_weight_decay=0.5: "),
        (small(ConvSpec(**CONV, device="cpu:1")), r"layer c: device='cpu:1': the files number devices "),
        (small(ConvSpec(**CONV | {"name": "a b"})), r"layer a b: its name cannot be a section's"),
        (small(ConvSpec(**CONV | {"name": "a,b"})), r"layer a,b: its name cannot be a section's"),
        (small(PoolSpec(name="p", window=(3, 2))), r"layer p: window=3x2: "),
        (small(PoolSpec(name="p", window=2, stride=3)), r"layer p: stride=3: the files' is at most the win"),
        (small(PoolSpec(name="p", window=10, padding=1)), r"layer p: window=10: the files' is at most the i"),
        (small(PoolSpec(name="p", outputs=(3, 4))), r"layer p: outputs=3x4: the files know only squares"),
        (small(LrnSpec(name="n", size=5)), r"layer n: size=5: the files' is at most 4 here"),
        (small(ContrastNormSpec(name="n", size=10)), r"layer n: size=10: the files' is at most 9 here"),
        (small(DropoutSpec(name="d", inverted=True)), r"layer d: inverted=True: "),
        (small(ConvSpec(**CONV | {"name": "probs"})), r"layer cost: softmax='probs' is the name of an"),
        (small(ConvSpec(**CONV, split=True), PoolSpec(name="p")), r"small: layer p: reads layers that are"),
        (HEADS, r"layer cost1: is a head, in training only: the files run every cost in tests too"),
        (cc.image(9, 9).fc(3).features(), r"layer fc1: is the end of a network without a cost: the files"),
        (X.mean().fc(3).l2(), r"layer cost: the files know no l2_cost"),
        (X.softmax(per_pixel=True), r"layer cost: per_pixel=True: the files' labels are those of images"),
        (X.fc(3).softmax(ignore=0), r"layer cost: ignore=0: the files' costs ignore no label"),
        (X.fc(3).softmax(smoothing=0.1), r"layer cost: smoothing=0.1: the files' costs smooth no labels"),
        (small(PoolSpec(name="p", window=12)), r"small: layer p: its window is larger than the padded image"),
    ],
)  # fmt: skip
def test_what_the_files_cannot_say(spec: NetSpec, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        write(spec, tmp_path / "layers.cfg", tmp_path / "layer-params.cfg")
    assert not list(tmp_path.iterdir())


# Networks of other programs, and the first thing that cuda-convnet's files cannot say of each.
CANNOT = {
    **dict.fromkeys(("overfeat-fast", "overfeat-accurate"), "layer dropout1: inverted=True"),
    **dict.fromkeys(("vgg11", "vgg13", "vgg16", "vgg19", "nin-cifar"), "layer dropout1: inverted=True"),
    "googlenet": "layer cost1: is a head",
    "lenet-5": "layer select1: the files deal channels out at random",
    "alexnet-owt": "layer conv1: bias_weight_decay=0.0001",
    "caffenet": "layer drop6: inverted=True",
    "zfnet": "layer conv1: rounding='floor'",
    "nin": "layer conv1: rounding='floor'",
    **dict.fromkeys(("fcn32s", "fcn16s", "fcn8s"), "layer cost: per_pixel=True"),
    "vgg16-bn": "layer conv1_1_bn: the files have no batch normalisation",
    "googlenet-bn": "layer cost1: is a head",
    **dict.fromkeys(
        (f"resnet{depth}" for depth in (18, 20, 32, 34, 44, 50, 56, 101, 110, 152)),
        "layer conv1: (rounding|bias=None)",
    ),
    "squeezenet-1.0": "layer dropout1: inverted=True",
    "squeezenet-1.1": "layer conv1: rounding='floor'",
    "efficientnet-lite0": "layer stem: bias=None",
}


@pytest.mark.parametrize("name", CANNOT)
def test_a_network_of_another_program_is_refused_by_layer(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{CANNOT[name]}"):
        write(nets.build(name), tmp_path / "layers.cfg", tmp_path / "layer-params.cfg")


@pytest.mark.parametrize("name", [name for name in nets.NAMES if name not in CANNOT])
def test_every_other_built_in_network_can_be_written(name: str, tmp_path: Path) -> None:
    spec = nets.build(name)
    got, normal = round_trip(spec, tmp_path), normal_form(spec)
    # The reader was given the recipe of the network whose layers are not yet towers.
    assert dataclasses.replace(got, recipe=normal.recipe) == normal
    assert sum(parameters(got).values()) == sum(parameters(spec).values())


def test_one_tower_cannot_say_the_groups_of_a_norm(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^layer lrn1: groups=2: the files' norms know no groups"):
        write(nets.build("alexnet"), tmp_path / "a.cfg", tmp_path / "b.cfg", towers=1)


def test_scaled_pixels_are_a_layer_that_scales(tmp_path: Path) -> None:
    spec = nets.build("lenet")
    got = round_trip(spec, tmp_path)
    assert got.input.scale == 1
    assert layer(got, "scaled") == NeuronSpec(
        name="scaled", inputs=("data",), neuron=Neuron("linear", 1 / 255)
    )
    assert layer(got, "conv1").inputs == ("scaled",)
    images = np.random.default_rng(0).integers(0, 256, (8, *spec.stored_shape), np.uint8)
    losses = []
    for one in (spec, got):
        network = Network(one, batch=8, devices="cpu:0")
        network.load(images, np.arange(8))
        network.forward(train=False)
        losses.append(network.result().loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_network_with_branches_is_written(tmp_path: Path) -> None:
    x = cc.image(16, 16).conv(8, 3, pad=1).relu()
    y = cc.maximum(x, x.conv(8, 3, pad=1).tanh())
    z = cc.concat(x, y).avgpool(2)
    z = cc.add(z, z.conv(16, 1), coeffs=(1.0, 0.5)).dropout(0.3).contrast_norm(3).lrn(3)
    z = z.lrn(3, region="same_map").blur(3, 1.0).local(8, 3, pad=1).brelu(6).mean()
    spec = z.fc(10).softmax("all")
    got = round_trip(spec, tmp_path)
    assert got == normal_form(spec)
    assert [layer.name for layer in got.layers] == ["scaled", *(layer.name for layer in spec.layers)]


def test_what_is_put_in_other_words(tmp_path: Path) -> None:
    """The network stays the same; the spec of the files' words is not the one that was given."""
    spec = small(
        ConvSpec(**CONV | {"init": dataclasses.replace(CONV["init"], kind="he")}, lr_scale=0.5, momentum=0.3),
        PoolSpec(name="p", window=2, stride=2),  # 4 windows of the 9 pixels; rounded up they would be 5
        recipe=TrainRecipe(batch=2, epochs=1, lr=0.01, momentum=0.9),
    )
    got = round_trip(spec, tmp_path)
    assert got == normal_form(spec)
    assert shapes(got) == shapes(spec)
    conv, last = layer(got, "c"), layer(got, "last")
    assert conv.init == gaussian((2 / (3 * 3 * 4)) ** 0.5)
    assert (got.recipe.lr, got.recipe.momentum) == (0.005, 0.3)
    assert (conv.lr_scale, conv.bias_lr_scale, conv.momentum, conv.bias_momentum) == (1.0, 4.0, None, 0.9)
    assert (last.lr_scale, last.bias_lr_scale, last.momentum, last.bias_momentum) == (2.0, 4.0, 0.9, 0.9)
    assert (layer(got, "p").rounding, layer(got, "p").outputs) == ("ceil", (4, 4))


def test_labels_take_a_free_name(tmp_path: Path) -> None:
    spec = small(ConvSpec(**CONV | {"name": "labels", "rounding": "ceil"}))
    assert round_trip(spec, tmp_path) == spec
    assert "[labels.1]\ntype=data\ndataIdx=1\n" in (tmp_path / "layers.cfg").read_text()


decimals = st.integers(0, 10**6).map(lambda number: number / 1000)
factors = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 3.0, 10.0])
neurons = st.one_of(
    st.none(),
    st.sampled_from(["relu", "logistic", "abs", "softrelu", "square", "sqrt"]).map(Neuron),
    st.builds(Neuron, st.sampled_from(["tanh", "linear"]), decimals, decimals),
    st.builds(Neuron, st.just("brelu"), decimals),
)
each_input = st.fixed_dictionaries(
    {},
    optional={
        "init": st.builds(gaussian, decimals),
        "lr_scale": factors,
        "weight_decay": decimals,
        "momentum": st.one_of(st.none(), decimals),
        "norm_limit": decimals,
    },
)


@st.composite
def networks(draw: st.DrawFn) -> NetSpec:
    """Layers of all types; a layer reads any one before it, some read two."""
    layers: list[LayerSpec] = []
    whole = ["data"]  # the layers of 9x9x4
    for index in range(draw(st.integers(1, 8))):
        kinds = ["conv", "local", "pool", "lrn", "rnorm", "cnorm", "neuron", "dropout", "sum", "max"]
        kind = draw(st.sampled_from(kinds))
        # Every layer is read: by the next one.
        inputs = (whole[-1],)
        name = f"{kind}{index}"
        common: dict[str, Any] = {"name": name, "device": draw(st.sampled_from([None, 0, 3]))}
        if kind in ("sum", "max") or (kind in ("conv", "local") and draw(st.booleans())):
            inputs = (whole[-1], draw(st.sampled_from(whole)))
        common["inputs"] = inputs
        if kind in ("conv", "local"):
            layers.append(
                (ConvSpec if kind == "conv" else LocalSpec)(
                    **common,
                    filters=4,
                    window=draw(st.sampled_from([1, 3])),
                    padding=0,
                    groups=draw(st.sampled_from([1, 2])),
                    neuron=draw(neurons),
                    init=draw(st.builds(gaussian, decimals)),
                    bias=draw(decimals),
                    lr_scale=draw(factors),
                    bias_lr_scale=draw(factors),
                    weight_decay=draw(decimals),
                    momentum=draw(st.one_of(st.none(), decimals)),
                    bias_momentum=draw(st.one_of(st.none(), decimals)),
                    norm_limit=draw(decimals),
                    per_input=tuple(draw(each_input) for _ in inputs) if len(inputs) > 1 else (),
                )
            )
            spec: Any = layers[-1]
            layers[-1] = dataclasses.replace(spec, padding=spec.window[0] // 2)
        elif kind == "pool":
            window = draw(st.sampled_from([1, 3]))
            layers.append(
                PoolSpec(
                    **common,
                    pool=draw(st.sampled_from(["max", "avg"])),
                    window=window,
                    stride=1,
                    padding=window // 2,
                    rounding=draw(st.sampled_from(["ceil", "floor"])),
                )
            )
        elif kind in ("lrn", "rnorm", "cnorm"):
            values = {"size": draw(st.integers(1, 4)), "beta": draw(decimals), "k": draw(decimals)}
            region = "across_channels" if kind == "lrn" else "same_map"
            values["alpha"] = lrn_alpha(draw(decimals), int(values["size"]), region)
            layers.append(
                ContrastNormSpec(**common, **values)
                if kind == "cnorm"
                else LrnSpec(**common, **values, region=region)
            )
        elif kind == "neuron":
            layers.append(NeuronSpec(**common, neuron=draw(neurons.filter(bool))))
        elif kind == "dropout":
            layers.append(
                DropoutSpec(**common, keep=draw(st.sampled_from([0.5, 0.75])), enabled=draw(st.booleans()))
            )
        elif kind == "sum":
            layers.append(SumSpec(**common, coeffs=draw(st.sampled_from([(), (1.0, 1.0), (0.5, -2.0)]))))
        else:
            layers.append(MaxSpec(**common))
        whole.append(name)
    lr = draw(st.sampled_from([0.001, 0.01, 0.03]))
    return small(*layers, recipe=TrainRecipe(batch=2, epochs=1, lr=lr, momentum=draw(decimals)))


@given(spec=networks())
@settings(max_examples=150)
def test_any_network_comes_back_in_normal_form(spec: NetSpec) -> None:
    with tempfile.TemporaryDirectory() as folder:
        normal = normal_form(spec)
        assert round_trip(spec, Path(folder)) == normal
        assert round_trip(normal, Path(folder)) == normal == normal_form(normal)
    assert shapes(normal) == shapes(spec)
    assert parameters(normal) == parameters(spec)
    # No rate, momentum or first weight is another one.
    for before, after in zip(spec.layers, normal.layers, strict=True):
        if isinstance(before, ConvSpec | LocalSpec | FcSpec):
            for index in range(len(before.inputs)):
                one, two = before.for_input(index), after.for_input(index)  # type: ignore[attr-defined]
                assert two.lr_scale * normal.recipe.lr == pytest.approx(
                    one.lr_scale * spec.recipe.lr, rel=1e-11
                )
                momenta = [
                    net.recipe.momentum if own.momentum is None else own.momentum
                    for net, own in ((spec, one), (normal, two))
                ]
                assert momenta[0] == momenta[1]
                assert one.init == two.init and one.weight_decay == two.weight_decay
