"""The options of a training, each written once.

A field of :class:`Options` describes one option: its type, default, help and range, and how a resumed run
treats it. Three things follow from these fields:

- the flags of ``cconvnet train`` and of other commands that share them, in :mod:`cconvnet.cli.options`;
- the checks of values that are given in Python, in :meth:`Options.check`;
- the settings that a run keeps as JSON, in :mod:`cconvnet.training.settings`.

NumPy is not imported here, so that ``--help`` answers at once.
"""

# ruff: noqa: RUF009  (each call makes a field of its own)

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from cconvnet import checks, nets
from cconvnet.checks import MAX_FLOAT32, MAX_INT32, MAX_SEED, MAX_SIDE, MAX_TOWERS
from cconvnet.nets import LrStep, NetSpec, TrainRecipe

AUTO = Path("auto")  # the value of --resume for "whatever there is to resume"
MAX_WORKERS = 4096  # as many as the largest machines have cores
_DEVICE = re.compile(r"[0-9]{1,9}|[a-z]+(?::[0-9]{1,9})?")

# A resumed run takes or refuses a value that differs from its own.
OnResume = Literal["take", "refuse"]


# ---- texts of the command line ---------------------------------------------------------------------------


def parse_device_names(text: str) -> list[str]:
    """Split the names of devices, such as "cuda:0,cuda:1"."""
    return [name.strip() for name in text.split(",")]


def parse_places(text: str) -> dict[str, int | str]:
    """Read the devices of layers from a text such as "conv3=1,fc6=cpu:1".

    Raises:
        ValueError: The text has another form.
    """
    places: dict[str, int | str] = {}
    for part in text.split(","):
        layer, equals, device = (piece.strip() for piece in part.partition("="))
        if not (layer and equals and _DEVICE.fullmatch(device)):
            raise ValueError(f"--place must be like conv3=1,fc6=cpu:1, not {text!r}")
        places[layer] = int(device) if checks.is_number(device) else device
    return places


def parse_lr_steps(text: str | None) -> tuple[LrStep, ...] | None:
    """Read the epochs at which the rate is divided by 10 from a text such as "60,75"; "none" is no epoch.

    Raises:
        ValueError: The text has another form.
    """
    if text is None or text == "none":
        return None if text is None else ()
    try:
        epochs = [float(part) for part in text.split(",")]
    except ValueError:
        epochs = [math.nan]
    if not all(epoch > 0 and math.isfinite(epoch) for epoch in epochs) or epochs != sorted(set(epochs)):
        raise ValueError(f"--lr-steps must be rising epochs such as 60,75, or none, not {text!r}")
    return tuple(LrStep(epoch, 0.1) for epoch in epochs)


def parse_lr_plateau(text: str | None) -> int | None:
    """Read a number of epochs from a text such as "5"; "none" is 0.

    Raises:
        ValueError: The text has another form.
    """
    if text is None or text == "none":
        return None if text is None else 0
    if not checks.is_number(text) or int(text) < 1:
        raise ValueError(f"--lr-plateau must be a number of epochs from 1 on, or none, not {text!r}")
    return checks.whole("--lr-plateau", int(text), 1)


def parse_lr_scale(text: str) -> dict[str, float]:
    """Read the factors of layers' rates from a text such as "conv1=0.1,fc8=2".

    Raises:
        ValueError: The text has another form.
    """
    factors = {}
    for part in text.split(","):
        layer, _, number = part.partition("=")
        try:
            factor = float(number)
        except ValueError:
            factor = math.nan
        if not layer.strip() or not 0 <= factor <= MAX_FLOAT32:
            raise ValueError(f"--lr-scale must be like conv1=0.1,fc8=2, with factors from 0 on, not {text!r}")
        factors[layer.strip()] = factor
    return factors


def parse_freeze(text: str) -> tuple[str, ...]:
    """Read the names of layers from a text such as "conv1,conv2".

    Raises:
        ValueError: The text has another form.
    """
    layers = tuple(part.strip() for part in text.split(","))
    if not all(layers):
        raise ValueError(f"--freeze must be layers such as conv1,conv2, not {text!r}")
    return layers


# ---- ranges ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Whole:
    """The range of a whole number."""

    low: int = 1
    high: int = MAX_INT32

    def check(self, flag: str, value: Any) -> int:
        """Return the number if it is in the range; the error names the flag.

        Raises:
            TypeError, NumberError: As :func:`cconvnet.checks.whole`.
        """
        return checks.whole(flag, value, self.low, self.high)


