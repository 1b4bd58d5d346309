"""cuda-convnet's configuration files, read and written."""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cconvnet import nets
from cconvnet.formats.cuda_convnet import ConfigError, read
from cconvnet.formats.cuda_convnet_writer import normal_form, write
from cconvnet.formats.ini import read_sections
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
from cconvnet.network import Network
from cconvnet.network.gradcheck import gradcheck, small_spec

CONFIGS = Path(__file__).parents[2] / "configs"

LAYERS = """\
[data]
type=data
dataIdx=0

[labels]
type=data
dataIdx=1

[conv1]
type=conv
inputs=data
channels=3
filters=8
filterSize=3
padding=1
initW=0.1
neuron=relu

[pool1]
type=pool
inputs=conv1
pool=max
channels=8
sizeX=3
stride=2

[fc]
type=fc
inputs=pool1
outputs=4

[probs]
type=softmax
inputs=fc

[cost]
type=cost.logreg
inputs=labels,probs
"""
RATES = "epsW=0.001\nepsB=0.002\nmomW=0.9\nmomB=0.9\n"
RATES_OF_TWO = "epsW=0.001,0.001\nepsB=0.002\nmomW=0.9,0.9\nmomB=0.9\n"
PARAMS = f"[conv1]\n{RATES}\n[fc]\n{RATES}\n[cost]\ncoeff=1\n"
# What joins a layer called x, which the tests add after conv1, to the rest.
JOINED = LAYERS.replace("inputs=conv1\n", "inputs=x\n")


def layer(spec: NetSpec, name: str) -> Any:
    return next(layer for layer in spec.layers if layer.name == name)


def with_x(section: str, params: str = "") -> tuple[str, str]:
    """The two texts with a layer x between conv1 and pool1."""
    return JOINED + "\n[x]\n" + section, PARAMS + ("\n[x]\n" + params if params else "")


# ---- what is read --------------------------------------------------------------------------------------


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


# ---- what is refused -----------------------------------------------------------------------------------

