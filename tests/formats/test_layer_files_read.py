"""Reading of cuda-convnet's configuration files."""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from helpers.layer_files import LAYERS, PARAMS, RATES, layer, with_x
from hypothesis import given, settings
from hypothesis import strategies as st

from cconvnet.formats.cuda_convnet import read
from cconvnet.nets import (
    RELU,
    ContrastNormSpec,
    ConvSpec,
    DropoutSpec,
    FcSpec,
    InputSpec,
    LayerSpec,
    LocalSpec,
    LrnSpec,
    LrStep,
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
    spec_from_dict,
    spec_to_dict,
)
from cconvnet.nets.shapes import parameters, shapes


def test_a_small_network(files: Any) -> None:
    spec, notes = files(LAYERS, PARAMS, name="small")
    assert notes == []
    assert spec == NetSpec(
        name="small",
        layers=chain(
            ConvSpec(
                name="conv1", filters=8, window=3, padding=1, rounding="ceil", neuron=RELU, init=gaussian(0.1)
            ),
            PoolSpec(name="pool1", pool="max", window=3, stride=2, rounding="ceil"),
            FcSpec(name="fc", outputs=4, init=gaussian(0.01)),
            SoftmaxCostSpec(name="cost"),
        ),
        input=InputSpec(8, 8, 3),
        stored=(8, 8),
        classes=4,
        recipe=TrainRecipe(batch=128, epochs=90, lr=0.001, momentum=0.9),
    )
    assert spec_from_dict(spec_to_dict(spec)) == spec


def test_crop_classes_names_and_recipes(files: Any) -> None:
    spec, _ = files(LAYERS, PARAMS, image_shape=(10, 12), crop=8, classes=4)
    # The old programs subtract the mean image's centre, wherever the crop lies.
    assert spec.stored == (10, 12) and spec.input == InputSpec(8, 8, 3, center_mean=True)
    assert spec.recipe.crop and spec.recipe.mirror
    assert spec.name == Path.cwd().name  # for the file is only called layers.cfg
    Path("layers-18pct.cfg").write_text(LAYERS)
    spec, _ = read(Path("layers-18pct.cfg"), Path("params.cfg"), image_shape=(8, 8))
    assert spec.name == "layers-18pct" and not spec.recipe.crop
    recipe = TrainRecipe(batch=7, epochs=3, lr=5.0, momentum=0.1, steps=(LrStep(1, 0.5),))
    spec, _ = files(LAYERS, PARAMS, recipe=recipe)
    assert spec.recipe == dataclasses.replace(recipe, lr=0.001, momentum=0.9)
    for crop in (0, 9):
        with pytest.raises(ValueError, match=f"crop must be from 1 to 8, the images' side, not {crop}"):
            files(LAYERS, PARAMS, crop=crop)


def test_channels_of_the_images_are_those_of_their_first_reader(files: Any) -> None:
    grey = LAYERS.replace("channels=3", "channels=1")
    assert files(grey, PARAMS, image_shape=(8, 8))[0].input.channels == 1
    no_reader_says = (
        LAYERS.replace("inputs=data", "inputs=n").replace("channels=3", "channels=3")
        + "[n]\ntype=neuron\ninputs=data\nneuron=abs\n"
    )
    assert files(no_reader_says, PARAMS, image_shape=(8, 8))[0].input.channels == 3


def test_comments_blanks_colons_case_and_continued_lines(files: Any) -> None:
    layers = "\ufeff# a comment\n; another\n" + LAYERS.replace(
        "channels=3", "CHANNELS : 3 ; and why"
    ).replace("filterSize=3", "filtersize = 3").replace(
        "inputs=labels,probs", "inputs = labels,\n   # between\n   probs"
    ).replace("[pool1]", "[pool1]  # a pool").replace("\n", "\r\n")
    assert files(layers, PARAMS)[0] == files(LAYERS, PARAMS)[0]


