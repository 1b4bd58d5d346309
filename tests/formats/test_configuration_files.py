"""cuda-convnet's configuration files: each construct loads, is described and trains."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import Listener
from safetensors.numpy import load_file

from cconvnet.devices import Device
from cconvnet.formats.cuda_convnet import read
from cconvnet.formats.cuda_convnet_writer import write
from cconvnet.nets import (
    BlurSpec,
    ConcatSpec,
    DropoutSpec,
    LayerSpec,
    NetSpec,
    PoolSpec,
    RateCurve,
    SelectSpec,
    spec_from_dict,
    spec_to_dict,
)
from cconvnet.network import Network
from cconvnet.runs import read_log
from cconvnet.training.options import Options
from cconvnet.training.schedule import Rates, StepSchedule, curve_factor
from cconvnet.training.session import train

HEAD = "[data]\ntype=data\ndataIdx=0\n[labels]\ntype=data\ndataIdx=1\n"
CONV = "type=conv\ninputs=data\nchannels=3\nfilters=8\nfilterSize=3\npadding=1\ninitW=0.1\nneuron=relu\n"
RATES = "epsW=0.001\nepsB=0.002\nmomW=0.9\nmomB=0.9\n"


def text_of(middle: str, last: str) -> str:
    """The layer file of a network of conv1, what stands between, and an FC layer that reads `last`."""
    return (
        f"{HEAD}[conv1]\n{CONV}{middle}[fc]\ntype=fc\ninputs={last}\noutputs=10\ninitW=0.1\n"
        "[probs]\ntype=softmax\ninputs=fc\n[cost]\ntype=cost.logreg\ninputs=labels,probs\n"
    )


def params_of(more: str = "", conv: str = RATES, fc: str = RATES) -> str:
    return f"[conv1]\n{conv}[fc]\n{fc}{more}[cost]\ncoeff=1\n"


SECOND = "type=conv\ninputs={}\nchannels={}\nfilters=8\nfilterSize=3\npadding=1\ninitW=0.1\n"
# By name: the layer file's middle, what the FC layer reads, the parameter file.
CONSTRUCTS: dict[str, tuple[str, str, str]] = {
    "pass": ("[p]\ntype=pass\ninputs=conv1\ngpu=0\n", "p", params_of()),
    "pass with a neuron": ("[p]\ntype=pass\ninputs=conv1\nneuron=tanh[1,1]\n", "p", params_of()),
    "concat": (
        "[pool]\ntype=pool\ninputs=conv1\npool=avg\nchannels=8\nsizeX=1\nstride=1\n"
        "[both]\ntype=concat\ninputs=pool,conv1\nneuron=abs\n",
        "both",
        params_of(),
    ),
    "concat of fc": (
        "[a]\ntype=fc\ninputs=conv1\noutputs=4\ninitW=0.1\n[b]\ntype=fc\ninputs=conv1\noutputs=3\ninitW=0.1\n"
        "[both]\ntype=concat\ninputs=a,b\n",
        "both",
        params_of(f"[a]\n{RATES}[b]\n{RATES}"),
    ),
    "blur and nailbed": (
        "[blur0]\ntype=blur\ninputs=conv1\nstdev=2\nfilterSize=5\nchannels=8\n"
        "[nails0]\ntype=nailbed\ninputs=blur0\nstride=3\nchannels=8\n",
        "nails0",
        params_of(),
    ),
    "nailbed from a start": (
        "[nails0]\ntype=nailbed\ninputs=conv1\nstart=1\nstride=2\nchannels=8\n",
        "nails0",
        params_of(),
    ),
    "dropout2": ("[d]\ntype=dropout2\ninputs=conv1\nkeep=0.75\n", "d", params_of("[d]\nenable=true\n")),
    "dropout= in the layer file": ("dropout=0.25\n", "conv1", params_of()),
    "dropout= in the parameter file": ("", "conv1", params_of(conv=RATES + "dropout=0.5\n")),
    "randSparse": (
        f"[sparse]\n{SECOND.format('conv1', 8)}groups=2\nrandSparse=1\n".replace("filters=8", "filters=4"),
        "sparse",
        params_of(f"[sparse]\n{RATES}"),
    ),
    "randSparse of many": (
        f"[sparse]\n{SECOND.format('conv1', 8)}groups=4\nrandSparse=true\nfilterChannels=4\n",
        "sparse",
        params_of(f"[sparse]\n{RATES}"),
    ),
    "wcNorm": ("", "conv1", params_of(conv=RATES + "wcNormMin=0.001\nwcNormMax=0.01\nwball=0.05\n")),
    "a section of no layer": ("", "conv1", params_of(f"[conv7]\n{RATES}x=3\n")),
    "gpu=0,1": ("gpu=0,1\n[p]\ntype=pass\ninputs=conv1\ngpu=0,1\n", "p", params_of()),
    "a section that comes twice": ("[conv1]\npadding=2\nstride=2\n", "conv1", params_of()),
    "schedW by name": (
        "",
        "conv1",
        params_of(conv=RATES + "schedW=dexp[tgtFactor=250,noiseStdev=0,numSteps=4]\nschedB=default\n"),
    ),
    "schedW by position": ("", "conv1", params_of(conv=RATES + "schedW=exp[8]\nschedB=linear[4]\n")),
    "sched": ("", "conv1", params_of(conv=RATES + "sched=jdexp[1000,4]\n")),
    "noise": ("", "conv1", params_of(conv=RATES + "schedW=linear[1,0.5]\n")),
    "epsW=dexp": (
        "",
        "conv1",
        params_of(
            conv="epsW=dexp[base=0.004;tgtFactor=250;numSteps=4]\nepsB=const[base=0.002]\nmomW=0.9\nmomB=0.9\n"
        ),
    ),
    "a curve for each input": (
        f"[two]\n{SECOND.format('conv1', 8)}".replace("inputs=conv1", "inputs=conv1,data")
        .replace("channels=8", "channels=8,3")
        .replace("filters=8", "filters=8,8")
        .replace("filterSize=3", "filterSize=3,3")
        .replace("padding=1", "padding=1,1")
        .replace("initW=0.1", "initW=0.1,0.1"),
        "two",
        params_of(
            "[two]\nepsW=exp[base=0.001;tgtFactor=8],0.002\nepsB=0.001\nmomW=0.9,0.9\nmomB=0.9\n",
        ),
    ),
}


def layer(spec: NetSpec, name: str) -> Any:
    return next(layer for layer in spec.layers if layer.name == name)


def construct(files: Any, name: str) -> tuple[NetSpec, list[str]]:
    middle, last, params = CONSTRUCTS[name]
    found: tuple[NetSpec, list[str]] = files(text_of(middle, last), params)
    return found


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_each_construct_is_described_and_trains(files: Any, name: str, device: Device) -> None:
    spec, _ = construct(files, name)
    assert spec_from_dict(spec_to_dict(spec)) == spec
    network = Network(spec, batch=8, devices=device, seed=2)
    rows = network.describe()["layers"]
    assert [row["name"] for row in rows] == [layer.name for layer in spec.layers]
    rates = Rates(StepSchedule(0.002), network.parameters, {}, epochs=1)
    draws = np.random.default_rng(1)
    labels = np.arange(8) % 10
    images = draws.integers(0, 3, (8, 8, 8, 3), np.uint8) + labels[:, None, None, None].astype(np.uint8)
    losses = []
    for step in range(20):
        network.load(images, labels)
        network.train_step(step, rates.at(step / 20, step=step), 0.9)
        losses.append(network.result().loss)
    assert np.isfinite(losses).all() and min(losses[10:]) < losses[0]


@pytest.mark.parametrize("name", [name for name in CONSTRUCTS if "randSparse" not in name])
def test_each_construct_is_written_and_read_back(files: Any, name: str) -> None:
    spec, _ = construct(files, name)
    write(spec, Path("again") / "layers.cfg", Path("again") / "params.cfg")
    again, _ = read(
        Path("again", "layers.cfg"), Path("again", "params.cfg"), image_shape=(8, 8), name=spec.name
    )
    plain = {layer.name: layer for layer in again.layers}
    for one in spec.layers:
        assert plain[one.name] == dataclasses.replace(one, **_as_written(one, plain)), one.name


def _as_written(one: LayerSpec, others: dict[str, LayerSpec]) -> dict[str, Any]:
    """Return the field that differs in files: a split section has the device of its layer."""
    return {"device": others[one.name].device} if one.device is None else {}


# ---- what they mean ------------------------------------------------------------------------------------


def test_a_pass_is_what_it_reads(files: Any) -> None:
    spec, notes = construct(files, "pass")
    assert [layer.name for layer in spec.layers] == ["conv1", "fc", "cost"] and notes == []
    assert layer(spec, "fc").inputs == ("conv1",)
    spec, _ = construct(files, "pass with a neuron")
    assert layer(spec, "fc").inputs == ("p_neuron",) and layer(spec, "p_neuron").inputs == ("conv1",)


def test_concat_blur_and_nailbed(files: Any) -> None:
    spec, _ = construct(files, "concat")
    assert layer(spec, "both") == ConcatSpec(name="both", inputs=("pool", "conv1"))
    spec, _ = construct(files, "blur and nailbed")
    assert layer(spec, "blur0") == BlurSpec(name="blur0", inputs=("conv1",), stdev=2.0, size=5)
    # Of 8 pixels every third, as much in the middle as can be: 0, 3 and 6 or 1, 4 and 7.
    pixels = {"pool": "avg", "window": 1, "rounding": "ceil"}
    assert layer(spec, "nails0") == PoolSpec(
        name="nails0", inputs=("blur0",), stride=3, padding=0, outputs=(3, 3), **pixels
    )
    spec, _ = construct(files, "nailbed from a start")
    assert layer(spec, "nails0") == PoolSpec(
        name="nails0", inputs=("conv1",), stride=2, padding=-1, outputs=(4, 4), **pixels
    )


@pytest.mark.parametrize("side", range(3, 14))
@pytest.mark.parametrize("stride", range(1, 6))
def test_nails_are_in_the_middle(files: Any, side: int, stride: int) -> None:
    """As many on either side as can be, one more at the end, as the original computes it."""
    middle = f"[n]\ntype=nailbed\ninputs=conv1\nstride={stride}\nchannels=8\n"
    spec, _ = files(text_of(middle, "n"), params_of(), image_shape=(side, side, 3))
    found = layer(spec, "n")
    count = (side + stride - 1) // stride
    start = (side - stride * (count - 1)) // 2
    assert found.outputs == (count, count)
    first, last = -found.padding[0], -found.padding[0] + stride * (count - 1)
    assert last < side and abs(first - (side - 1 - last)) <= 1 and first in (start, start - 1)


def test_dropout_as_a_layers_parameter(files: Any) -> None:
    for name, keep in (("dropout= in the layer file", 0.75), ("dropout= in the parameter file", 0.5)):
        spec, _ = construct(files, name)
        assert layer(spec, "conv1_dropout") == DropoutSpec(name="conv1_dropout", inputs=("conv1",), keep=keep)
        assert layer(spec, "fc").inputs == ("conv1_dropout",)


def test_dropout_stands_before_a_function_that_does_not_commute_with_it(files: Any) -> None:
    """A mask and a ReLU may change places; a mask and a tanh may not, for tests multiply by keep."""
    layers = text_of("", "conv1").replace("neuron=relu", "neuron=tanh[1,2]\ndropout=0.5")
    spec, _ = files(layers, params_of())
    assert [layer.name for layer in spec.layers[:3]] == ["conv1", "conv1_dropout", "conv1_neuron"]
    assert layer(spec, "conv1").neuron is None and layer(spec, "fc").inputs == ("conv1_neuron",)


def test_limits_of_a_filters_contrast(files: Any) -> None:
    """The file's are divided by the number of a filter's weights, 27 here; so is wball."""
    spec, _ = construct(files, "wcNorm")
    assert layer(spec, "conv1").contrast_limits == (0.027, 0.27) and layer(spec, "conv1").norm_limit == 1.35
    spec, _ = files(text_of("", "conv1"), params_of(conv=RATES + "wcNormMax=0.5\n"))
    assert layer(spec, "conv1").contrast_limits == (0.0, 13.5)


def test_a_section_of_no_layer_is_named(files: Any) -> None:
    """The old programs do not look at it. Where a layer lacks its own it is taken for a typing error."""
    notes = construct(files, "a section of no layer")[1]
    assert notes == ["params.cfg:11: [conv7] is no layer's and is not used"]
    with pytest.raises(
        ValueError, match=r"params.cfg:6: layer fx: a layer must be one of .*; did you mean 'fc'"
    ):
        files(text_of("", "conv1"), params_of().replace("[fc]", "[fx]"))


def test_random_sparse_connections(files: Any) -> None:
    """Each group reads channels dealt out at random, all of them equally often."""
    spec, _ = construct(files, "randSparse of many")
    dealt = layer(spec, "sparse_sparse")
    assert isinstance(dealt, SelectSpec) and dealt.inputs == ("conv1",)
    assert len(dealt.channels) == 16
    for part in (dealt.channels[:8], dealt.channels[8:]):
        assert sorted(part) == list(range(8)) and part != tuple(range(8))
    assert (layer(spec, "sparse").inputs, layer(spec, "sparse").groups) == (("sparse_sparse",), 4)
    assert construct(files, "randSparse of many")[0] == spec
    middle, last, params = CONSTRUCTS["randSparse of many"]
    for channels in (3, 5):
        with pytest.raises(ValueError, match=r"filterChannels must divide channels, 8, and times groups, 4"):
            files(text_of(middle.replace("filterChannels=4", f"filterChannels={channels}"), last), params)


def test_several_devices_are_said(files: Any) -> None:
    spec, notes = construct(files, "gpu=0,1")
    assert layer(spec, "conv1").device == 0
    assert notes == [
        "gpu=0,1: a replica on each would compute a part of the batch; the first device computes all of it: "
        "conv1, p"
    ]


def test_what_comes_twice(files: Any) -> None:
    """Python's parser, which the old programs use, goes on with the section and takes the last value."""
    spec, notes = construct(files, "a section that comes twice")
    assert (layer(spec, "conv1").padding, layer(spec, "conv1").stride) == ((2, 2), (2, 2))
    assert notes == [
        "layers.cfg:16: a second section [conv1] continues the first, line 7",
        "layers.cfg:17: layer conv1: padding replaces '1' of line 13",
    ]


