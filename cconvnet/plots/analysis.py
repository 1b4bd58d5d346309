"""Analysis of a trained network as arrays: predictions, nearest training images, feature maps."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cconvnet import data
from cconvnet.data import datasets
from cconvnet.data.label_images import cropped, has_pixels
from cconvnet.errors import nearest
from cconvnet.evaluate import (
    Trained,
    center_view,
    check_images,
    check_source,
    image_views,
    read_each,
    read_picture,
    readable_names,
)
from cconvnet.evaluate.segmentation import predicted
from cconvnet.nets import ConvSpec, DropoutSpec, FcSpec, LayerSpec, LocalSpec, NetSpec
from cconvnet.nets.transform import without_heads
from cconvnet.network import Network
from cconvnet.plots.figures import PlotError
from cconvnet.plots.mosaic import Array
from cconvnet.runs import data_name, folder_of

TOP = 5  # classes of an image
NEIGHBOURS = 6  # training images beside an image
_MAX_MAPS = 32  # of a convolution: those of the largest mean
_TEST_IMAGES = 256  # searched for right and wrong ones

Stepped = Callable[[int, int], None]  # images done, images in all


@dataclass(frozen=True)
class Seen:
    """Image with a network's prediction and the nearest training images.

    Attributes:
        image: uint8[H,W,C], the part that is the network's input.
        name: The name of its file, or its number among the test images.
        label: The right class, None if it is unknown.
        classes: The most probable classes, most probable first.
        probabilities: Their probabilities.
        neighbours: Number, distance and label of each of the nearest training images.
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
    """Images with the predictions of one network.

    Attributes:
        seen: The images.
        class_names: The names of the classes.
        hidden: The layer whose values give the distances.
        among: The number of training images that were searched for the nearest.
    """

    seen: list[Seen]
    class_names: list[str]
    hidden: str
    among: int


@dataclass(frozen=True)
class Maps:
    """Feature maps of a layer for one image.

    Attributes:
        layer: The layer.
        maps: float[H,W,shown], those of the largest mean first.
        order: The channel of each.
        count: The number of maps of the layer.
    """

    layer: str
    maps: Array
    order: list[int]
    count: int


def headline(trained: Trained) -> tuple[str, str]:
    """Return a title and a line below it that name the run, its network, data and step."""
    settings = trained.checkpoint.settings
    folder = folder_of(trained.path).resolve().name
    if settings["data"] == datasets.NONE:  # weights that were imported
        return folder, settings["net"]
    return folder, f"{settings['net']} on {data_name(settings['data'])}, step {trained.checkpoint.step:,}"


# ---- answers and neighbours ------------------------------------------------------------------------------


def open_test(trained: Trained, where: datasets.Where) -> data.Source:
    """Open the data of a run, or other data with the same classes; see :func:`open_any`.

    Raises:
        DataError: The data cannot be read.
        ValueError: The data does not fit the network.
    """
    source = open_any(trained, where)
    check_source(trained, source)
    return source


def open_any(trained: Trained, where: datasets.Where) -> data.Source:
    """Open the data of a run, or data of any classes; images are decoded when they are used.

    Raises:
        DataError: The data cannot be read.
        ValueError: The images have another shape than the network's.
    """
    settings = trained.checkpoint.settings
    source = data.open_source(
        datasets.from_settings(settings["data"], folder_of(trained.path)) if where is None else where,
        settings["size"],
        cache_bytes=0,
        preprocessing=trained.preprocessing,
    )
    check_images(trained, source)
    return source


def class_names(trained: Trained, source: data.Source) -> list[str]:
    """Return the names of the classes: the first word of their titles if the data has some."""
    return readable_names(trained.classes, source.titles)


def hidden_layer(spec: NetSpec) -> tuple[str, tuple[str, ...]]:
    """Find the last hidden layer.

    Returns:
        Its name, and the inputs of the last layer with weights. A dropout layer is named by the layer before
        it, because it only scales its values outside training.
    """
    layers = {layer.name: layer for layer in without_heads(spec).layers}
    last = next(
        layer for layer in reversed(layers.values()) if isinstance(layer, FcSpec | ConvSpec | LocalSpec)
    )
    name = last.inputs[0]
    while isinstance(layers.get(name), DropoutSpec):
        name = layers[name].inputs[0]
    return name, last.inputs


def answers(
    network: Network, images: Array, stepped: Stepped = lambda done, total: None
) -> tuple[Array, Array]:
    """Compute predictions and the last hidden layer for the centres of stored images.

    Args:
        network: The network.
        images: uint8[n,H,W,C].
        stepped: Called with the number of images processed and in all.

    Returns:
        The probabilities float64[n,classes], like those of `cconvnet.evaluate.predict`, and the values of the
        last hidden layer float[n,units].
    """
    _, inputs = hidden_layer(network.spec)
    view, outputs, hidden = center_view(network.spec), [], []
    for start in range(0, len(images), network.batch):
        part = images[start : start + network.batch]
        view.show(network, part)
        outputs.append(network.outputs(network.spec.answer.name)[: len(part)].astype(np.float64))
        hidden.append(
            np.concatenate([network.outputs(n)[: len(part)].reshape(len(part), -1) for n in inputs], axis=1)
        )
        stepped(start + len(part), len(images))
    return np.concatenate(outputs), np.concatenate(hidden)


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
    """Predict the classes of pictures or test images, and find the nearest training images.

    Args:
        trained: The network.
        source: The data.
        images: The number of test images, half of them wrong if there are enough; not used with `pictures`.
        pictures: JPEG or PNG files to use instead of test images.
        among: The number of training images, spread evenly, that are searched for the nearest.
        unread: Called with the error of each of `pictures` that is unreadable; the others are used. Without
            it, or if none is readable, the first such error is raised.
        stepped: Called with the number of images processed and in all.

    Raises:
        DataError: A picture or the data cannot be read.
        ValueError: The network answers for pixels.
    """
    image_views(trained, "center")
    network = trained.network
    shown = spread(len(source.test), _TEST_IMAGES)
    others = spread(len(source.train), among)
    total = len(others) + (len(pictures) or len(shown))

    if pictures:
        names, stored = _readable(trained, pictures, unread)
        labels = [None] * len(names)
        probabilities, hidden = answers(network, stored, lambda done, _: stepped(done, total))
    else:
        stored, right = source.test.read(shown)
        probabilities, hidden = answers(network, stored, lambda done, _: stepped(done, total))
        numbers = source.test.readable(shown)
        chosen = mix(probabilities.argmax(axis=1), right, images)
        stored, probabilities, hidden = stored[chosen], probabilities[chosen], hidden[chosen]
        names = [Path(source.test.file(int(numbers[i]))).name for i in chosen]
        labels = right[chosen].tolist()

    done_before = total - len(others)
    near, near_labels = source.train.read(others)
    numbers = source.train.readable(others)
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


