"""Testing a network: its error on a split, and what it sees in single pictures."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet import data, nets, runs
from cconvnet.data import datasets
from cconvnet.data.datasets.dataset import composed
from cconvnet.data.fingerprint import differences
from cconvnet.data.preprocessing import CURRENT, Preprocessing
from cconvnet.errors import nearest
from cconvnet.nets.specs import NetSpec
from cconvnet.network import Network, StepResult
from cconvnet.runs.checkpoint import COLORS, MEAN, Checkpoint, Tensors, check_tensors

VIEWS = ("center", "ten")

Array = np.ndarray[Any, Any]


@dataclasses.dataclass
class Tally:
    """Sums over images, from which mean loss and errors follow; they survive a stop and a resume exactly."""

    loss: float = 0.0
    wrong_top1: int = 0
    wrong_top5: int = 0
    count: int = 0

    def add(self, result: StepResult) -> None:
        self.loss += result.loss * result.count
        self.wrong_top1 += int(np.count_nonzero(result.rank >= 1))
        self.wrong_top5 += int(np.count_nonzero(result.rank >= 5))
        self.count += result.count

    def clear(self) -> None:
        self.loss, self.wrong_top1, self.wrong_top5, self.count = 0.0, 0, 0, 0

    @property
    def mean_loss(self) -> float:
        return self.loss / max(1, self.count)

    @property
    def error_top1(self) -> float:
        """The share of images, from 0 to 1, whose right class is not the most probable one."""
        return self.wrong_top1 / max(1, self.count)

    @property
    def error_top5(self) -> float:
        """The share of images, from 0 to 1, whose right class is not among the five most probable."""
        return self.wrong_top5 / max(1, self.count)


def evaluate(
    network: Network, batches: Iterable[Any], stopped: Callable[[], bool] = lambda: False
) -> Tally | None:
    """Loss and errors of a network over batches of images; None when `stopped` said so in between."""
    tally = Tally()
    for batch in batches:
        if stopped():
            return None
        network.load(batch.images, batch.labels, batch.top, batch.left, batch.mirror)
        network.forward(train=False)
        tally.add(network.result())
    return tally


@dataclasses.dataclass
class Trained:
    """A network as a run left it, ready to look at pictures."""

    network: Network
    classes: list[str]
    image_shape: tuple[int, int, int]  # as stored, before the crop
    path: Path
    checkpoint: Checkpoint
    skipped: list[str]  # a line for each damaged checkpoint that was passed over

    @property
    def preprocessing(self) -> Preprocessing:
        """The rules by which the run's pictures were read. Errors: ValueError of a newer version's."""
        return recorded_preprocessing(self.checkpoint)


def recorded_preprocessing(checkpoint: Checkpoint) -> Preprocessing:
    """The rules by which the pictures of a checkpoint's run were read. Errors: ValueError."""
    return Preprocessing.recorded(checkpoint.settings.get("preprocessing"))


def load_trained(
    path: Path,
    *,
    devices: list[str] | None = None,
    batch: int | None = None,
    best: bool = False,
    precision: str | None = None,
) -> Trained:
    """The network of a run (its newest sound checkpoint, or its best) or of one checkpoint, in the precision
    it was trained in or another.

    Raises
        RunError, CheckpointError: there is none, or it is damaged.
        ValueError, DeviceUnavailable: the device cannot be used.
    """
    file, checkpoint, skipped = runs.find_checkpoint(path, best)
    settings = checkpoint.settings
    spec = nets.spec_from_dict(checkpoint.spec)
    network = Network(
        spec,
        batch=settings["batch"] if batch is None else batch,
        devices=devices,
        seed=settings["seed"],
        precision=settings["precision"] if precision is None else precision,
        needs="forward",
    )
    restore(network, checkpoint, file)
    return Trained(network, settings["classes"], tuple(settings["image_shape"]), file, checkpoint, skipped)


def network_tensors(checkpoint: Checkpoint) -> Tensors:
    """The tensors of a checkpoint that are the network's."""
    return {name: tensor for name, tensor in checkpoint.tensors.items() if name not in (MEAN, COLORS)}


