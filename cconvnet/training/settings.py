"""The settings and the progress of a run, as its checkpoints contain them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from cconvnet.data import Source
from cconvnet.data.preprocessing import CURRENT, Preprocessing
from cconvnet.evaluate import Tally
from cconvnet.nets import AREA, CONSTANT, NO_DISTORTION, Distortion, LrStep, NetSpec, RateCurve, TrainRecipe
from cconvnet.nets.transform import decayed, smoothed
from cconvnet.runs.reading import RunError
from cconvnet.training.options import DESCRIPTIONS, Options
from cconvnet.training.schedule import on_plateau

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides what a run computes; kept in ``config.json`` and in every checkpoint.

    Options of :class:`cconvnet.training.options.Options` have the same names here.

    Attributes:
        net: The network's name.
        data: The data's folder; None: the embedded digits.
        size: The side in pixels that images are resized to; None: they are left as they are.
        classes: The names of the classes.
        image_shape: Height, width and channels of the stored images.
        train_images: The number of training images.
        test_images: The number of test images.
        batch: Images per batch.
        epochs: The length of the run.
        towers: The number of parts of split layers; see :class:`cconvnet.network.Network`.
        seed: Of weights, order, crops and dropout.
        lr: The first rate, after the warm-up if there is one.
        momentum: Of the updates.
        lr_steps: The changes of the rate; see :mod:`cconvnet.training.schedule`.
        lr_plateau: The epochs without a lower test error after which the rate falls; 0: never.
        lr_scale: The factor of each layer's rates.
        crop: True if crops are at random places; the option random_crop.
        mirror: True if images are mirrored at random.
        color_noise: The standard deviation of the colour noise's factors; 0: none.
        color_noise_epochs: The number of epochs with noise; None: all.
        color_noise_shrinks: True if the noisy input is divided by 1 + color_noise.
        precision: Of products.
        lr_schedule: The curve of all rates over the run.
        warmup: The number of epochs over which rates rise.
        warmup_from: The first rate of the warm-up, as a part of `lr`.
        weight_decay: Of all weights; None: the network's own, layer by layer.
        label_smoothing: Of all softmax costs; None: the network's own.
        nesterov: True if the momentum is Nesterov's.
        pad: The pixels of zeros around images into which random crops may reach.
        distort: The distortion of training images.
        random_resized_crop: True if parts of pictures are resized to the network's input.
        area: The least and the largest part of a picture's area that is resized so.
        accumulate: Batches per step, whose gradients are averaged.
        lars: The ratio of a step to the weights, by which LARS sets the rates of weights; 0: rates are as
            above.
        shards: The number of parts that each batch is cut into, whose gradients are added in a fixed tree.
        wire: The type of gradients between ranks; see :class:`cconvnet.ranks.shares.Share`.
        reduction: The order in which gradients of ranks are added, likewise.
        exchange: What ranks exchange of FC layers, likewise.
        parallel: The division among ranks, likewise.
        preprocessing: The rules by which image files are read.
        pictures: The fingerprints of the data that the run began with; see :mod:`cconvnet.data.fingerprint`.
        imported: True if the weights were trained elsewhere and no rate has been chosen for them yet.
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
    lr_schedule: RateCurve = CONSTANT
    warmup: float = 0.0
    warmup_from: float = 0.1
    weight_decay: float | None = None
    label_smoothing: float | None = None
    nesterov: bool = False
    pad: int = 0
    distort: Distortion = NO_DISTORTION
    random_resized_crop: bool = False
    area: tuple[float, float] = AREA
    accumulate: int = 1
    lars: float = 0.0
    shards: int = 1
    wire: str = "fp32"
    reduction: str = "tree"
    exchange: str = "auto"
    parallel: str = "data"
    preprocessing: Preprocessing = CURRENT
    pictures: dict[str, str] = dataclasses.field(default_factory=dict)
    imported: bool = False

    @classmethod
    def chosen(cls, options: Options, spec: NetSpec, source: Source) -> Settings:
        """Return the settings of a new run: its options, and the network's recipe where none is given."""
        recipe = spec.recipe
        return cls(
            **options.settings(recipe),
            **identity(source),
            net=spec.name,
            lr_scale=options.lr_factors() or {},
            color_noise_epochs=recipe.color_noise_epochs,
            color_noise_shrinks=recipe.color_noise_shrinks,
            preprocessing=source.preprocessing,
            pictures=source.fingerprints,
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Return settings from their JSON values.

        Raises:
            RunError: They are not those of this version.
        """
        return _restored(
            cls,
            "settings",
            {
                "preprocessing": None,
                "lr_schedule": dataclasses.asdict(CONSTANT),
                "distort": {},
                "area": AREA,
                **values,
            },
            lr_steps=lambda steps: tuple(LrStep(**step) for step in steps),
            lr_schedule=lambda curve: RateCurve(**curve),
            distort=lambda limits: Distortion(**limits),
            area=tuple,
            preprocessing=Preprocessing.recorded,
        )

    @property
    def step_images(self) -> int:
        """The number of images of a step."""
        return self.batch * self.accumulate

    @property
    def pass_images(self) -> int:
        """The number of images that a network computes at once: those of a shard of a batch."""
        return self.batch // self.shards

    def recipe(self, own: TrainRecipe) -> TrainRecipe:
        """Return the recipe by which the run trains: the network's own, with the run's settings."""
        values = {
            option.recipe: getattr(self, option.setting)
            for option in DESCRIPTIONS.values()
            if option.recipe is not None and option.on_resume is not None
        }
        return dataclasses.replace(own, **values)

    def applied_to(self, spec: NetSpec) -> NetSpec:
        """Return the network with the settings that are parts of its description, such as weight decay.

        Raises:
            ValueError: The padding is as large as the crop, so that a crop could miss the image.
        """
        if self.pad >= (side := min(spec.input.height, spec.input.width)):
            raise ValueError(f"--pad {self.pad} must be below the side of the network's input, {side}")
        if self.weight_decay is not None:
            spec = decayed(spec, self.weight_decay)
        if self.label_smoothing is not None:
            spec = smoothed(spec, self.label_smoothing)
        recipe = dataclasses.replace(spec.recipe, pad=self.pad, nesterov=self.nesterov)
        return dataclasses.replace(spec, recipe=recipe)


def identity(source: Source) -> dict[str, Any]:
    """Return the properties of the data that must be the same when a run is resumed."""
    return {
        "classes": list(source.classes),
        "image_shape": list(source.image_shape),
        "train_images": len(source.train),
        "test_images": len(source.test),
    }


@dataclasses.dataclass
class Progress:
    """The progress of a run, and the sums that are not in its log yet.

    Attributes:
        step: The number of steps done.
        epoch: The number of epochs done.
        step_in_epoch: The number of steps done in the present epoch.
        seconds: Of training, without tests and saving.
        images: The number of images trained on.
        copied_bytes: Bytes that training steps copied between devices; those of tests do not count.
        copy_seconds: The time of these copies.
        window: The sums for the next line of the log.
        window_bytes: The part of `copied_bytes` for that line.
        window_seconds: The part of `copy_seconds` for that line.
        epoch_tally: The sums of the present epoch.
        epoch_images: The part of `images` of the present epoch.
        epoch_seconds: The part of `seconds` of the present epoch.
        test_seconds: The time of the last test.
        lr_divisions: The epochs after which a plateau of the test error divided the rates.
        last_train: Loss and error of the last epoch's steps.
        last_test: Loss and errors of the last test, and its step.
        best: Step, epoch and error of the test with the lowest error.
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
    # Checkpoints of earlier versions lack these: their epoch's speed is that of the steps from here on.
    epoch_images: int = 0
    epoch_seconds: float = 0.0
    test_seconds: float | None = None
    lr_divisions: list[int] = dataclasses.field(default_factory=list)
    last_train: dict[str, Any] | None = None
    last_test: dict[str, Any] | None = None
    best: dict[str, Any] | None = None

    @property
    def is_best(self) -> bool:
        """True if no test before had as low an error as that of the epoch that has just ended."""
        return self.best is not None and self.best["step"] == self.step

    def train_errors(self) -> dict[str, float]:
        """Return loss and error of the epoch's steps so far."""
        return {
            "train_loss": self.epoch_tally.mean_loss,
            "train_error_top1": self.epoch_tally.error_top1,
        }

    def count(self, images: int, seconds: float) -> None:
        """Count images that were trained on and the time that this took."""
        self.images += images
        self.seconds += seconds
        self.epoch_images += images
        self.epoch_seconds += seconds

    @property
    def epoch_speed(self) -> float:
        """The images per second of the present epoch, without tests and saving."""
        return self.epoch_images / self.epoch_seconds if self.epoch_seconds > 0 else 0.0

    def end_epoch(self, patience: int) -> bool:
        """Count an epoch whose test is in `last_test`.

        Args:
            patience: After how many epochs without a lower test error the rates fall; 0: never.

        Returns:
            True if the rates fall.
        """
        assert self.last_test is not None
        self.last_train = self.train_errors()
        self.epoch_tally.clear()
        self.epoch_images, self.epoch_seconds = 0, 0.0
        self.epoch += 1
        self.step_in_epoch = 0
        error = self.last_test["test_error_top1"]
        if self.best is None or error < self.best["test_error_top1"]:
            self.best = {"step": self.step, "epoch": self.epoch, "test_error_top1": error}
        falls = on_plateau(self.epoch, self.best["epoch"], self.lr_divisions, patience)
        if falls:
            self.lr_divisions.append(self.epoch)
        return falls

    def go_back(self, values: dict[str, Any]) -> None:
        """Take over the JSON values of a checkpoint."""
        vars(self).update(vars(Progress.from_dict(values)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        """Return progress from its JSON values.

        Raises:
            RunError: They are not those of this version.
        """
        return _restored(
            cls, "progress", values, window=lambda sums: Tally(**sums), epoch_tally=lambda sums: Tally(**sums)
        )


def _restored(
    kind: Callable[..., T], what: str, values: dict[str, Any], **convert: Callable[[Any], Any]
) -> T:
    """Make an object of a dataclass from a checkpoint's JSON values, some of them converted."""
    try:
        return kind(**{**values, **{name: make(values[name]) for name, make in convert.items()}})
    except (TypeError, KeyError, ValueError) as error:
        raise RunError(f"the run's {what} are not those of this version: {error}") from None
