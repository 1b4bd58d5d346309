"""Errors in cuda-convnet's configuration files are named with file, line and layer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from helpers.layer_files import LAYERS, PARAMS, RATES_OF_TWO, with_x

from cconvnet.formats.cuda_convnet import ConfigError, read
from cconvnet.formats.ini import read_sections

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
    ("l", "[data]\n", "", "l1", r"type is before the first section"),
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
        (NORM_X + "scale=1\n", NORM_P, r"layers.cfg:45: layer x: scale must be in one of the two files"),
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
            r"layers.cfg:43: layer x: keep must be in one",
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