@dataclass(frozen=True)
class Segmented:
    """Test image with its label image and a network's.

    Attributes:
        name: The name of its file, or its number.
        image: uint8[H,W,C], the part that is the network's input.
        labels: int32[H,W], the right classes; others count for nothing.
        predicted: uint8[H,W], the predicted classes.
    """

    name: str
    image: Array
    labels: Array
    predicted: Array


def segmented(trained: Trained, source: data.Source, images: int) -> list[Segmented]:
    """Predict the class of each pixel of some test images, spread evenly.

    Raises:
        DataError: The data cannot be read.
    """
    network, test = trained.network, source.test
    view, found = center_view(network.spec), []
    crop = network.spec.input.height, network.spec.input.width
    for index in spread(len(test), images).tolist():
        stored, labels = test.read([index])
        if not len(stored):
            continue
        view.show(network, stored)
        top, left = (np.full(1, at, np.int32) for at in (view.top, view.left))
        own = cropped(labels, crop, top, left, np.zeros(1, np.uint8))[0]
        name = Path(test.file(index)).name
        found.append(Segmented(name, center(trained, stored[0]), own, predicted(network)[0]))
    return found


def _readable(
    trained: Trained, pictures: Sequence[Path], unread: Callable[[data.DataError], None] | None
) -> tuple[list[str], Array]:
    """Return the names of the readable pictures, and their stored images uint8[n,H,W,C]."""
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


def spread(count: int, most: int) -> Array:
    """Return at most `most` of the numbers below `count`, evenly spread and always the same."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def mix(found: Array, labels: Array, count: int) -> Array:
    """Choose images to show, of as many classes as possible.

    Args:
        found: The predicted classes.
        labels: The right classes.
        count: The number of images; half of them are wrong if there are enough.

    Returns:
        The indices of the images in ascending order.
    """
    wrong = found != labels
    want = min(int(wrong.sum()), count // 2)
    want = max(want, count - int((~wrong).sum()))
    chosen = _by_class(np.flatnonzero(wrong), labels, [])[:want]
    chosen += _by_class(np.flatnonzero(~wrong), labels, chosen)[: count - len(chosen)]
    return np.sort(np.array(chosen, np.int64))


def _by_class(indices: Array, labels: Array, taken: list[int]) -> list[int]:
    """Order images so that one of each class comes first, then a second one of each, and so on.

    Args:
        indices: The images.
        labels: The classes of all images.
        taken: Images that were chosen before and count for their classes.
    """
    turns = collections.Counter(int(labels[index]) for index in taken)
    keys = []
    for index in indices.tolist():
        label = int(labels[index])
        turns[label] += 1
        keys.append((turns[label], index))
    return [index for _, index in sorted(keys)]


def center(trained: Trained, image: Array) -> Array:
    """Return the part of a stored image that is the network's input."""
    return center_view(trained.network.spec).of(trained.network.spec, image)


# ---- feature maps ----------------------------------------------------------------------------------------


def one_image(trained: Trained, picture: Path | None, where: str | None) -> tuple[str, Array]:
    """Return the name and the stored image uint8[H,W,C] of a picture, or of `first_image` without one.

    Raises:
        DataError: The picture or the data cannot be read.
    """
    if picture is not None:
        return picture.name, read_picture(picture, trained.image_shape, trained.preprocessing)
    return first_image(trained, open_test(trained, where))


def first_image(trained: Trained, source: data.Source) -> tuple[str, Array]:
    """Return the name and the stored image uint8[H,W,C] of the first readable test image."""
    test = source.test
    for index in range(len(test)):
        images, labels = test.read([index])
        if len(images):
            name = Path(test.file(index)).name
            if has_pixels(labels):
                return name, images[0]
            return f"{name}, {class_names(trained, source)[labels[0]]}", images[0]
    raise AssertionError("every split has a readable image")


def feature_maps(trained: Trained, image: Array, layer: str | None = None) -> list[Maps]:
    """Compute the feature maps of a stored image.

    Args:
        trained: The network.
        image: uint8[H,W,C].
        layer: The layer of which all maps are returned. Without it, some maps of each convolution are.

    Raises:
        PlotError: The network has no such layer, or the layer's output is no image.
    """
    network = trained.network
    center_view(network.spec).show(network, image[None])
    found = []
    for name in _with_maps(trained, layer):
        maps = network.outputs(name)[0]
        order = (-maps.mean(axis=(0, 1))).argsort(kind="stable")[: _MAX_MAPS if layer is None else None]
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