def test_conv_with_all_its_values(files: Any) -> None:
    layers, params = with_x(
        "type=conv\ninputs=conv1\nchannels=8\nfilters=6\nfilterSize=5\npadding=2\nstride=2\ngroups=2\n"
        "initW=0.5\ninitB=-7\nsharedBiases=0\npartialSum=4\nsumWidth=2\nrandSparse=0\nfilterChannels=4\n"
        "initWFunc=\ninitBFunc=\ninitCFunc=\nweightSource=\nneuron=tanh[1.5, 0.25]\ngpu=1\n",
        "epsW=0.004\nepsB=0.001\nmomW=0.5\nmomB=0.25\nwc=0.125\nwball=0.01\nschedW=default\nschedB=default\n"
        "quantF=default\nquantB=default\nsuperEps=0.0\nsuperMom=0.9\nwcNormMin=0\nwcNormMax=0.0\n"
        "updatePeriod=1\n",
    )
    spec, notes = files(layers.replace("channels=8\nsizeX", "channels=12\nsizeX"), params)
    assert layer(spec, "x") == ConvSpec(
        name="x",
        inputs=("conv1",),
        filters=12,
        window=(5, 5),
        padding=(2, 2),
        stride=(2, 2),
        groups=2,
        rounding="ceil",
        init=gaussian(0.5),
        bias=-7.0,
        shared_bias=False,
        neuron=Neuron("tanh", 1.5, 0.25),
        lr_scale=4.0,
        bias_lr_scale=1.0,
        momentum=0.5,
        bias_momentum=0.25,
        weight_decay=0.125,
        norm_limit=0.01 * 5 * 5 * 4,
        device=1,
    )
    assert notes == [
        f"{key} changes no result and is not used: x"
        for key in ("partialSum", "sumWidth", "filterChannels", "superMom")
    ]


def test_each_note_names_its_layers_once(files: Any) -> None:
    layers = LAYERS.replace("type=conv\n", "type=conv\npartialSum=1\n")
    layers = layers.replace("inputs=conv1\n", "inputs=b\n")
    layers += "[b]\ntype=conv\ninputs=conv1\nchannels=8\nfilters=8\nfilterSize=1\ninitW=0\npartialSum=8\n"
    _, notes = files(layers, PARAMS.replace("coeff=1", "coeff=1\ntopk=5") + f"\n[b]\n{RATES}")
    assert notes == [
        "partialSum changes no result and is not used: conv1, b",
        "topk changes no result and is not used: cost",
    ]


def test_local(files: Any) -> None:
    layers, params = with_x(
        "type=local\ninputs=conv1\nchannels=8\nfilters=4\nfilterSize=3\npadding=1\ngroups=2\ninitW=0.04\n",
        "epsW=0\nepsB=0\nmomW=0\nmomB=0\n",
    )
    assert layer(files(layers, params)[0], "x") == LocalSpec(
        name="x",
        inputs=("conv1",),
        filters=8,
        window=3,
        padding=1,
        groups=2,
        rounding="ceil",
        init=gaussian(0.04),
        lr_scale=0.0,
        bias_lr_scale=0.0,
        momentum=0.0,
        bias_momentum=0.0,
    )