def restore(network: Network, checkpoint: Checkpoint, path: Path) -> None:
    """Gives a network a checkpoint's weights and mean image."""
    tensors = network_tensors(checkpoint)
    check_tensors(path, tensors, network.state_shapes())
    network.load_state(tensors)
    network.set_mean(checkpoint.tensors.get(MEAN))


# ---- views -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class View:
    """One way to cut the network's input out of a stored image: where it begins, and whether mirrored."""

    top: int
    left: int
    mirror: bool = False


def check_views(views: str) -> None:
    """Refuses what views_of() does not know."""
    if views not in VIEWS:
        raise ValueError(nearest("--views", views, VIEWS))


def views_of(spec: NetSpec, views: str) -> list[View]:
    """The views of a stored image by which a network is tested.

    "center" is the centre alone; "ten" is the four corners and the centre, and the mirror image of each
    (Krizhevsky et al. 2012, section 4.1). Views that are equal count once: where nothing is cropped, the ten
    are the image and its mirror image.

    Raises
        ValueError: `views` is neither.
    """
    check_views(views)
    bottom, right = spec.stored[0] - spec.input.height, spec.stored[1] - spec.input.width
    center = (bottom // 2, right // 2)
    if views == "center":
        return [View(*center)]
    places = dict.fromkeys([(0, 0), (0, right), center, (bottom, 0), (bottom, right)])
    return [View(top, left, mirror) for mirror in (False, True) for top, left in places]


def mean_probabilities(network: Network, images: Array, views: list[View]) -> Array:
    """The probabilities float64[n, classes] of stored images uint8[n,H,W,C], averaged over views."""
    count = len(images)
    total = np.zeros((count, network.spec.classes))
    for view in views:
        network.load(
            images,
            np.zeros(count, np.int32),
            np.full(count, view.top, np.int32),
            np.full(count, view.left, np.int32),
            np.full(count, view.mirror, np.uint8),
        )
        network.forward(train=False)
        total += network.outputs(network.spec.layers[-1].name)[:count]
    return total / len(views)


def judge(probabilities: Array, labels: Array) -> StepResult:
    """Losses and ranks of averaged probabilities[n, classes]; of equal classes the lower one stands first.

    A probability below float32's smallest counts as that, so that no loss is infinite.
    """
    label = np.take_along_axis(probabilities, labels[:, None], axis=1)
    before = (probabilities == label) & (np.arange(probabilities.shape[1]) < labels[:, None])
    rank = np.count_nonzero((probabilities > label) | before, axis=1)
    least = float(np.finfo(np.float32).tiny)
    return StepResult(-np.log(np.maximum(label[:, 0], least)), rank.astype(np.int32))


# ---- testing on a source -----------------------------------------------------------------------------------

Stepped = Callable[[int, int], None]  # batches done, batches in all


class Ensemble:
    """The sum of its members' probabilities for each test image."""

    def __init__(self, images: int, classes: int) -> None:
        self.sum = np.zeros((images, classes))
        self.members = np.zeros(images, np.int32)  # how many have looked at each image; broken ones: none

    def add(self, indices: Array, probabilities: Array) -> None:
        self.sum[indices] += probabilities
        self.members[indices] += 1

    def tally(self, labels: Array) -> Tally:
        """Loss and errors of the averaged probabilities."""
        seen = np.flatnonzero(self.members)
        tally = Tally()
        for start in range(0, len(seen), 1024):
            part = seen[start : start + 1024]
            tally.add(judge(self.sum[part] / self.members[part, None], labels[part]))
        return tally


def evaluate_run(
    trained: Trained,
    source: data.Source,
    stepped: Stepped = lambda done, total: None,
    views: str = "center",
    ensemble: Ensemble | None = None,
) -> Tally:
    """The error of a trained network on a source's test images.

    Args
        stepped: called after each batch with the number of batches done and of all.
        views: see views_of(); outputs are averaged over them before they are judged.
        ensemble: is given the probabilities.

    Raises
        ValueError: the source's classes or image size are not those the network was trained on.
    """
    check_source(trained, source)
    network = trained.network
    chosen = views_of(network.spec, views)
    tally = Tally()
    with data.Loader(
        source.test,
        batch=network.batch,
        crop=(network.spec.input.height, network.spec.input.width),
        shuffle=False,
        drop_last=False,
    ) as loader:
        for done, batch in enumerate(loader.epoch(0), start=1):
            if len(chosen) == 1 and ensemble is None:
                # As training tests: the loss is taken from the logits, which no probability of 0 disturbs.
                network.load(batch.images, batch.labels, batch.top, batch.left)
                network.forward(train=False)
                tally.add(network.result())
            else:
                probabilities = mean_probabilities(network, batch.images, chosen)
                tally.add(judge(probabilities, batch.labels))
                if ensemble is not None:
                    ensemble.add(batch.indices, probabilities)
            stepped(done, loader.steps_per_epoch)
    return tally


@dataclasses.dataclass(frozen=True)
class Result:
    """What one trained network was found to do on the test images, in how many views of each."""

    path: Path
    net: str
    device: str
    precision: str
    views: int
    tally: Tally


def evaluate_runs(
    paths: list[Path],
    where: str | None = None,
    *,
    devices: list[str] | None = None,
    batch: int | None = None,
    best: bool = False,
    views: str = "center",
    precision: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    stepped: Stepped = lambda done, total: None,
) -> tuple[data.Source, list[Result], Tally]:
    """Tests one network, or several and the average of their probabilities.

    The networks are in memory one after another; the probabilities of all test images stay. Every checkpoint
    is read before the first is tested, so that what cannot be used is found out early.

    Args
        paths: runs or checkpoints; best: of runs, take the best checkpoint instead of the newest.
        where: the data's folder; None: that of the first run.
        precision: None: that in which each was trained.
        say: is told of damaged checkpoints that were passed over, and of the data.

    Returns
        The data, each network's result, and the ensemble's errors; of one network its own.

    Raises
        RunError, CheckpointError: a run has no sound checkpoint.
        ValueError, DeviceUnavailable: networks or data do not fit together, or the device cannot be used.
    """
    check_views(views)
    files: list[Path] = []
    read_by: list[Preprocessing] = []
    known: list[dict[str, str]] = []
    settings: dict[str, Any] = {}
    for path in paths:
        file, checkpoint, skipped = runs.find_checkpoint(path, best)
        for line in skipped:
            say(f"skipped: {line}")
        settings = settings or checkpoint.settings
        for name in ("classes", "image_shape"):
            if checkpoint.settings[name] != settings[name]:
                raise ValueError(
                    f"{file} cannot be averaged with {files[0]}: its {name.replace('_', ' ')} is "
                    f"{_short(checkpoint.settings[name])}, there {_short(settings[name])}"
                )
        files.append(file)
        known.append(checkpoint.settings.get("pictures", {}))
        read_by.append(recorded_preprocessing(checkpoint))
    sources: dict[Preprocessing, data.Source] = {}

    def source_of(rules: Preprocessing) -> data.Source:
        """The data, read as the pictures were that a network was trained on."""
        if rules not in sources:
            # The training pictures, of which there are most, are not looked at: none is decoded before it
            # is read.
            sources[rules] = data.open_source(
                datasets.stored(settings["data"]) if where is None else where,
                settings["size"],
                cache_bytes=0,
                preprocessing=rules,
            )
            found = sources[rules].preprocessing
            if found != rules:
                say(f"pictures: {found.describe()}; the network was trained on pictures {rules.describe()}")
        return sources[rules]

    source = source_of(read_by[0])
    for line in source.account.lines() if source.account is not None else []:
        say(f"data: {line}")
    for file, began in zip(files, known, strict=True):
        for line in differences(began, source.fingerprints, f"{file} was trained with"):
            say(f"data: {line}")
    ensemble = Ensemble(len(source.test), len(settings["classes"])) if len(files) > 1 else None

    def test(file: Path) -> Result:  # a function, whose network is gone before the next is made
        trained = load_trained(file, devices=devices, batch=batch, precision=precision)
        tally = evaluate_run(trained, source_of(trained.preprocessing), stepped, views, ensemble)
        network = trained.network
        count = len(views_of(network.spec, views))
        device = network.describe()["device"]
        return Result(file, network.spec.name, device, network.precision, count, tally)

    results = [test(file) for file in files]
    return source, results, ensemble.tally(source.test.labels) if ensemble is not None else results[0].tally


def _short(values: list[Any]) -> str:
    text = ", ".join(map(str, values))
    return text if len(text) < 60 else f"{text[:57]}..."


def check_source(trained: Trained, source: data.Source) -> None:
    if list(map(composed, source.classes)) != list(map(composed, trained.classes)):
        ours, theirs = len(trained.classes), len(source.classes)
        what = f"{theirs} classes, the network {ours}"
        if ours == theirs:
            pair = next(p for p in zip(source.classes, trained.classes, strict=True) if p[0] != p[1])
            what = f"a class {pair[0]!r} where the network has {pair[1]!r}"
        raise ValueError(f"data {source.name} does not fit {trained.path}: it has {what}")
    if tuple(source.image_shape) != trained.image_shape:
        raise ValueError(
            f"data {source.name} does not fit {trained.path}: its images are "
            f"{'x'.join(map(str, source.image_shape))}, the network's "
            f"{'x'.join(map(str, trained.image_shape))}"
        )


def predict(trained: Trained, pictures: Sequence[Path], views: str = "center") -> Array:
    """The probability of each class for each picture, averaged over views: float64[len(pictures), classes].

    A picture is treated as the training images were, by the rules that the run recorded.

    Raises
        DataError: a picture cannot be read; the text names it.
    """
    found = []
    for result in predict_each(trained, pictures, views):
        if isinstance(result, data.DataError):
            raise result
        found.append(result)
    return np.stack(found)


def predict_each(
    trained: Trained, pictures: Sequence[Path], views: str = "center"
) -> Iterator[Array | data.DataError]:
    """As predict(), but for each picture in turn: float64[classes], or why it cannot be read.

    As many pictures as a batch has are in memory at a time.
    """
    network = trained.network
    chosen = views_of(network.spec, views)
    for start in range(0, len(pictures), network.batch):
        results = read_each(pictures[start : start + network.batch], trained)
        images = [result for result in results if not isinstance(result, data.DataError)]
        found = iter(mean_probabilities(network, np.stack(images), chosen) if images else ())
        for result in results:
            yield result if isinstance(result, data.DataError) else next(found)


def read_each(pictures: Sequence[Path], trained: Trained) -> list[Array | data.DataError]:
    """Each picture as uint8[H,W,C] of the network's stored images, or why it cannot be read."""
    results: list[Array | data.DataError] = []
    for path in pictures:
        try:
            results.append(read_picture(path, trained.image_shape, trained.preprocessing))
        except data.DataError as error:
            results.append(error)
    return results


def read_picture(path: Path, shape: tuple[int, int, int], preprocessing: Preprocessing = CURRENT) -> Array:
    """A picture file as uint8[H,W,C] of the given shape.

    Raises
        DataError: it cannot be read; the text names it.
    """
    from PIL import Image

    from cconvnet.data.byte_ranges import Stored
    from cconvnet.data.images import fit_image, read_stored

    try:
        pixels = fit_image(read_stored(Stored(str(path))), shape[:2], preprocessing)
    except data.BrokenImage as error:
        raise data.DataError(f"{path} is not a readable JPEG or PNG: {error}") from error
    except OSError as error:
        raise data.DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise data.DataError(f"there is not enough memory to decode {path}") from error
    if shape[2] == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return pixels


def not_turned(pictures: Sequence[Path], preprocessing: Preprocessing) -> str:
    """The note on pictures whose EXIF orientation these rules pass over; empty where there are none."""
    from cconvnet.data.containers import UPRIGHT, orientation

    if preprocessing.orientation == "exif":
        return ""
    turned = []
    for path in pictures:
        with contextlib.suppress(OSError):
            if orientation(path.read_bytes()) != UPRIGHT:
                turned.append(path)
    if not turned:
        return ""
    return (
        f"the EXIF orientation of {len(turned):,} of the pictures is ignored, as it was in this network's "
        f"training; the first is {turned[0]}"
    )
