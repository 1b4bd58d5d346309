"""The options of a training, each written once.

A field of :class:`Options` describes one option: its type, default, help and range, and how a resumed run
treats it. Four things follow from these fields:

- the flags of ``cconvnet train`` and of other commands that share them, in :mod:`cconvnet.cli.options`;
- the checks of values that are given in Python, in :meth:`Options.check`;
- the settings that a run keeps as JSON, in :mod:`cconvnet.training.settings`;
- the keys of files of options, in :mod:`cconvnet.training.option_files`.

NumPy is not imported here, so that ``--help`` answers at once.
"""

# ruff: noqa: RUF009  (each call makes a field of its own)

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from cconvnet import nets
from cconvnet.checks import MAX_INT32, MAX_SEED, MAX_SHARDS, MAX_SIDE, MAX_TOWERS
from cconvnet.nets import Distortion, LrStep, NetSpec, RateCurve, TrainRecipe
from cconvnet.training.option import (
    DATA,
    DEVICES,
    IMAGES,
    LENGTH,
    NETWORK,
    RATES,
    RUN,
    OnResume,
    described,
    field,
)
from cconvnet.training.option_values import (
    Real,
    RealOfEach,
    Whole,
    parse_area,
    parse_device_names,
    parse_distort,
    parse_except,
    parse_freeze,
    parse_lr_plateau,
    parse_lr_scale,
    parse_lr_schedule,
    parse_lr_steps,
    parse_places,
)

AUTO = Path("auto")  # the value of --resume for "whatever there is to resume"
MAX_WORKERS = 4096  # as many as the largest machines have cores