def test_several_inputs_have_values_each(files: Any) -> None:
    layers, params = with_x(
        "type=conv\ninputs=conv1,data,conv1\nchannels=8,3,8\nfilters=4,8,4\nfilterSize=3,3,3\n"
        "padding=1,1,1\nstride=1,1,1\ngroups=2,1,2\ninitW=0.1,0.2,0.1\n",
        "epsW=0.001,0.002,0.001\nepsB=0.002\nmomW=0.9,0.5,0.9\nmomB=0.9\nwc=0.1,0.3,0.1\nwball=0,1,0\n",
    )
    spec, _ = files(layers, params)
    x = layer(spec, "x")
    assert (x.inputs, x.filters, x.groups, x.init) == (("conv1", "data", "conv1"), 8, 2, gaussian(0.1))
    assert x.per_input == (
        {},
        {
            "init": gaussian(0.2),
            "lr_scale": 2.0,
            "weight_decay": 0.3,
            "momentum": 0.5,
            "norm_limit": 27.0,
            "groups": 1,
        },
        {},
    )
    assert x.for_input(2) == dataclasses.replace(x, per_input=())
    assert parameters(spec)["x"] == 8 * (9 * 4 + 9 * 3 + 9 * 4) + 8
    layers, params = with_x(
        "type=fc\ninputs=conv1,data\noutputs=8\ninitW=0.1,0.1\n",
        "epsW=0.001,0.001\nepsB=0.002\nmomW=0.9,0.9\nmomB=0.9\n",
    )
    x = layer(files(layers.replace("sizeX=3\nstride=2", "sizeX=1\nstride=1"), params)[0], "x")
    assert x == FcSpec(name="x", inputs=("conv1", "data"), outputs=8, init=gaussian(0.1))


@pytest.mark.parametrize(
    ("values", "expected", "windows"),
    [
        ("sizeX=3\nstride=2", {}, (4, 4)),
        ("sizeX=3\nstride=2\nstart=0\noutputsX=0", {}, (4, 4)),
        # From -1: the windows begin at -1, 1, 3, 5. The rule of a spec pads the far side as well: 5 windows.
        ("sizeX=3\nstride=2\nstart=-1", {"padding": (1, 1), "outputs": (4, 4)}, (4, 4)),
        ("sizeX=3\nstride=2\nstart=-2", {"padding": (2, 2)}, (5, 5)),
        ("sizeX=3\nstride=2\nstart=1", {"padding": (-1, -1)}, (3, 3)),
        ("sizeX=2\nstride=2\nstart=1", {"window": (2, 2), "padding": (-1, -1), "outputs": (4, 4)}, (4, 4)),
        ("sizeX=3\nstride=2\noutputsX=2", {"outputs": (2, 2)}, (2, 2)),
        ("sizeX=3\nstride=2\noutputsX=4", {"outputs": (4, 4)}, (4, 4)),
        (
            "sizeX=3\nstride=1\nstart=-2\noutputsX=10",
            {"stride": (1, 1), "padding": (2, 2), "outputs": (10, 10)},
            (10, 10),
        ),
    ],
)
def test_where_pooling_windows_begin_and_how_many_there_are(
    files: Any, values: str, expected: dict[str, Any], windows: tuple[int, int]
) -> None:
    spec, _ = files(LAYERS.replace("sizeX=3\nstride=2", values), PARAMS)
    assert layer(spec, "pool1") == PoolSpec(
        **{
            **{"name": "pool1", "inputs": ("conv1",), "pool": "max", "window": (3, 3), "stride": (2, 2)},
            **{"rounding": "ceil", **expected},
        }
    )
    assert shapes(spec)["pool1"] == (*windows, 8)


@given(size=st.integers(1, 40), window=st.integers(1, 9), stride=st.integers(1, 9), start=st.integers(-8, 12))
@settings(max_examples=300)
def test_the_files_own_number_of_windows(size: int, window: int, stride: int, start: int) -> None:
    """Against the original's rule in its own words: ceil((size - start - window) / stride) + 1."""
    if window > size or stride > window or not -window < start < size:
        return
    wanted = max(1, math.ceil((size - start - window) / stride) + 1)
    values = f"sizeX={window}\nstride={stride}\nstart={start}"
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        (at / "a.cfg").write_text(LAYERS.replace("sizeX=3\nstride=2", values))
        (at / "b.cfg").write_text(PARAMS)
        spec, _ = read(at / "a.cfg", at / "b.cfg", image_shape=(size, size, 3))
    assert shapes(spec)["pool1"] == (wanted, wanted, 8)