@dataclasses.dataclass(frozen=True)
class Real:
    """The range of a finite number: `low` is allowed, `above` is not."""

    low: float = -MAX_FLOAT32
    above: float | None = None
    high: float = MAX_FLOAT32

    def check(self, flag: str, value: Any) -> float:
        """Return the number if it is in the range; the error names the flag.

        Raises:
            TypeError, NumberError: As :func:`cconvnet.checks.real`.
        """
        return checks.real(flag, value, low=self.low, above=self.above, high=self.high)


@dataclasses.dataclass(frozen=True)
class RealOfEach:
    """The range of each value of a mapping."""

    range: Real

    def check(self, flag: str, values: Mapping[str, Any]) -> None:
        """Check each value; the error names the flag and the key.

        Raises:
            TypeError, NumberError: As :func:`cconvnet.checks.real`.
        """
        for key, value in values.items():
            self.range.check(f"{flag} of {key}", value)


Range = Whole | Real | RealOfEach


# ---- the options -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Option:
    """The description of one option.

    Attributes:
        help: A sentence for users.
        metavar: The placeholder of the value in the help; None for an option without a value.
        flag: The name on the command line; empty: that of the field, with dashes.
        range: The allowed values, if they are fewer than those of the type.
        parse: Turns the text of the command line into the value, if its type is not one of typer's.
        recipe: The attribute of a network's recipe that a new run takes if the option is not given.
        otherwise: The value that a new run takes if neither the option nor a recipe gives one.
        on_resume: Whether a resumed run takes or refuses a value other than its own; None: the option is for
            one session and no setting of the run.
    """

    help: str
    metavar: str | None = None
    flag: str = ""
    range: Range | None = None
    parse: Callable[[str], Any] | None = None
    recipe: str | None = None
    otherwise: Any = None
    on_resume: OnResume | None = None