NORM_X = "type=cmrnorm\ninputs=conv1\nchannels=8\nsize=5\n"
NORM_P = "scale=0.1\npow=0.75\n"
ERRORS: list[tuple[str, str, str, str, str]] = [
    # in which file what is replaced by what; in which file, line and layer the error is; its text
    ("l", "type=conv", "type=cnv", "l10 conv1", r"type must be one of .*; did you mean 'conv'\?"),
    ("l", "type=conv\n", "", "l9 conv1", r"type is missing"),
    ("l", "type=conv", "type=rgb2yuv", "l10 conv1", r"type=rgb2yuv is a layer of cuda-convnet that "),
    ("l", "type=cost.logreg", "type=cost.sum2", "l37 cost", r"type=cost.sum2 is a layer of "),
    ("l", "padding=1", "pading=1", "l15 conv1", r"a key of type=conv .*; did you mean 'padding'\?"),
    ("l", "pool=max", "filters=3", "l22 pool1", r"a key of type=pool must be one of "),
    ("p", "epsW=0.001", "epsw2=1", "p2 conv1", r"a key of type=conv .*; did you mean 'epsW'\?"),
    ("p", "coeff=1", "epsW=1", "p14 cost", r"a key of type=cost.logreg must be one of "),
    ("l", "inputs=conv1", "inputs=conv", "l21 pool1", r"an input .*; did you mean 'conv1'\?"),
    ("l", "inputs=conv1\n", "", "l19 pool1", r"inputs is missing"),
    ("l", "inputs=conv1", "inputs=conv1,data", "l21 pool1", r"inputs must be 1 in number, not 2"),
    ("l", "labels,probs", "labels", "l38 cost", r"inputs must be 2 in number, not 1"),
    ("l", "labels,probs", "probs,labels", "l38 cost", r"the first input must be the labels, lab"),
    ("l", "labels,probs", "labels,fc", "l32 probs", r"no layer reads it"),
    ("l", "inputs=pool1", "inputs=data", "l19 pool1", r"no layer reads it"),
    ("l", "inputs=data", "inputs=data,labels", "l11 conv1", r"only a cost can read layer labels"),
    ("l", "inputs=pool1", "inputs=fc,pool1", "l29 fc", r"reads its own output: fc <- fc"),
    ("l", "inputs=data", "inputs=data,fc", "l11 conv1", r"reads its own .*conv1 <- fc <- pool1 <- "),
    # Then nothing reads the images, but that is not what is wrong.
    ("l", "inputs=data", "inputs=fc", "l11 conv1", r"reads its own .*conv1 <- fc <- pool1 <- conv1"),
    ("l", "inputs=fc", "inputs=fc\nneuron=relu", "l35 probs", r"a softmax cannot have a neuron"),
    ("l", "channels=3", "channels=4", "l12 conv1", r"channels must be 3, as many as layer data "),
    ("l", "channels=8", "channels=9", "l23 pool1", r"channels must be 8.*\(8x8x8\), not 9"),
    ("l", "channels=3\n", "", "l9 conv1", r"channels is missing"),
    ("l", "channels=3", "channels=0", "l12 conv1", r"channels must be at least 1, not 0"),
    ("l", "channels=3", "channels=3,3", "l12 conv1", r"channels must have one value per input, 1,"),
    ("l", "channels=3", "channels=3\ngroups=2", "l13 conv1", r"groups must divide channels, 3, n"),
    ("l", "filters=8\n", "", "l9 conv1", r"filters is missing"),
    ("l", "filters=8", "filters=8.5", "l13 conv1", r"filters must be an integer, not '8.5'"),
    ("l", "filterSize=3", "filterSize=big", "l14 conv1", r"filterSize must be an integer, not 'b"),
    ("l", "filterSize=3", "filterSize=11", "l9 conv1", r"its window is larger than the padded im"),
    ("l", "padding=1", "padding=-1", "l15 conv1", r"padding must be at least 0, not -1"),
    ("l", "padding=1", "stride=0", "l15 conv1", r"stride must be at least 1, not 0"),
    ("l", "initW=0.1\n", "", "l9 conv1", r"initW is missing"),
    ("l", "initW=0.1", "initW=nan", "l16 conv1", r"initW must be a number, not 'nan'"),
    ("l", "initW=0.1", "initW=1_0", "l16 conv1", r"initW must be a number, not '1_0'"),
    ("l", "initW=0.1", "initW=-1", "l16 conv1", r"initW must be at least 0, not -1"),
    ("l", "initW=0.1", "initW=0.1\nsharedBiases=maybe", "l17 conv1", r"sharedBiases must be true "),
    ("l", "initW=0.1", "initW=0.1\npartialSum=x", "l17 conv1", r"partialSum must be an integer, n"),
    ("l", "initW=0.1", "initW=0.1\nrandSparse=1", "l17 conv1", r"randSparse needs groups above 1"),
    ("l", "initW=0.1", "initW=1\ninitWFunc=a.b(c)", "l17 conv1", r"initWFunc=a.b\(c\) names a func"),
    ("l", "initW=0.1", "initW=1\nweightSource=fc", "l17 conv1", r"weightSource=fc is not suppor"),
    ("l", "initW=0.1", "initW=1\ninitB=", "l17 conv1", r"initB must be a number, not ''"),
    ("l", "initW=0.1", "initW=1\ngpu=-1", "l17 conv1", r"gpu must be at least 0, not -1"),
    ("l", "initW=0.1", "initW=1\ngpu=0,b", "l17 conv1", r"gpu must be an integer, not 'b'"),
    ("l", "neuron=relu", "neuron=rlu", "l17 conv1", r"neuron must be one of .*; did you mean 'relu"),
    ("l", "neuron=relu", "neuron=nrelu", "l17 conv1", r"neuron=nrelu is not supported"),
    ("l", "neuron=relu", "neuron=tanh", "l17 conv1", r"neuron must be tanh\[a,b\], with numbers, "),
    ("l", "neuron=relu", "neuron=relu[1]", "l17 conv1", r"neuron must be relu, with numbers, not"),
    ("l", "neuron=relu", "neuron=brelu[x]", "l17 conv1", r"neuron must be brelu\[a\], with numbe"),
    ("l", "pool=max", "pool=rand", "l22 pool1", r"pool=rand is not supported"),
    ("l", "pool=max", "pool=mean", "l22 pool1", r"pool must be one of avg, max, not 'mean'"),
    ("l", "pool=max\n", "", "l19 pool1", r"pool is missing"),
    ("l", "sizeX=3", "sizeX=9", "l24 pool1", r"sizeX must be at most the image's side, 8, not 9"),
    ("l", "stride=2", "stride=4", "l25 pool1", r"stride must be at most sizeX, 3, not 4"),
    ("l", "stride=2\n", "", "l19 pool1", r"stride is missing"),
    ("l", "stride=2", "stride=2\nstart=-3", "l26 pool1", r"start must be above -3 and below 8, no"),
    ("l", "stride=2", "stride=2\nstart=8", "l26 pool1", r"start must be above -3 and below 8, not"),
    ("l", "stride=2", "stride=2\noutputsX=5", "l26 pool1", r"outputsX must be at most 4, not 5"),
    ("l", "outputs=4\n", "", "l27 fc", r"outputs is missing"),
    ("l", "outputs=4", "outputs=0", "l30 fc", r"outputs must be at least 1, not 0"),
    ("l", "dataIdx=1", "dataIdx=2", "l7 labels", r"dataIdx must be 0, images, or 1, labels, not "),
    ("l", "dataIdx=1", "dataIdx=0", "l7 labels", r"dataIdx=0 is already layer data's, line 1"),
    ("l", "dataIdx=1\n", "", "l5 labels", r"dataIdx is missing"),
    ("l", "[data]", "[images]", "l11 conv1", r"an input must be one of .*, not 'data'"),
    ("l", "[data]\n", "", "l1", r"type stands before the first section"),
    ("l", "[data]", "[]", "l1", r"a section needs a name"),
    ("l", "pool=max", "pool", "l22", r"must be \[name\], key=value or a comment, not 'pool'"),
    ("l", "pool=max", "=max", "l22", r"must be \[name\], key=value or a comment, not '=max'"),
    ("l", "[pool1]", "[pool1] x", "l19", r"must be \[name\], key=value or a comment, not "),
    ("p", "[fc]", "[fc2]", "p7 fc2", r"a layer must be one of .*; did you mean 'fc'\?"),
    ("p", "[cost]\ncoeff=1\n", "", "l36 cost", r"needs a section \[cost\] in params.cfg"),
    ("p", "coeff=1", "topk=1", "p13 cost", r"coeff is missing"),
    ("p", "epsW=0.001\n", "", "p1 conv1", r"epsW is missing"),
    ("p", "epsB=0.002\n", "", "p1 conv1", r"epsB is missing"),
    ("p", "momW=0.9\n", "", "p1 conv1", r"momW is missing"),
    ("p", "momB=0.9\n", "", "p1 conv1", r"momB is missing"),
    ("p", "epsW=0.001", "epsW=0.001,0.001", "p2 conv1", r"epsW must have one value per input, 1, "),
    ("p", "epsW=0.001", "epsW=-0.001", "p2 conv1", r"epsW must be at least 0, not -0.001"),
    ("p", "epsW=0.001", "epsW=dexp[base=1;x=2]", "p2 conv1", r"epsW=dexp\[base=1;x=2\]: x mu"),
    ("p", "epsW=0.001", "epsW=exp[tgtFactor=9]", "p2 conv1", r"epsW=exp\[tgtFactor=9\]: base is m"),
    ("p", "epsW=0.001", "epsW=exp[base=1]", "p2 conv1", r"epsW=exp\[base=1\]: tgtFactor is missing"),
    ("p", "epsW=0.001", "epsW=cos[base=1]", "p2 conv1", r"epsW must be one of const, linear, exp, d"),
    ("p", "epsW=0.001", "epsW=exp[base=-1;tgtFactor=2]", "p2 conv1", r"epsW: base must be at least 0, n"),
    ("p", "momB=0.9", "momB=0.9\nschedW=exp[x]", "p6 conv1", r"schedW: tgtFactor must be a number, not"),
    ("p", "momB=0.9", "momB=0.9\nschedW=exp[1,2,3]", "p6 conv1", r"schedW must be exp\[tgtFactor\] or "),
    ("p", "momB=0.9", "momB=0.9\nschedW=exp[0]", "p6 conv1", r"schedW=exp\[0\]: tgtFactor must be abo"),
    ("p", "momB=0.9", "momB=0.9\nschedB=dexp[9,1.5]", "p6 conv1", r"schedB: numSteps must be an intege"),
    ("p", "momB=0.9", "momB=0.9\nschedB=dexp[tgtFactor=9]", "p6 conv1", r"schedB=.*: numSteps is missi"),
    ("p", "momB=0.9", "momB=0.9\nschedW=exp[base=1,tgtFactor=9]", "p6 conv1", r"schedW=.*: base is for "),
    ("p", "momB=0.9", "momB=0.9\ndropout=1", "p6 conv1", r"dropout must be at least 0 and below 1, not"),
    ("p", "momB=0.9", "momB=0.9\nwc=a", "p6 conv1", r"wc must be a number, not 'a'"),
    ("p", "momB=0.9", "momB=0.9\nwcNormMin=0.2", "p6 conv1", r"wcNormMin must be at most wcNormMax, 0, n"),
    ("p", "momB=0.9", "momB=0.9\nquantF=half", "p6 conv1", r"quantF=half is not supported; only "),
]  # fmt: skip