@pytest.mark.parametrize(
    ("section", "params", "expected"),
    [
        (
            "type=cmrnorm\nchannels=8\nsize=5\nblocked=0",
            "scale=0.0001\npow=0.75\nminDiv=2",
            LrnSpec(name="x", size=5, alpha=lrn_alpha(1e-4, 5), beta=0.75, k=2.0),
        ),
        (
            "type=rnorm\nchannels=8\nsize=3",
            "scale=0.00005\npow=.75",
            LrnSpec(name="x", size=3, alpha=lrn_alpha(5e-5, 3, "same_map"), beta=0.75, region="same_map"),
        ),
        (  # as older files have it
            "type=rnorm\nchannels=8\nsizeX=3\nscale=0.00005\npow=.75",
            "",
            LrnSpec(name="x", size=3, alpha=lrn_alpha(5e-5, 3, "same_map"), beta=0.75, region="same_map"),
        ),
        (
            "type=rnorm\nchannels=8\nsize=5\ncrossMap=1\nscale=0.001\npow=0.75\nminDiv=1.5",
            "",
            LrnSpec(name="x", size=5, alpha=lrn_alpha(1e-3, 5), beta=0.75, k=1.5),
        ),
        (
            "type=cnorm\nchannels=8\nsize=7",
            "scale=0.001\npow=0.5",
            ContrastNormSpec(name="x", size=7, alpha=lrn_alpha(1e-3, 7, "same_map"), beta=0.5),
        ),
        ("type=neuron\nneuron=brelu[2]", "", NeuronSpec(name="x", neuron=Neuron("brelu", 2.0))),
        ("type=neuron\nneuron=ident", "", NeuronSpec(name="x", neuron=Neuron("linear"))),
        ("type=hs\nkeep=0.5", "enable=true", DropoutSpec(name="x", keep=0.5)),
        ("type=hs\nkeep=0.75", "enable=0", DropoutSpec(name="x", keep=0.75, enabled=False)),
        ("type=dropout", "", DropoutSpec(name="x", keep=0.5)),
        ("type=dropout\nkeep=0.25", "enable=false", DropoutSpec(name="x", keep=0.25, enabled=False)),
        ("type=dropout2", "keep=0.25\nenable=true", DropoutSpec(name="x", keep=0.25)),
    ],
)
def test_layers_of_one_input(files: Any, section: str, params: str, expected: LayerSpec) -> None:
    spec, notes = files(*with_x(section + "\ninputs=conv1\n", params))
    assert layer(spec, "x") == dataclasses.replace(expected, inputs=("conv1",))
    ambiguous = "dropout multiplies by keep at test time, like hs and unlike cuda-convnet2's: x"
    assert notes == ([ambiguous] if section.startswith("type=dropout\n") or section == "type=dropout" else [])
    assert layer(spec, "pool1").inputs == ("x",)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("type=eltsum", SumSpec(name="x")),
        ("type=eltsum\ncoeffs=1,1.0", SumSpec(name="x")),
        ("type=eltsum\ncoeffs=1,-0.5", SumSpec(name="x", coeffs=(1.0, -0.5))),
        ("type=eltmax", MaxSpec(name="x")),
    ],
)
def test_layers_of_two_inputs(files: Any, section: str, expected: LayerSpec) -> None:
    layers, params = with_x(f"{section}\ninputs=conv1, n\n[n]\ntype=neuron\ninputs=conv1\nneuron=abs\n")
    spec, _ = files(layers, params)
    assert layer(spec, "x") == dataclasses.replace(expected, inputs=("conv1", "n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("relu", Neuron("relu")),
        ("logistic", Neuron("logistic")),
        ("abs", Neuron("abs")),
        ("softrelu", Neuron("softrelu")),
        ("square", Neuron("square")),
        ("sqrt", Neuron("sqrt")),
        ("tanh[0.5,2]", Neuron("tanh", 0.5, 2.0)),
        ("linear[ -1 , 3]", Neuron("linear", -1.0, 3.0)),
        ("brelu [6]", Neuron("brelu", 6.0)),
        ("ident", None),
        ("", None),
    ],
)
def test_neurons(files: Any, text: str, expected: Neuron | None) -> None:
    """Layers with weights keep theirs; after any other it is a layer of its own, which its readers read."""
    spec, _ = files(LAYERS.replace("neuron=relu", f"neuron={text}"), PARAMS)
    assert layer(spec, "conv1").neuron == expected
    spec, _ = files(LAYERS.replace("pool=max", f"pool=max\nneuron={text}"), PARAMS)
    names = [layer.name for layer in spec.layers]
    if expected is None:
        assert names == ["conv1", "pool1", "fc", "cost"]
    else:
        assert names == ["conv1", "pool1", "pool1_neuron", "fc", "cost"]
        assert layer(spec, "pool1_neuron").neuron == expected
        assert layer(spec, "fc").inputs == ("pool1_neuron",)


