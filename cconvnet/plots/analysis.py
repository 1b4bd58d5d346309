"""What a trained network makes of pictures, as arrays: answers, nearest pictures, feature maps."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cconvnet import data
from cconvnet.data import datasets
from cconvnet.errors import nearest
from cconvnet.evaluate import Trained, check_source, read_each, read_picture, views_of
from cconvnet.nets import ConvSpec, DropoutSpec, FcSpec, LayerSpec, LocalSpec, NetSpec
from cconvnet.network import Network
from cconvnet.plots.figures import PlotError
from cconvnet.plots.mosaic import Array
from cconvnet.runs import data_name, folder_of

TOP = 5
NEIGHBOURS = 6
# Of each convolution so many maps, those of the largest mean.
_MOST_MAPS = 32
# Among so many test images, some that are taken for what they are and some that are not are looked for.
_LOOKED_AT = 256

Stepped = Callable[[int, int], None]  # images done, images in all


@dataclass(frozen=True)
class Seen:
    """A picture and what a network says of it.

    Attributes
        image: uint8[H,W,C], the part that the network sees.
        name: its file, or its number among the test images.
        label: the right class, None where nobody knows.
        classes, probabilities: the most probable classes, most probable first.
        neighbours: the training images that are nearest to it: their numbers, distances and labels.
        near_images: uint8[n,H,W,C], those images.
    """

    image: Array
    name: str
    label: int | None
    classes: list[int]
    probabilities: list[float]
    neighbours: list[tuple[int, float, int]]
    near_images: Array


@dataclass(frozen=True)
class Look:
    """Pictures as one network sees them, near to others of `among` images in the layer `hidden`."""

    seen: list[Seen]
    class_names: list[str]
    hidden: str
    among: int


@dataclass(frozen=True)
class Maps:
    """Feature maps of a layer for one picture: float[H,W,shown], largest mean first, of `count` in all.

    `order` is the number of each channel.
    """

    layer: str
    maps: Array
    order: list[int]
    count: int


def headline(trained: Trained) -> tuple[str, str]:
    """A title and a line under it: whose picture it is."""
    settings = trained.checkpoint.settings
    folder = folder_of(trained.path).resolve().name
    return folder, f"{settings['net']} on {data_name(settings['data'])}, step {trained.checkpoint.step:,}"


# ---- answers and neighbours ------------------------------------------------------------------------------


def open_test(trained: Trained, where: str | None) -> data.Source:
    """The data of a run, or other data of the same classes; pictures are decoded when they are looked at.

    Raises
        DataError: it cannot be read. ValueError: it does not fit the network.
    """
    settings = trained.checkpoint.settings
    source = data.open_source(
        datasets.from_settings(settings["data"]) if where is None else where,
        settings["size"],
        cache_bytes=0,
        preprocessing=trained.preprocessing,
    )
    check_source(trained, source)
    return source


def class_names(trained: Trained, source: data.Source) -> list[str]:
    """What to call classes: in words where the data has them, of several words for one thing the first."""
    if source.titles is None:
        return trained.classes
    return [title.partition(",")[0] for title in source.titles]


def hidden_layer(spec: NetSpec) -> tuple[str, tuple[str, ...]]:
    """The last hidden layer: what to call it, and the activations that the last layer with weights reads.

    Dropout only scales what it passes on when nothing is trained, so it names the layer before it.
    """
    layers = {layer.name: layer for layer in spec.layers}
    last = next(layer for layer in reversed(spec.layers) if isinstance(layer, FcSpec | ConvSpec | LocalSpec))
    name = last.inputs[0]
    while isinstance(layers.get(name), DropoutSpec):
        name = layers[name].inputs[0]
    return name, last.inputs


def answers(
    network: Network, images: Array, stepped: Stepped = lambda done, total: None
) -> tuple[Array, Array]:
    """Of stored images uint8[n,H,W,C]: the probabilities float[n,classes] of their centres, as
    `cconvnet.evaluate.predict` gives them, and the last hidden layer float[n,units]."""
    _, inputs = hidden_layer(network.spec)
    outputs, hidden = [], []
    for start in range(0, len(images), network.batch):
        part = images[start : start + network.batch]
        _forward(network, part)
        outputs.append(network.outputs(network.spec.layers[-1].name)[: len(part)].astype(np.float64))
        hidden.append(
            np.concatenate([network.outputs(n)[: len(part)].reshape(len(part), -1) for n in inputs], axis=1)
        )
        stepped(start + len(part), len(images))
    return np.concatenate(outputs), np.concatenate(hidden)


def _forward(network: Network, images: Array) -> None:
    (view,) = views_of(network.spec, "center")
    top, left = (np.full(len(images), place, np.int32) for place in (view.top, view.left))
    network.load(images, np.zeros(len(images), np.int32), top, left)
    network.forward(train=False)


def look(
    trained: Trained,
    source: data.Source,
    *,
    images: int = 8,
    pictures: Sequence[Path] = (),
    among: int = 2000,
    unread: Callable[[data.DataError], None] | None = None,
    stepped: Stepped = lambda done, total: None,
) -> Look:
    """What a network says of pictures, or of a mix of test images, and which training images are like them.

    Args
        images: how many test images, half of them wrong if there are so many; not used with `pictures`.
        among: how many training images, spread evenly, the nearest are looked for in.
        unread: called with what is wrong with each of `pictures` that cannot be read; the others are shown.
            Without it, or where none can be read, the first such error is raised.
        stepped: called with the number of images looked at and of all.

    Raises
        DataError: a picture or the data cannot be read.
    """
    network = trained.network
    shown = _spread(len(source.test), _LOOKED_AT)
    others = _spread(len(source.train), among)
    total = len(others) + (len(pictures) or len(shown))

    if pictures:
        names, stored = _readable(trained, pictures, unread)
        labels = [None] * len(names)
        probabilities, hidden = answers(network, stored, lambda done, _: stepped(done, total))
    else:
        stored, right = source.test.read(shown)
        probabilities, hidden = answers(network, stored, lambda done, _: stepped(done, total))
        numbers = shown[[n not in source.test.skipped for n in shown.tolist()]]
        chosen = mix(probabilities.argmax(axis=1), right, images)
        stored, probabilities, hidden = stored[chosen], probabilities[chosen], hidden[chosen]
        names = [Path(source.test.file(int(numbers[i]))).name for i in chosen]
        labels = right[chosen].tolist()

    done_before = total - len(others)
    near, near_labels = source.train.read(others)
    numbers = others[[n not in source.train.skipped for n in others.tolist()]]
    _, theirs = answers(network, near, lambda done, _: stepped(done_before + done, total))
    seen = []
    for image, name, label, row, features in zip(stored, names, labels, probabilities, hidden, strict=True):
        top = (-row).argsort(kind="stable")[:TOP]
        distances = np.linalg.norm(theirs - features, axis=1)
        nearest_ones = distances.argsort(kind="stable")[:NEIGHBOURS]
        seen.append(
            Seen(
                center(trained, image),
                name,
                label,
                top.tolist(),
                row[top].tolist(),
                [(int(numbers[i]), float(distances[i]), int(near_labels[i])) for i in nearest_ones],
                np.stack([center(trained, near[i]) for i in nearest_ones]),
            )
        )
    return Look(seen, class_names(trained, source), hidden_layer(network.spec)[0], len(near))


def _readable(
    trained: Trained, pictures: Sequence[Path], unread: Callable[[data.DataError], None] | None
) -> tuple[list[str], Array]:
    """The names of the pictures that can be read, and the stored images uint8[n,H,W,C]."""
    results = read_each(pictures, trained)
    errors = [result for result in results if isinstance(result, data.DataError)]
    if errors and (unread is None or len(errors) == len(pictures)):
        raise errors[0]
    for error in errors:
        assert unread is not None
        unread(error)
    read = [
        (path.name, result)
        for path, result in zip(pictures, results, strict=True)
        if not isinstance(result, data.DataError)
    ]
    return [name for name, _ in read], np.stack([image for _, image in read])


def _spread(count: int, most: int) -> Array:
    """At most so many of the numbers below `count`, evenly spread and always the same."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def mix(found: Array, labels: Array, count: int) -> Array:
    """Which `count` images to show: half of them wrong where there are so many, of as many classes as can be.

    Returns
        Their places, rising.
    """
    wrong = found != labels
    want = min(int(wrong.sum()), count // 2)
    want = max(want, count - int((~wrong).sum()))
    chosen = _by_class(np.flatnonzero(wrong), labels, [])[:want]
    chosen += _by_class(np.flatnonzero(~wrong), labels, chosen)[: count - len(chosen)]
    return np.sort(np.array(chosen, np.int64))


def _by_class(places: Array, labels: Array, taken: list[int]) -> list[int]:
    """Places in an order that takes one of each class, then a second one of each, and so on; some are taken
    already."""
    turns = collections.Counter(int(labels[place]) for place in taken)
    keys = []
    for place in places.tolist():
        label = int(labels[place])
        turns[label] += 1
        keys.append((turns[label], place))
    return [place for _, place in sorted(keys)]


def center(trained: Trained, image: Array) -> Array:
    """The part of a stored image that the network sees."""
    spec = trained.network.spec
    (view,) = views_of(spec, "center")
    return image[view.top : view.top + spec.input.height, view.left : view.left + spec.input.width]


# ---- feature maps ----------------------------------------------------------------------------------------


def one_image(trained: Trained, picture: Path | None, where: str | None) -> tuple[str, Array]:
    """A name and a stored image uint8[H,W,C]: the picture's, or `first_image`.

    Raises
        DataError: the picture or the data cannot be read.
    """
    if picture is not None:
        return picture.name, read_picture(picture, trained.image_shape, trained.preprocessing)
    return first_image(trained, open_test(trained, where))


def first_image(trained: Trained, source: data.Source) -> tuple[str, Array]:
    """A name and a stored image uint8[H,W,C]: the first test image that is not broken."""
    test = source.test
    for index in range(len(test)):
        images, labels = test.read([index])
        if len(images):
            return f"{Path(test.file(index)).name}, {class_names(trained, source)[labels[0]]}", images[0]
    raise AssertionError("a split is never broken as a whole")


def feature_maps(trained: Trained, image: Array, layer: str | None = None) -> list[Maps]:
    """The feature maps of each convolution for one stored image, some of them, or all those of one layer.

    Raises
        PlotError: the network has no such layer, or what it puts out is no image.
    """
    network = trained.network
    _forward(network, image[None])
    found = []
    for name in _with_maps(trained, layer):
        maps = network.outputs(name)[0]
        order = (-maps.mean(axis=(0, 1))).argsort(kind="stable")[: _MOST_MAPS if layer is None else None]
        found.append(Maps(name, maps[..., order], order.tolist(), maps.shape[-1]))
    return found


def _with_maps(trained: Trained, layer: str | None) -> list[str]:
    spec = trained.network.spec
    shapes = {one["name"]: one["output_shape"] for one in trained.network.describe()["layers"]}
    images = {name for name, shape in shapes.items() if len(shape) == 4}
    if layer is not None:
        if layer not in images:
            raise PlotError(
                nearest("--layer", layer, [one.name for one in spec.layers if one.name in images])
            )
        return [layer]
    convolutions: list[LayerSpec] = [one for one in spec.layers if isinstance(one, ConvSpec | LocalSpec)]
    if not convolutions:
        raise PlotError(f"the network {spec.name} has no convolution")
    return [one.name for one in convolutions]