@pytest.mark.parametrize(
    ("which", "old", "new", "where", "text"), ERRORS, ids=[f"{error[1]}>{error[2]}" for error in ERRORS]
)
def test_errors_name_file_line_and_layer(
    files: Any, which: str, old: str, new: str, where: str, text: str
) -> None:
    assert old in (LAYERS if which == "l" else PARAMS)
    layers = LAYERS.replace(old, new, 1) if which == "l" else LAYERS
    params = PARAMS.replace(old, new, 1) if which == "p" else PARAMS
    line, *name = where.split()
    file = {"l": "layers.cfg", "p": "params.cfg"}[line[0]]
    prefix = "".join([f"^{file}:{line[1:]}: ", *(f"layer {n}: " for n in name)])
    with pytest.raises(ConfigError, match=prefix + text):
        files(layers, params)


@pytest.mark.parametrize(
    ("section", "params", "message"),
    [
        ("type=eltsum\ninputs=conv1,cost\n", "", r"layers.cfg:42: layer x: only a cost can read layer cost"),
        (
            "type=eltsum\ninputs=conv1,probs\n",
            "",
            r"layers.cfg:42: layer x: only a cost can read layer probs",
        ),
        (NORM_X, "", r"layers.cfg:40: layer x: needs a section \[x\] in params.cfg"),
        (NORM_X, "pow=1\n", r"params.cfg:16: layer x: scale is missing"),
        (NORM_X, "scale=1\n", r"params.cfg:16: layer x: pow is missing"),
        (NORM_X + "scale=1\n", NORM_P, r"layers.cfg:45: layer x: scale must stand in one of the two files"),
        (NORM_X + "sizeX=5\n", NORM_P, r"layers.cfg:45: layer x: size and sizeX are the same; give one"),
        (
            NORM_X.replace("=5", "=9"),
            NORM_P,
            r"layers.cfg:44: layer x: size must be at most 8, channels, not 9",
        ),
        (
            NORM_X.replace("=5", "=9").replace("cmr", "r"),
            NORM_P,
            r"layers.cfg:44: layer x: size must be at most 8, the image's side, not 9",
        ),
        (NORM_X + "blocked=1\n", NORM_P, r"layers.cfg:45: layer x: blocked=1 is not supported"),
        (NORM_X.replace("size=5\n", ""), NORM_P, r"layers.cfg:40: layer x: size is missing"),
        ("type=hs\ninputs=conv1\n", "enable=1\n", r"layers.cfg:40: layer x: keep is missing"),
        (
            "type=hs\ninputs=conv1\nkeep=1\n",
            "",
            r"layers.cfg:40: layer x: needs a section \[x\] in params.cfg",
        ),
        ("type=hs\ninputs=conv1\nkeep=0\n", "enable=1\n", r"layers.cfg:43: layer x: keep must be above 0"),
        ("type=dropout\ninputs=conv1\nkeep=1.5\n", "", r"layers.cfg:43: layer x: keep must be above 0"),
        (
            "type=dropout\ninputs=conv1\nkeep=1\n",
            "keep=1\n",
            r"layers.cfg:43: layer x: keep must stand in one",
        ),
        ("type=neuron\ninputs=conv1\n", "", r"layers.cfg:40: layer x: neuron is missing"),
        ("type=eltmax\ninputs=conv1\n", "", r"layers.cfg:42: layer x: inputs must be at least 2 in number"),
        (
            "type=eltsum\ninputs=conv1,data\n",
            "",
            r"layers.cfg:40: layer x: its inputs must give one shape, not 8",
        ),
        (
            "type=eltsum\ninputs=conv1,conv1\ncoeffs=1\n",
            "",
            r"layers.cfg:43: layer x: coeffs must have one value per input, 2, not 1",
        ),
        (
            "type=conv\ninputs=conv1,conv1\nchannels=8,8\nfilters=8,4\nfilterSize=1,1\ninitW=1,1\n",
            RATES_OF_TWO,
            r"layers.cfg:44: layer x: filters times groups must be the same for every input, not 4, 8",
        ),
        (
            "type=conv\ninputs=conv1,conv1\nchannels=8,8\nfilters=8,8\nfilterSize=1,3\ninitW=1,1\n",
            RATES_OF_TWO,
            r"layers.cfg:40: layer x: its inputs must give one shape, not 6x6x8, 8x8x8",
        ),
    ],
)
def test_errors_of_an_added_layer(files: Any, section: str, params: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        files(*with_x(section, params))


def test_errors_about_the_whole(files: Any) -> None:
    without = LAYERS[: LAYERS.index("[probs]")]
    with pytest.raises(ConfigError, match=r"^layers.cfg: there is no layer of type=cost.logreg"):
        files(without, PARAMS.replace("[cost]\ncoeff=1\n", ""))
    with pytest.raises(ConfigError, match=r"^layers.cfg: there is no layer .*dataIdx=0, the images"):
        files(LAYERS[LAYERS.index("[labels]") :], PARAMS)
    with pytest.raises(ConfigError, match=r"^layers.cfg: there is no layer .*dataIdx=1, the labels"):
        files(LAYERS.replace(LAYERS[LAYERS.index("[labels]") : LAYERS.index("[conv1]")], ""), PARAMS)
    second = "\n[cost2]\ntype=cost.logreg\ninputs=labels,probs\n"
    with pytest.raises(
        ConfigError, match=r"^layers.cfg:40: layer cost2: there is one cost too many; .* line 36"
    ):
        files(LAYERS + second, PARAMS)
    with pytest.raises(
        ConfigError, match=r"^layers.cfg:34: layer probs: its input must have one value for each"
    ):
        files(LAYERS, PARAMS, classes=10)
    images = LAYERS.replace("[data]", "[images]").replace("inputs=data", "inputs=images")
    images = images.replace("[pool1]", "[data]").replace("inputs=pool1", "inputs=data")
    with pytest.raises(ConfigError, match=r"^layers.cfg:19: layer data: only the images can be called data"):
        files(images, PARAMS)
    Path("bad.cfg").write_bytes(b"[conv1]\n\xff\xfe")
    with pytest.raises(ConfigError, match=r"^bad.cfg: not a text in UTF-8"):
        read_sections(Path("bad.cfg"))
    with pytest.raises(FileNotFoundError):
        read(Path("nowhere.cfg"), Path("params.cfg"), image_shape=(8, 8))


def test_any_line_may_be_wrong_and_the_error_says_where(files: Any) -> None:
    """Lines left out, doubled, swapped, or with another value: a network comes of it, or a ConfigError."""
    values = ["", "0", "-1", "2", "1e9", "nan", "1,2", "conv1", "data", "labels", "x=y", "relu[1]", "true"]
    originals = {"layers.cfg": LAYERS.splitlines(), "params.cfg": PARAMS.splitlines()}
    refused = read_well = 0
    for name, lines in originals.items():
        for index, line in enumerate(lines):
            before, after = lines[:index], lines[index + 1 :]
            changes = [
                [*before, *after],
                [*before, line, line, *after],
                [*before, *after[:1], line, *after[1:]],
            ]
            changes += [[*before, f"{line.partition('=')[0]}={value}", *after] for value in values]
            for changed in changes:
                texts = {**originals, name: changed}
                try:
                    files("\n".join(texts["layers.cfg"]), "\n".join(texts["params.cfg"]))
                    read_well += 1
                except ConfigError as error:
                    assert re.match(r"(layers|params)\.cfg:(\d+:)? ", str(error)), error
                    refused += 1
    assert refused > 400 and read_well > 100


# ---- what is written -----------------------------------------------------------------------------------


def round_trip(spec: NetSpec, folder: Path, towers: int = 2) -> NetSpec:
    """What reading gives of what writing wrote, told what the files do not hold."""
    write(spec, folder / "layers.cfg", folder / "layer-params.cfg", towers=towers)
    crop = None if spec.stored == (spec.input.height, spec.input.width) else spec.input.height
    got, _ = read(
        folder / "layers.cfg",
        folder / "layer-params.cfg",
        image_shape=spec.stored_shape,
        crop=crop,
        classes=spec.classes,
        name=spec.name,
        recipe=spec.recipe,
    )
    return got


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
    assert layers.startswith("# cifar-11pct: layers, for images of 24x24x3, cut out of 32x32\n\n[data]\n")
    assert params.startswith(
        "# cifar-11pct: parameters, for 520 epochs of batches of 128\n# from epoch 500: epsW times 0.1\n"
    )
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


CONV: dict[str, Any] = {"name": "c", "filters": 4, "window": 3, "padding": 1, "init": gaussian(0.1)}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (nets.build("lenet"), r"lenet: input: scale=0.00392"),
        (small(LrnSpec(name="n", size=3, groups=2)), r"layer n: groups=2: the files' norms know no groups, "),
        (small(ConvSpec(**CONV | {"window": (3, 5)})), r"layer c: window=3x5: the files know only squares"),
        (small(ConvSpec(**CONV | {"stride": (1, 2)})), r"layer c: stride=1x2: "),
        (small(ConvSpec(**CONV | {"padding": (1, 2)})), r"layer c: padding=1x2: "),
        (small(ConvSpec(**CONV | {"padding": -1})), r"layer c: padding=-1: the files' is not negative"),
        (
            small(ConvSpec(**CONV | {"stride": 3, "window": 4})),
            r"layer c: rounding='floor': windows of 4 in steps of 3 do not fill 9 \+ 2 x 1, and the ",
        ),
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
        (small(PoolSpec(name="p", window=12)), r"small: layer p: its window is larger than the padded image"),
    ],
)  # fmt: skip
def test_what_the_files_cannot_say(spec: NetSpec, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        write(spec, tmp_path / "layers.cfg", tmp_path / "layer-params.cfg")
    assert not list(tmp_path.iterdir())


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


# ---- the configurations of this repository -------------------------------------------------------------


def configuration(name: str, **options: Any) -> NetSpec:
    folder = CONFIGS / name
    return read(folder / "layers.cfg", folder / "layer-params.cfg", **options)[0]


@pytest.mark.parametrize("name", ["cifar-quick", "cifar-18pct", "cifar-13pct", "cifar-11pct"])
def test_configurations_are_the_networks_known_by_name(name: str) -> None:
    spec = nets.build(name)
    crop = spec.input.height if spec.recipe.crop else None
    got = configuration(name, image_shape=(32, 32), crop=crop, classes=10, recipe=spec.recipe)
    assert got == spec


def in_full(spec: NetSpec, names: dict[str, str]) -> list[LayerSpec]:
    """The layers with the devices they live on and other names."""
    devices: dict[str, Any] = {}
    layers = []
    for layer in spec.layers:
        device = devices.get(layer.inputs[0]) if layer.device is None else layer.device
        devices[layer.name] = device
        inputs = tuple(names.get(name, name) for name in layer.inputs)
        layers.append(
            dataclasses.replace(layer, name=names.get(layer.name, layer.name), inputs=inputs, device=device)
        )
    return sorted(layers, key=lambda layer: layer.name)


def test_the_configuration_of_2012() -> None:
    """Written tower by tower and by hand, it is the network known by name with its towers written out."""
    spec = configuration("alexnet-2012", image_shape=(256, 256), crop=224, classes=1000)
    assert sum(parameters(spec).values()) == 60_965_224
    assert (spec.recipe.lr, spec.recipe.momentum) == (0.01, 0.9)
    relus = {f"pool{index}{tower}_neuron": f"relu{index}{tower}" for index in (1, 5) for tower in "ab"}
    assert in_full(spec, relus) == in_full(normal_form(nets.build("alexnet-2012")), {})


@pytest.mark.parametrize("name", ["cifar-quick", "cifar-18pct", "cifar-13pct", "cifar-11pct"])
def test_shapes_are_those_of_the_network_that_runs(name: str) -> None:
    spec = configuration(name, image_shape=(32, 32))
    network = Network(spec, batch=2, devices="cpu:0")
    described = network.describe()
    assert described["parameters"] == sum(parameters(spec).values())
    for row in described["layers"]:
        assert math.prod(row["output_shape"][1:]) == math.prod(shapes(spec)[row["name"]])


def test_the_configuration_of_2012_on_two_devices() -> None:
    spec = configuration("alexnet-2012", image_shape=(256, 256), crop=224)
    report = gradcheck(small_spec(spec), ["cpu:0", "cpu:1"])
    assert report.ok, report.failures
    network = Network(small_spec(spec), batch=1, devices=["cpu:0", "cpu:1"])
    devices = {row["name"]: row["device"] for row in network.describe()["layers"]}
    assert {name: device for name, device in devices.items() if name[-1] not in "ab"} == {
        **dict.fromkeys(("fc8", "cost"), "cpu:0"),
        **{f"pool{index}a_neuron": "cpu:0" for index in (1, 5)},
        **{f"pool{index}b_neuron": "cpu:1" for index in (1, 5)},
    }
    assert all(devices[name] == f"cpu:{'ab'.index(name[-1])}" for name in devices if name[-1] in "ab")