def test_curves_in_all_their_forms(files: Any) -> None:
    quarter = RateCurve("dexp", 250.0, 4)
    spec, _ = construct(files, "schedW by name")
    assert (layer(spec, "conv1").lr_curve, layer(spec, "conv1").bias_lr_curve) == (quarter, None)
    spec, _ = construct(files, "epsW=dexp")
    assert (layer(spec, "conv1").lr_curve, layer(spec, "conv1").bias_lr_curve) == (quarter, None)
    assert spec.recipe.lr == 0.004 and layer(spec, "conv1").bias_lr_scale == 0.5
    spec, _ = construct(files, "schedW by position")
    assert (layer(spec, "conv1").lr_curve, layer(spec, "conv1").bias_lr_curve) == (
        RateCurve("exp", 8.0),
        RateCurve("linear", 4.0),
    )
    spec, _ = construct(files, "sched")
    assert (
        layer(spec, "conv1").lr_curve == layer(spec, "conv1").bias_lr_curve == RateCurve("jdexp", 1000.0, 4)
    )
    spec, _ = construct(files, "noise")
    assert layer(spec, "conv1").lr_curve == RateCurve("linear", 1.0, noise=0.5)
    for text, curve in (
        ("dexp[250,4]", quarter),
        ("dexp[250,0,4]", quarter),
        ("dexp[250,0.5,4]", RateCurve("dexp", 250.0, 4, 0.5)),
        ("exp[20000]", RateCurve("exp", 20000.0)),
        ("DEXP[tgtfactor=250; numsteps=4]", quarter),
    ):
        spec, _ = files(text_of("", "conv1"), params_of(conv=RATES + f"schedW={text}\n"))
        assert layer(spec, "conv1").lr_curve == curve
    with pytest.raises(ValueError, match=r"params.cfg:6: layer conv1: epsW has a curve already"):
        both = RATES.replace("epsW=0.001", "epsW=exp[base=1;tgtFactor=2]") + "schedW=exp[2]\n"
        files(text_of("", "conv1"), params_of(conv=both))


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (RateCurve("linear", 5.0), {0: 1, 0.25: 0.8, 0.5: 0.6, 1: 0.2}),
        (RateCurve("exp", 16.0), {0: 1, 0.25: 0.5, 0.5: 0.25, 1: 0.0625}),
        (
            RateCurve("dexp", 1000.0, 4),
            {0: 1, 0.25: 1, 0.26: 0.1, 0.5: 0.1, 0.51: 0.01, 0.76: 0.001, 1: 0.001},
        ),
        (RateCurve("dexp", 8.0, 1), {0: 0.125, 1: 0.125}),
        # In the second half of a part, between 0.2 and 0.9 of the run, half a step back.
        (
            RateCurve("jdexp", 1e4, 3),
            {0: 1, 0.34: 0.01, 0.49: 0.01, 0.51: 0.1, 0.67: 1e-4, 0.84: 1e-3, 0.91: 1e-4},
        ),
    ],
)
def test_what_a_curve_multiplies_a_rate_by(curve: RateCurve, expected: dict[float, float]) -> None:
    for progress, factor in expected.items():
        assert curve_factor(curve, progress) == pytest.approx(factor, rel=1e-12), progress