# Types of gradients between ranks, and orders in which they are added; see cconvnet.ranks.shares.
WIRES, REDUCTIONS, EXCHANGES = ("fp32", "bf16"), ("tree", "fast"), ("auto", "gradients")
PARALLELS = ("data", "hybrid")


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a training. None leaves the choice to the network's recipe, or to the resumed run."""

    net: str | NetSpec | None = field(
        NETWORK,
        f"Network: {', '.join(nets.NAMES)}; or a file: .py, which defines net or build(image_shape, "
        "classes), or .json, as describe --json writes it. lenet if not given.",
        "NAME",
        parse=str,
        choices=nets.NAMES,
    )
    layer_def: Path | None = field(
        NETWORK, "Layers of a network in cuda-convnet's format, instead of --net.", "FILE"
    )
    layer_params: Path | None = field(NETWORK, "Parameters that go with --layer-def.", "FILE")
    data: str | None = field(
        DATA,
        "Folder of images (train/CLASS/*.jpg and test/CLASS/*.jpg), of shards, of ILSVRC-2012's or "
        "WebDataset tars, of MNIST's or CIFAR-10's files, or 'digits', the embedded default.",
        "FOLDER",
        on_resume="take",
    )
    size: int | None = field(
        DATA,
        "Side in pixels that images are resized to before crops; with label images, that of their canvas.",
        "PIXELS",
        range=Whole(1, MAX_SIDE),
        on_resume="refuse",
    )
    workers: int | None = field(
        DATA,
        "Number of processes that decode images; chosen automatically if not given.",
        "N",
        range=Whole(0, MAX_WORKERS),
    )
    crop: int | None = field(
        IMAGES,
        "Side in pixels of the squares that are cut out of images; the network's own if not given, else "
        "whole images.",
        "PIXELS",
        range=Whole(1, MAX_SIDE),
    )
    random_crop: bool | None = field(
        IMAGES,
        "Train on crops at random places instead of the centre; tests read the centre. If not given: as the "
        "network's recipe, and with --pad.",
        flag="--random-crop/--no-random-crop",
        setting="crop",
        recipe="crop",
        on_resume="take",
    )
    random_resized_crop: bool | None = field(
        IMAGES,
        "Train on a part of each picture, of any area, proportions and place, resized to the network's "
        "input; tests read the centre. If not given: as the network's recipe, and with --area.",
        flag="--random-resized-crop/--no-random-resized-crop",
        recipe="random_resized_crop",
        on_resume="take",
    )
    area: tuple[float, float] | None = field(
        IMAGES,
        "Least and largest part of a picture's area that random-resized crops cover; the network's own, else "
        "0.08,1, if not given.",
        "LEAST,LARGEST",
        parse=parse_area,
        recipe="area",
        on_resume="take",
    )
    pad: int | None = field(
        IMAGES,
        "Let random crops reach this far into zeros around the image, after the mean is subtracted; the "
        "network's own if not given. Tests read the image without them.",
        "PIXELS",
        range=Whole(0, MAX_SIDE),
        recipe="pad",
        on_resume="take",
    )
    mirror: bool | None = field(
        IMAGES,
        "Mirror half of the training images, at random; the network's own if not given.",
        flag="--mirror/--no-mirror",
        recipe="mirror",
        on_resume="take",
    )
    color_noise: float | None = field(
        IMAGES,
        "Strength of the colour noise in training, 0 for none; the network's own if not given.",
        "SIGMA",
        range=Real(low=0),
        recipe="color_noise",
        on_resume="take",
    )
    distort: Distortion | None = field(
        IMAGES,
        "Distort training images, anew in each epoch, by at most rotation=15 degrees, scaling=15 and "
        "translation=5 percent, and an elastic field of alpha=36 and sigma=6 pixels, separated by commas; or "
        "none. The network's own if not given.",
        "LIMITS",
        parse=parse_distort,
        recipe="distort",
        on_resume="take",
    )
    batch: int | None = field(
        LENGTH,
        "Images per step; the network's own if not given.",
        "N",
        range=Whole(),
        recipe="batch",
        on_resume="refuse",
    )
    accumulate: int | None = field(
        LENGTH,
        "Batches per step: the update is by the mean of their gradients, so that N times as many images fit "
        "into memory; 1 if not given.",
        "N",
        range=Whole(),
        otherwise=1,
        on_resume="refuse",
    )
    shards: int | None = field(
        LENGTH,
        "Equal parts of each batch, which are computed alone and whose gradients are added in one fixed "
        "order. From 1 to so many ranks (mpiexec -n N) train the run, to the same bits; as many as ranks if "
        "not given.",
        "N",
        range=Whole(1, MAX_SHARDS),
        otherwise=1,
        on_resume="refuse",
    )
    epochs: int | None = field(
        LENGTH,
        "Number of passes over the training images.",
        "N",
        range=Whole(),
        recipe="epochs",
        on_resume="take",
    )
    steps: int | None = field(
        LENGTH, "Stop when the run has done this many steps in all.", "N", range=Whole()
    )
    seed: int | None = field(
        LENGTH,
        "Random seed for weights, order, crops and dropout; 0 if not given.",
        "N",
        range=Whole(0, MAX_SEED),
        otherwise=0,
        on_resume="refuse",
    )
    lr: float | None = field(
        RATES,
        "Learning rate at the beginning, after the warm-up if there is one.",
        "RATE",
        range=Real(above=0),
        recipe="lr",
        on_resume="take",
    )
    lr_schedule: RateCurve | None = field(
        RATES,
        "Curve of the rate over the run: constant; cosine, linear or poly:POWER, which end at 0; cosine:END, "
        "linear:END or exp:END, which end at this part of the rate; or epochs:FACTOR, such as epochs:0.993, "
        "which each epoch multiplies, down to END of epochs:FACTOR:END. A curve that falls replaces the "
        "network's own steps and plateau.",
        "CURVE",
        choices=("constant", "cosine", "linear", "poly:", "exp:", "epochs:"),
        parse=parse_lr_schedule,
        recipe="schedule",
        on_resume="take",
    )
    lr_steps: tuple[LrStep, ...] | None = field(
        RATES,
        "Epochs at which the rate is divided by 10, such as 60,75, or none; the network's own if not given.",
        "EPOCHS",
        parse=parse_lr_steps,
        recipe="steps",
        on_resume="take",
    )
    lr_plateau: int | None = field(
        RATES,
        "Also divide the rate by 10 when the test error has not fallen for N epochs, or none for never; the "
        "network's own if not given.",
        "N",
        parse=parse_lr_plateau,
        range=Whole(0),
        recipe="plateau",
        on_resume="take",
    )
    warmup: float | None = field(
        RATES,
        "Epochs, such as 0.5 or 5, over which the rate first rises to --lr, linearly; the network's own if "
        "not given.",
        "EPOCHS",
        range=Real(low=0, high=MAX_INT32),
        recipe="warmup",
        on_resume="take",
    )
    warmup_from: float | None = field(
        RATES,
        "First rate of the warm-up, as a part of --lr; the network's own, else 0.1, if not given.",
        "FRACTION",
        range=Real(low=0, high=1),
        recipe="warmup_from",
        on_resume="take",
    )
    lr_scale: dict[str, float] | None = field(
        RATES,
        "Multiply the rates of layers, such as conv1=0.1,fc8=2, or *=0.1,fc8=1: a layer's own name wins, "
        "then the last pattern that fits. A resumed run keeps its other factors; 1 undoes one.",
        "LAYER=FACTOR,...",
        parse=parse_lr_scale,
        range=RealOfEach(Real(low=0)),
    )
    freeze: tuple[str, ...] | None = field(
        RATES, "Layers that do not learn, such as conv1,fc*: factor 0.", "LAYERS", parse=parse_freeze
    )
    momentum: float | None = field(
        RATES,
        "Momentum of the updates; the network's own if not given. A layer's own momentum stays.",
        "FACTOR",
        range=Real(low=0, high=1),
        recipe="momentum",
        on_resume="take",
    )
    nesterov: bool | None = field(
        RATES,
        "Take Nesterov's momentum, whose updates look one step ahead; the network's own if not given.",
        flag="--nesterov/--no-nesterov",
        recipe="nesterov",
        on_resume="take",
    )
    lars: float | None = field(
        RATES,
        "Set the rate of each layer's weights by LARS, for large batches: a step is this part of weights, "
        "such as 0.001, times --lr. 0, for no LARS, if not given.",
        "RATIO",
        range=Real(low=0, high=1),
        otherwise=0.0,
        on_resume="take",
    )
    weight_decay: float | None = field(
        RATES,
        "Weight decay of the weights of all layers; biases then have none. The network's own, layer by "
        "layer, if not given.",
        "FACTOR",
        range=Real(low=0),
        on_resume="take",
    )
    label_smoothing: float | None = field(
        RATES,
        "Part of the target that all classes share alike in training, such as 0.1; losses of tests are "
        "without it. The network's own if not given.",
        "PART",
        range=Real(low=0, high=1),
        on_resume="take",
    )
    wire: str | None = field(
        DEVICES,
        "Type of gradients between ranks: fp32, or bf16, to which those of each shard are rounded; their "
        "sums stay fp32. fp32 if not given.",
        "NAME",
        choices=WIRES,
        otherwise="fp32",
        on_resume="take",
    )
    reduction: str | None = field(
        DEVICES,
        "Order in which gradients of ranks are added: tree, fixed; or fast, the MPI library's own, whose "
        "rounding depends on the number of ranks. tree if not given.",
        "NAME",
        flag="--reduce",
        choices=REDUCTIONS,
        otherwise="tree",
        on_resume="take",
    )
    out: Path | None = field(RUN, "Folder of the run; runs/NET-DATA-TIME if not given.", "FOLDER")
    weights: Path | None = field(
        RUN, "Begin with the weights of a .pth, .pt, .th or .safetensors file, or of a run.", "FILE"
    )
    except_layers: tuple[str, ...] | None = field(
        RUN,
        "Layers that --weights leaves at their random first values, such as fc8 or fc*; auto: those of "
        "other shapes, as the last one for other classes.",
        "LAYERS",
        flag="--except",
        parse=parse_except,
    )
    resume: Path | None = field(
        RUN,
        "Resume this run, or this checkpoint of it; auto: the run that --out names, or the newest run that "
        "is not complete.",
        "RUN",
    )
    checkpoint_every: int | None = field(
        RUN,
        "Steps between checkpoints; ten minutes if not given. Epochs also end with one, unless that would "
        "pause training for a tenth of the time or write for half of it.",
        "N",
        range=Whole(),
    )
    keep: int | None = field(
        RUN,
        "Checkpoints to keep beside the best; 2, or as many as a resumed run kept, if not given.",
        "N",
        range=Whole(),
    )
    log_every: int = field(RUN, "Steps per line of the log.", "N", default=20, range=Whole())
    tensorboard: bool = field(RUN, "Also write the run's log for TensorBoard.", default=False)
    detect_anomaly: bool = field(
        RUN, "Check all values and gradients, and stop at the first that is not finite; slow.", default=False
    )
    devices: list[str] | None = field(
        DEVICES,
        "cuda:0, cpu:0, emulator:0, or several separated by commas. If not given: a GPU if there is one.",
        "NAMES",
        flag="--device",
        parse=parse_device_names,
    )
    place: dict[str, int | str] | None = field(
        DEVICES,
        "Devices of layers, such as conv3=1,fc6=cpu:1. A number is a position in --device, from 0. Other "
        "layers are on the device of their input.",
        "LAYER=DEVICE",
        parse=parse_places,
    )
    towers: int | None = field(
        DEVICES,
        "Number of parts that split layers are cut into; one for each device if not given.",
        "N",
        range=Whole(1, MAX_TOWERS),
        otherwise=1,
        on_resume="refuse",
    )
    precision: str | None = field(
        DEVICES,
        "Precision of products: fp32, fp32x3 or tf32 (GPUs), or bf16; fp32 if not given.",
        "NAME",
        choices=("fp32", "fp32x3", "tf32", "bf16"),
        otherwise="fp32",
        on_resume="take",
    )
    exchange: str | None = field(
        DEVICES,
        "Gradients of FC layers between ranks: auto, of each layer the gradient or its factors, inputs and "
        "output gradients, whichever are fewer bytes; or gradients. auto if not given.",
        "NAME",
        choices=EXCHANGES,
        otherwise="auto",
        on_resume="take",
    )
    parallel: str | None = field(
        DEVICES,
        "Division among ranks: data, images alone; or hybrid, images, and of FC layers the outputs, which "
        "each rank computes for the images of all. data if not given.",
        "NAME",
        choices=PARALLELS,
        otherwise="data",
        on_resume="take",
    )

    def check(self) -> None:
        """Check that each value is in its option's range, and that no layer has two factors.

        Raises:
            TypeError, NumberError, ValueError: The text names the option.
        """
        for name, option in DESCRIPTIONS.items():
            value = getattr(self, name)
            if value is not None and option.range is not None:
                option.range.check(option.name, value)
        for name in ("wire", "reduction", "exchange", "parallel"):
            option, value = DESCRIPTIONS[name], getattr(self, name)
            if value is not None and value not in (known := option.choices or ()):
                raise ValueError(f"{option.name} must be {' or '.join(known)}, not {value!r}")
        for flag, value in (("--detect-anomaly", self.detect_anomaly), ("--lars", self.lars)):
            if self.parallel == "hybrid" and value:
                raise ValueError(f"{flag} is for --parallel data; leave out one of them")
        if self.wire == "bf16" and self.reduction == "fast":
            raise ValueError("--wire bf16 is for --reduce tree; leave out one of them")
        if self.pad and self.random_crop is False:
            raise ValueError("--pad is for random crops; leave out --no-random-crop")
        if self._resizes_crops and (self.random_crop or self.pad):
            raise ValueError(
                "--random-resized-crop takes the place of random crops; leave out --random-crop and --pad"
            )
        if self.weights is not None and self.resume not in (None, AUTO):
            raise ValueError("--weights begins a new run; leave out --resume, or --weights")
        if self.except_layers and self.weights is None:
            raise ValueError("--except goes with --weights")
        self.lr_factors()

    @property
    def resumes_any(self) -> bool:
        """True if the run to resume is to be found, as ``--resume auto`` asks."""
        return self.resume == AUTO

    def lr_factors(self) -> dict[str, float] | None:
        """Return the factors of layers' rates, those of frozen layers being 0; None if none is given.

        Raises:
            ValueError: A layer is given both a factor and --freeze.
        """
        if self.lr_scale is None and self.freeze is None:
            return None
        factors = dict(self.lr_scale or {})
        for layer in self.freeze or ():
            if layer in factors:
                raise ValueError(f"--lr-scale and --freeze both name the layer {layer}")
            factors[layer] = 0.0
        return factors

    def settings(self, recipe: TrainRecipe) -> dict[str, Any]:
        """Return the values that a new run keeps, by name.

        Args:
            recipe: Of the network; it has the values of the options that are not given.
        """
        values = {}
        for name, option in DESCRIPTIONS.items():
            if option.on_resume is not None:
                value = self._implied(name)
                if value is None:
                    value = option.otherwise if option.recipe is None else getattr(recipe, option.recipe)
                values[option.setting] = value
        if values["pad"] and self.random_crop is None:
            values["crop"] = True
        if values["random_resized_crop"]:
            values["crop"] = False
        if not values["crop"]:
            values["pad"] = 0
        return values

    @property
    def _resizes_crops(self) -> bool:
        """True if the options ask for random-resized crops."""
        return self.random_resized_crop or (self.random_resized_crop is None and self.area is not None)

    def _implied(self, name: str) -> Any:
        """Return the value of an option that was given, or that others imply; None if neither is so."""
        value = getattr(self, name)
        if value is None and name == "random_crop" and self.pad:
            return True
        if value is None and name == "random_resized_crop" and (self.random_crop or self.pad):
            return False
        if value is None and self._resizes_crops:
            return {"random_resized_crop": True, "random_crop": False, "pad": 0}.get(name)
        if value is None and self.lr_schedule is not None and self.lr_schedule.kind != "constant":
            return {"lr_steps": (), "lr_plateau": 0}.get(name)
        return value

    def given(self, on_resume: OnResume) -> dict[str, Any]:
        """Return the settings that were given, or are implied, and that a resumed run treats in this way."""
        return {
            option.setting: self._implied(name)
            for name, option in DESCRIPTIONS.items()
            if option.on_resume == on_resume and self._implied(name) is not None
        }


# By the name of the field, in the order of the help.
DESCRIPTIONS = {one.name: described(one) for one in dataclasses.fields(Options)}