def _option(help: str, metavar: str | None = None, *, default: Any = None, **more: Any) -> Any:
    """Make the field of an option."""
    return dataclasses.field(default=default, metadata={"option": Option(help, metavar, **more)})


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a training. None leaves the choice to the network's recipe, or to the resumed run."""

    net: str | NetSpec | None = _option(
        f"Network: {', '.join(nets.NAMES)}; or a file: .py, which defines net or build(image_shape, "
        "classes), or .json, as describe --json writes it. lenet if not given.",
        "NAME",
        parse=str,
    )
    layer_def: Path | None = _option(
        "Layers of a network in cuda-convnet's format, instead of --net.",
        "FILE",
    )
    layer_params: Path | None = _option("Parameters that go with --layer-def.", "FILE")
    crop: int | None = _option(
        "With --layer-def: side in pixels of the squares that are cut out of images; whole images if not "
        "given.",
        "PIXELS",
        range=Whole(1, MAX_SIDE),
    )
    data: str | None = _option(
        "Folder of images (train/CLASS/*.jpg and test/CLASS/*.jpg), of shards, of ILSVRC-2012's or "
        "WebDataset tars, of MNIST's or CIFAR-10's files, or 'digits', the embedded default.",
        "FOLDER",
        on_resume="take",
    )
    devices: list[str] | None = _option(
        "cuda:0, cpu:0, emulator:0, or several separated by commas. If not given: a GPU if there is one.",
        "NAMES",
        flag="--device",
        parse=parse_device_names,
    )
    place: dict[str, int | str] | None = _option(
        "Devices of layers, such as conv3=1,fc6=cpu:1. A number is a position in --device, from 0. Other "
        "layers are on the device of their input.",
        "LAYER=DEVICE",
        parse=parse_places,
    )
    towers: int | None = _option(
        "Number of parts that split layers are cut into; one for each device if not given.",
        "N",
        range=Whole(1, MAX_TOWERS),
        otherwise=1,
        on_resume="refuse",
    )
    precision: str | None = _option(
        "Precision of products: fp32, tf32 (GPUs) or bf16; fp32 if not given.",
        "NAME",
        otherwise="fp32",
        on_resume="take",
    )
    batch: int | None = _option(
        "Images per step; the network's own if not given.",
        "N",
        range=Whole(),
        recipe="batch",
        on_resume="refuse",
    )
    epochs: int | None = _option(
        "Number of passes over the training images.",
        "N",
        range=Whole(),
        recipe="epochs",
        on_resume="take",
    )
    steps: int | None = _option("Stop when the run has done this many steps in all.", "N", range=Whole())
    seed: int | None = _option(
        "Random seed for weights, order, crops and dropout; 0 if not given.",
        "N",
        range=Whole(0, MAX_SEED),
        otherwise=0,
        on_resume="refuse",
    )
    lr: float | None = _option(
        "Initial learning rate.", "RATE", range=Real(above=0), recipe="lr", on_resume="take"
    )
    lr_steps: tuple[LrStep, ...] | None = _option(
        "Epochs at which the rate is divided by 10, such as 60,75, or none; the network's own if not given.",
        "EPOCHS",
        parse=parse_lr_steps,
        recipe="steps",
        on_resume="take",
    )
    lr_plateau: int | None = _option(
        "Also divide the rate by 10 when the test error has not fallen for N epochs, or none for never; the "
        "network's own if not given.",
        "N",
        parse=parse_lr_plateau,
        range=Whole(0),
        recipe="plateau",
        on_resume="take",
    )
    lr_scale: dict[str, float] | None = _option(
        "Multiply the rates of layers, such as conv1=0.1,fc8=2. A resumed run keeps its other factors; 1 "
        "undoes one.",
        "LAYER=FACTOR,...",
        parse=parse_lr_scale,
        range=RealOfEach(Real(low=0)),
    )
    freeze: tuple[str, ...] | None = _option(
        "Layers that do not learn, such as conv1,conv2: factor 0.", "LAYERS", parse=parse_freeze
    )
    color_noise: float | None = _option(
        "Strength of the colour noise in training, 0 for none; the network's own if not given.",
        "SIGMA",
        range=Real(low=0),
        recipe="color_noise",
        on_resume="take",
    )
    size: int | None = _option(
        "Side in pixels that images are resized to before crops.",
        "PIXELS",
        range=Whole(1, MAX_SIDE),
        on_resume="refuse",
    )
    out: Path | None = _option("Folder of the run; runs/NET-DATA-TIME if not given.", "FOLDER")
    resume: Path | None = _option(
        "Resume this run, or this checkpoint of it; auto: the run that --out names, or the newest run that "
        "is not complete.",
        "RUN",
    )
    checkpoint_every: int | None = _option(
        "Steps between checkpoints; ten minutes if not given. Epochs also end with one, unless that would "
        "pause training for a tenth of the time or write for half of it.",
        "N",
        range=Whole(),
    )
    keep: int | None = _option(
        "Number of checkpoints to keep, beside the best; 2 if not given, or as many as a resumed run kept.",
        "N",
        range=Whole(),
    )
    log_every: int = _option("Steps per line of the log.", "N", default=20, range=Whole())
    tensorboard: bool = _option("Also write the run's log for TensorBoard.", default=False)
    detect_anomaly: bool = _option(
        "Check every layer's values and gradients and stop at the first that is not finite; slow.",
        default=False,
    )
    workers: int | None = _option(
        "Number of processes that decode images; chosen automatically if not given.",
        "N",
        range=Whole(0, MAX_WORKERS),
    )

    def check(self) -> None:
        """Check that each value is in its option's range, and that no layer has two factors.

        Raises:
            TypeError, NumberError, ValueError: The text names the option.
        """
        for name, option in DESCRIPTIONS.items():
            value = getattr(self, name)
            if value is not None and option.range is not None:
                option.range.check(option.flag, value)
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
                value = getattr(self, name)
                if value is None:
                    value = option.otherwise if option.recipe is None else getattr(recipe, option.recipe)
                values[name] = value
        return values

    def given(self, on_resume: OnResume) -> dict[str, Any]:
        """Return the values that were given of the options that a resumed run treats in this way."""
        return {
            name: getattr(self, name)
            for name, option in DESCRIPTIONS.items()
            if option.on_resume == on_resume and getattr(self, name) is not None
        }


def _described(field: dataclasses.Field[Any]) -> Option:
    option: Option = field.metadata["option"]
    return dataclasses.replace(option, flag=option.flag or f"--{field.name.replace('_', '-')}")


# By the name of the field, in the order of the help.
DESCRIPTIONS = {field.name: _described(field) for field in dataclasses.fields(Options)}