def test_noise_is_a_function_of_seed_and_step(files: Any) -> None:
    spec, _ = construct(files, "noise")
    network = Network(spec, batch=1, devices="cpu:0")
    rates = [
        [Rates(StepSchedule(2.0), network.parameters, {}, 1, seed).at(0.5, step=step) for step in range(400)]
        for seed in (1, 1, 2)
    ]
    assert rates[0] == rates[1] != rates[2]
    drawn = np.array([row["conv1.weight"] for row in rates[0]]) / 2 - 1
    assert (drawn > 0).all() and len(set(drawn)) == 400
    # Half a standard deviation's noise: the mean of |z| is sqrt(2 / pi).
    assert abs(drawn.mean() / (0.5 * np.sqrt(2 / np.pi)) - 1) < 0.12
    assert {row["conv1.bias"] for row in rates[0]} == {2.0}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"kind": "cos", "factor": 2},
            "a rate's curve must be one of constant, cosine, dexp, epochs, .*, not 'cos'",
        ),
        ({"kind": "exp", "factor": 0}, "factor must be above 0, not 0"),
        ({"kind": "exp", "factor": float("nan")}, "factor must be above 0, not nan"),
        ({"kind": "dexp", "factor": 2, "steps": 0}, "steps must be at least 1, not 0"),
        ({"kind": "exp", "factor": 2, "noise": -1}, "noise must be at least 0, not -1"),
    ],
)
def test_curves_that_make_no_sense(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RateCurve(**values)


def test_a_run_falls_along_its_curves_and_resumes_on_them(tmp_path: Path) -> None:
    """The log holds the rates; a run in two parts ends with the weights of one in one part."""
    (tmp_path / "layers.cfg").write_text(text_of("", "conv1").replace("channels=3", "channels=1"))
    conv = "epsW=dexp[base=0.01;tgtFactor=100;numSteps=2]\nepsB=0.002\nmomW=0.9\nmomB=0.9\n"
    (tmp_path / "params.cfg").write_text(params_of(conv=conv, fc=RATES + "schedW=exp[4,0.1]\n"))
    files = {"layer_def": tmp_path / "layers.cfg", "layer_params": tmp_path / "params.cfg"}
    common = {**files, "devices": ["cpu:0"], "epochs": 2, "log_every": 1, "seed": 4}
    train(Options(**common, out=tmp_path / "whole"), Listener())
    lines = [line for line in read_log(tmp_path / "whole") if "lr_other" in line or "lr" in line]
    seen = [
        line["lr_other"].get("conv1.weight", line["lr"]) for line in lines if "step" in line and "lr" in line
    ]
    assert sorted(set(seen), reverse=True) == pytest.approx([0.01, 0.0001])
    assert seen == sorted(seen, reverse=True)
    total = json.loads((tmp_path / "whole" / "summary.json").read_text())["steps"]
    train(Options(**common, steps=total // 2 + 1, out=tmp_path / "half"), Listener())
    train(Options(resume=tmp_path / "half", devices=["cpu:0"], steps=total), Listener())
    ends = [max((tmp_path / name / "checkpoints").glob("step-*.safetensors")) for name in ("whole", "half")]
    one, other = (load_file(end) for end in ends)
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)