def test_a_neuron_layer_takes_a_free_name(files: Any) -> None:
    layers = LAYERS.replace("pool=max", "pool=max\nneuron=abs").replace("[fc]", "[pool1_neuron]")
    layers = layers.replace("inputs=fc", "inputs=pool1_neuron")
    spec, _ = files(layers, PARAMS.replace("[fc]", "[pool1_neuron]"))
    assert [layer.name for layer in spec.layers] == [
        "conv1",
        "pool1",
        "pool1_neuron.1",
        "pool1_neuron",
        "cost",
    ]


def test_devices(files: Any) -> None:
    spec, _ = files(LAYERS.replace("type=fc", "type=fc\ngpu=1"), PARAMS)
    assert [layer.device for layer in spec.layers] == [None, None, 1, None]
    spec, _ = files(LAYERS.replace("type=softmax", "type=softmax\ngpu=2"), PARAMS)
    assert layer(spec, "cost").device == 2
    both = LAYERS.replace("type=softmax", "type=softmax\ngpu=2").replace("type=cost", "gpu=0\ntype=cost")
    assert layer(files(both, PARAMS)[0], "cost").device == 0


def test_other_names_for_data_labels_and_softmax(files: Any) -> None:
    layers = LAYERS.replace("[data]", "[images]").replace("inputs=data", "inputs=images")
    layers = layers.replace("labels", "labvec").replace("probs", "softmax7")
    spec, _ = files(layers, PARAMS.replace("coeff=1", "coeff=0.5"))
    assert layer(spec, "conv1").inputs == ("data",)
    assert layer(spec, "cost") == SoftmaxCostSpec(name="cost", inputs=("fc",), coeff=0.5, softmax="softmax7")


def test_layers_may_stand_in_any_order(files: Any) -> None:
    sections = LAYERS.strip().split("\n\n")
    turned = "\n\n".join(reversed(sections))
    spec, _ = files(turned, PARAMS)
    assert spec == files(LAYERS, PARAMS)[0]


def test_rates_are_counted_from_the_first_that_is_not_zero(files: Any) -> None:
    frozen = PARAMS.replace("epsW=0.001\nepsB=0.002\nmomW=0.9", "epsW=0\nepsB=0.06\nmomW=0", 1)
    frozen = frozen.replace("epsW=0.001", "epsW=0.03").replace("momW=0.9", "momW=0.5")
    spec, _ = files(LAYERS, frozen)
    assert (spec.recipe.lr, spec.recipe.momentum) == (0.03, 0.5)
    conv1, fc = layer(spec, "conv1"), layer(spec, "fc")
    assert (conv1.lr_scale, conv1.bias_lr_scale, conv1.momentum, conv1.bias_momentum) == (0.0, 2.0, 0.0, 0.9)
    assert (fc.lr_scale, fc.momentum, fc.bias_momentum) == (1.0, None, 0.9)
    still = re.sub(r"(eps|mom)(.)=.*", r"\1\2=0", PARAMS)
    spec, _ = files(LAYERS, still)
    assert (spec.recipe.lr, spec.recipe.momentum, layer(spec, "fc").lr_scale) == (0.01, 0.0, 0.0)
