"""The keywords of ``cconvnet.train``, made by tools/training_keywords.py from training.options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypedDict

from cconvnet.nets import Distortion, LrStep, RateCurve


class TrainingKeywords(TypedDict, total=False):
    """Options of a training, as keywords; None is as good as leaving one out."""

    layer_def: str | os.PathLike[str] | None
    """Layers of a network in cuda-convnet's format, instead of net."""

    layer_params: str | os.PathLike[str] | None
    """Parameters that go with layer_def."""

    size: int | None
    """Side in pixels that images are resized to before crops; with label images, that of their canvas."""

    workers: int | None
    """Number of processes that decode images; chosen automatically if not given."""

    crop: int | None
    """Side in pixels of the squares that are cut out of images; the network's own if not given, else whole
    images.
    """

    random_crop: bool | None
    """Train on crops at random places instead of the centre; tests read the centre. If not given: as the
    network's recipe, and with pad.
    """

    random_resized_crop: bool | None
    """Train on a part of each picture, of any area, proportions and place, resized to the network's input;
    tests read the centre. If not given: as the network's recipe, and with area.
    """

    area: str | tuple[float, float] | None
    """Least and largest part of a picture's area that random-resized crops cover; the network's own, else
    0.08,1, if not given.
    """

    pad: int | None
    """Let random crops reach this far into zeros around the image, after the mean is subtracted; the
    network's own if not given. Tests read the image without them.
    """

    mirror: bool | None
    """Mirror half of the training images, at random; the network's own if not given."""

    color_noise: float | None
    """Strength of the colour noise in training, 0 for none; the network's own if not given."""

    distort: str | Distortion | None
    """Distort training images, anew in each epoch, by at most rotation=15 degrees, scaling=15 and
    translation=5 percent, and an elastic field of alpha=36 and sigma=6 pixels, separated by commas; or
    none. The network's own if not given.
    """

    batch: int | None
    """Images per step; the network's own if not given."""

    accumulate: int | None
    """Batches per step: the update is by the mean of their gradients, so that N times as many images fit
    into memory; 1 if not given.
    """

    shards: int | None
    """Equal parts of each batch, which are computed alone and whose gradients are added in one fixed
    order. From 1 to so many ranks (mpiexec -n N) train the run, to the same bits; as many as ranks if
    not given.
    """

    epochs: int | None
    """Number of passes over the training images."""

    steps: int | None
    """Stop when the run has done this many steps in all."""

    seed: int | None
    """Random seed for weights, order, crops and dropout; 0 if not given."""

    lr: float | None
    """Learning rate at the beginning, after the warm-up if there is one."""

    lr_schedule: str | RateCurve | None
    """Curve of the rate over the run: constant; cosine, linear or poly:POWER, which end at 0; cosine:END,
    linear:END or exp:END, which end at this part of the rate; or epochs:FACTOR, such as epochs:0.993,
    which each epoch multiplies, down to END of epochs:FACTOR:END. A curve that falls replaces the
    network's own steps and plateau.
    """

    lr_steps: str | Sequence[float | LrStep] | None
    """Epochs at which the rate is divided by 10, such as 60,75, or none; the network's own if not given."""

    lr_plateau: str | int | None
    """Also divide the rate by 10 when the test error has not fallen for N epochs, or none for never; the
    network's own if not given.
    """

    warmup: float | None
    """Epochs, such as 0.5 or 5, over which the rate first rises to lr, linearly; the network's own if not
    given.
    """

    warmup_from: float | None
    """First rate of the warm-up, as a part of lr; the network's own, else 0.1, if not given."""

    lr_scale: str | dict[str, float] | None
    """Multiply the rates of layers, such as conv1=0.1,fc8=2, or *=0.1,fc8=1: a layer's own name wins, then
    the last pattern that fits. A resumed run keeps its other factors; 1 undoes one.
    """

    freeze: str | Sequence[str] | None
    """Layers that do not learn, such as conv1,fc*: factor 0."""

    momentum: float | None
    """Momentum of the updates; the network's own if not given. A layer's own momentum stays."""

    nesterov: bool | None
    """Take Nesterov's momentum, whose updates look one step ahead; the network's own if not given."""

    lars: float | None
    """Set the rate of each layer's weights by LARS, for large batches: a step is this part of weights,
    such as 0.001, times lr. 0, for no LARS, if not given.
    """

    weight_decay: float | None
    """Weight decay of the weights of all layers; biases then have none. The network's own, layer by layer,
    if not given.
    """

    label_smoothing: float | None
    """Part of the target that all classes share alike in training, such as 0.1; losses of tests are
    without it. The network's own if not given.
    """

    wire: str | None
    """Type of gradients between ranks: fp32, or bf16, to which those of each shard are rounded; their sums
    stay fp32. fp32 if not given.
    """

    reduction: str | None
    """Order in which gradients of ranks are added: tree, fixed; or fast, the MPI library's own, whose
    rounding depends on the number of ranks. tree if not given.
    """

    out: str | os.PathLike[str] | None
    """Folder of the run; runs/NET-DATA-TIME if not given."""

    weights: str | os.PathLike[str] | None
    """Begin with the weights of a .pth, .pt, .th or .safetensors file, or of a run."""

    except_layers: str | Sequence[str] | None
    """Layers that weights leaves at their random first values, such as fc8 or fc*; auto: those of other
    shapes, as the last one for other classes.
    """

    checkpoint_every: int | None
    """Steps between checkpoints; ten minutes if not given. Epochs also end with one, unless that would
    pause training for a tenth of the time or write for half of it.
    """

    keep: int | None
    """Checkpoints to keep beside the best; 2, or as many as a resumed run kept, if not given."""

    log_every: int
    """Steps per line of the log."""

    tensorboard: bool
    """Also write the run's log for TensorBoard."""

    detect_anomaly: bool
    """Check all values and gradients, and stop at the first that is not finite; slow."""

    devices: str | Sequence[str] | None
    """cuda:0, cpu:0, emulator:0, or several separated by commas. If not given: a GPU if there is one."""

    place: str | dict[str, int | str] | None
    """Devices of layers, such as conv3=1,fc6=cpu:1. A number is a position in devices, from 0. Other
    layers are on the device of their input.
    """

    towers: int | None
    """Number of parts that split layers are cut into; one for each device if not given."""

    precision: str | None
    """Precision of products: fp32, fp32x3 or tf32 (GPUs), or bf16; fp32 if not given."""

    exchange: str | None
    """Gradients of FC layers between ranks: auto, of each layer the gradient or its factors, inputs and
    output gradients, whichever are fewer bytes; or gradients. auto if not given.
    """

    parallel: str | None
    """Division among ranks: data, images alone; or hybrid, images, and of FC layers the outputs, which
    each rank computes for the images of all. data if not given.
    """
