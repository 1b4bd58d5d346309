"""What a user asks of a training, what a run then computes by, and how far it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cconvnet.checks import LARGEST, is_number, whole
from cconvnet.data import Source
from cconvnet.data.preprocessing import CURRENT, Preprocessing
from cconvnet.evaluate import Tally
from cconvnet.formats.netfiles import NetFiles
from cconvnet.nets import LrStep, NetSpec
from cconvnet.runs import RunError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may ask of a training; None leaves it to the network's recipe, or to the resumed run."""

    net: str | NetFiles | None = None
    data: str | None = None
    size: int | None = None
    devices: list[str] | None = None
    towers: int | None = None
    place: dict[str, int | str] | None = None
    precision: str | None = None
    batch: int | None = None
    epochs: int | None = None
    steps: int | None = None
    seed: int | None = None
    lr: float | None = None
    lr_steps: tuple[LrStep, ...] | None = None
    lr_plateau: int | None = None
    lr_scale: dict[str, float] | None = None
    color_noise: float | None = None
    out: Path | None = None
    resume: Path | None = None
    checkpoint_every: int | None = None
    keep: int | None = None
    log_every: int = 20
    tensorboard: bool = False
    detect_anomaly: bool = False
    workers: int | None = None


def parse_lr_steps(text: str | None) -> tuple[LrStep, ...] | None:
    """The steps of a rate that is divided by 10 at the epochs of a text such as "60,75"; "none" is no step.

    Raises ValueError where the text is not that.
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
    """The number of epochs of a text such as "5"; "none" is 0. Raises ValueError where it is neither."""
    if text is None or text == "none":
        return None if text is None else 0
    if not is_number(text) or int(text) < 1:
        raise ValueError(f"--lr-plateau must be a number of epochs from 1 on, or none, not {text!r}")
    return whole("--lr-plateau", int(text), 1)


def parse_lr_scale(scale: str | None, freeze: str | None) -> dict[str, float] | None:
    """The factors of texts such as "conv1=0.1,fc8=2" and, as 0, of layers to freeze, "conv1,conv2".

    Raises ValueError where a text is not that, or both name one layer.
    """
    if scale is None and freeze is None:
        return None
    factors = {}
    for part in scale.split(",") if scale is not None else []:
        layer, _, number = part.partition("=")
        try:
            factor = float(number)
        except ValueError:
            factor = math.nan
        if not layer.strip() or not 0 <= factor <= LARGEST:
            raise ValueError(
                f"--lr-scale must be like conv1=0.1,fc8=2, with factors from 0 on, not {scale!r}"
            )
        factors[layer.strip()] = factor
    for part in freeze.split(",") if freeze is not None else []:
        if not part.strip():
            raise ValueError(f"--freeze must be layers such as conv1,conv2, not {freeze!r}")
        if part.strip() in factors:
            raise ValueError(f"--lr-scale and --freeze both name the layer {part.strip()}")
        factors[part.strip()] = 0.0
    return factors


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides what a run computes; kept in ``config.json`` and in every checkpoint.

    Attributes
        towers: how many parts split layers have; see cconvnet.network.Network.
        lr_steps, lr_plateau, lr_scale: see cconvnet.training.schedule.
        color_noise: the standard deviation of the colour noise's factors; 0: none.
        color_noise_epochs: how many epochs it lasts; None: all.
        color_noise_shrinks: whether the noisy input is divided by 1 + color_noise.
        preprocessing: the rules by which picture files are read.
        pictures: the fingerprints of the data that the run began with; see cconvnet.data.fingerprint.
    """

    net: str
    data: str | None
    size: int | None
    classes: list[str]
    image_shape: list[int]
    train_images: int
    test_images: int
    batch: int
    epochs: int
    towers: int
    seed: int
    lr: float
    momentum: float
    lr_steps: tuple[LrStep, ...]
    lr_plateau: int
    lr_scale: dict[str, float]
    crop: bool
    mirror: bool
    color_noise: float
    color_noise_epochs: float | None
    color_noise_shrinks: bool
    precision: str
    preprocessing: Preprocessing = CURRENT
    pictures: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def chosen(cls, options: Options, spec: NetSpec, source: Source) -> Settings:
        """What the options say, and where they say nothing the network's recipe."""
        recipe = spec.recipe
        return cls(
            net=spec.name,
            data=options.data,
            size=options.size,
            **identity(source),
            batch=recipe.batch if options.batch is None else options.batch,
            epochs=recipe.epochs if options.epochs is None else options.epochs,
            towers=1 if options.towers is None else options.towers,
            seed=options.seed if options.seed is not None else 0,
            lr=recipe.lr if options.lr is None else options.lr,
            momentum=recipe.momentum,
            lr_steps=recipe.steps if options.lr_steps is None else options.lr_steps,
            lr_plateau=recipe.plateau if options.lr_plateau is None else options.lr_plateau,
            lr_scale=options.lr_scale or {},
            crop=recipe.crop,
            mirror=recipe.mirror,
            color_noise=recipe.color_noise if options.color_noise is None else options.color_noise,
            color_noise_epochs=recipe.color_noise_epochs,
            color_noise_shrinks=recipe.color_noise_shrinks,
            precision="fp32" if options.precision is None else options.precision,
            preprocessing=source.preprocessing,
            pictures=source.fingerprints,
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        return _restored(
            cls,
            "settings",
            {"preprocessing": None, **values},
            lr_steps=lambda steps: tuple(LrStep(**step) for step in steps),
            preprocessing=Preprocessing.recorded,
        )


def identity(source: Source) -> dict[str, Any]:
    """What must be the same about the data when a run is resumed."""
    return {
        "classes": list(source.classes),
        "image_shape": list(source.image_shape),
        "train_images": len(source.train),
        "test_images": len(source.test),
    }


@dataclasses.dataclass
class Progress:
    """How far a run is, and the sums it has not yet written to its log.

    Attributes
        copied_bytes, copy_seconds: what the training steps copied between devices; tests do not count.
        window, window_bytes, window_seconds: what belongs into the next line of the log.
        lr_divisions: the epochs after which a plateau of the test error divided the rates.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    seconds: float = 0.0
    images: int = 0
    copied_bytes: int = 0
    copy_seconds: float = 0.0
    window: Tally = dataclasses.field(default_factory=Tally)
    window_bytes: int = 0
    window_seconds: float = 0.0
    epoch_tally: Tally = dataclasses.field(default_factory=Tally)
    lr_divisions: list[int] = dataclasses.field(default_factory=list)
    last_train: dict[str, Any] | None = None
    last_test: dict[str, Any] | None = None
    best: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        return _restored(
            cls, "progress", values, window=lambda sums: Tally(**sums), epoch_tally=lambda sums: Tally(**sums)
        )


def _restored(
    kind: Callable[..., T], what: str, values: dict[str, Any], **convert: Callable[[Any], Any]
) -> T:
    """An object of a dataclass from a checkpoint's JSON values, some of them converted."""
    try:
        return kind(**{**values, **{name: make(values[name]) for name, make in convert.items()}})
    except (TypeError, KeyError, ValueError) as error:
        raise RunError(f"the run's {what} are not those of this version: {error}") from None
