"""A small network in cuda-convnet's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cconvnet.nets import (
    NetSpec,
)

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
