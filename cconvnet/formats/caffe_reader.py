"""Networks of Caffe: a .prototxt with the layers, and a .caffemodel with the weights.

Read is what the network computes in tests (phase TEST): layers of another phase and costs are left out, and a
softmax at the end becomes the network's. Layers that nothing here computes are refused by name and type.

The order of the channels is the file's: Caffe's networks read images as blue, green, red. A mean and a scale
that the file has are the spec's.

Source: https://github.com/BVLC/caffe/blob/master/src/caffe/proto/caffe.proto.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

from cconvnet.checks import MAX_SIDE
from cconvnet.errors import DataError
from cconvnet.formats import prototxt
from cconvnet.formats.caffe_layers import LAYERS, Layer, Translation
from cconvnet.formats.caffe_weights import Blobs, read_blobs
from cconvnet.formats.drafts import Draft, Imported
from cconvnet.formats.prototxt import Block
from cconvnet.nets import InputSpec, Pair

MAX_LAYERS = 1 << 12
# Old files have the types as words of an enumeration.
_OLD_TYPES = {
    **{"ACCURACY": "Accuracy", "BNLL": "BNLL", "CONCAT": "Concat", "CONVOLUTION": "Convolution"},
    **{"DATA": "Data", "DROPOUT": "Dropout", "DUMMY_DATA": "DummyData", "ELTWISE": "Eltwise"},
    **{"EUCLIDEAN_LOSS": "EuclideanLoss", "FLATTEN": "Flatten", "HDF5_DATA": "HDF5Data"},
    **{"HINGE_LOSS": "HingeLoss", "IMAGE_DATA": "ImageData", "INNER_PRODUCT": "InnerProduct", "LRN": "LRN"},
    **{"MEMORY_DATA": "MemoryData", "POOLING": "Pooling", "RELU": "ReLU", "SIGMOID": "Sigmoid"},
    **{"SOFTMAX": "Softmax", "SOFTMAX_LOSS": "SoftmaxWithLoss", "SPLIT": "Split", "TANH": "TanH"},
    **{"ABSVAL": "AbsVal", "POWER": "Power", "WINDOW_DATA": "WindowData", "SILENCE": "Silence"},
}
_DATA = ("Data", "ImageData", "HDF5Data", "WindowData", "MemoryData", "DummyData", "Input")
_IGNORED = ("Accuracy", "Silence", "EuclideanLoss", "HingeLoss", "SigmoidCrossEntropyLoss")


def read(path: Path, weights: Path | None = None, size: Pair | None = None) -> Imported:
    """Read a network.

    Args:
        path: of the .prototxt.
        weights: of the .caffemodel; None: the network has no weights.
        size: (H, W) of the images; None: as in the file.

    Raises:
        DataError: a file is damaged, the network has layers that are not computed here, or the weights are
            not its own. The text names the file, and line and layer, or the layer and its blob.
        OSError: a file cannot be read.
    """
    root = prototxt.read(path)
    layers = _layers(root)
    blobs = read_blobs(weights) if weights is not None else Blobs(path, None)
    images, name = _images(root, layers, size)
    layers = _by_version([layer for layer in layers if layer.type not in (*_DATA, *_IGNORED)], name)
    file_bytes = path.stat().st_size + (weights.stat().st_size if weights is not None else 0)
    draft = Draft(images, file_bytes)
    readers = Counter(bottom for layer in layers for bottom in layer.bottoms)
    net = Translation(draft, blobs, readers)
    net.signals[name] = draft.data
    for layer in layers:
        if layer.type not in LAYERS:
            raise layer.error(f"no layer here computes the type {layer.type!r}")
        try:
            net.add(layer, LAYERS[layer.type](net, layer))
        except DataError:
            raise
        except ValueError as error:
            raise layer.error(str(error)) from error
    unread = [top for layer in layers for top in layer.tops if not readers[top]]
    found = _finished(net, unread, root, path)
    if blobs.unused():
        found.notes.append(f"weights that no layer takes: {', '.join(blobs.unused())}")
    return found if blobs.known else found._replace(tensors={})


def _by_version(layers: list[Layer], images: str) -> list[Layer]:
    """Return the layers with a name of its own for each blob: a layer may replace a blob that it reads."""
    versions: Counter[str] = Counter([images])
    found = []
    for layer in layers:
        bottoms = tuple(_version(name, versions[name]) for name in layer.bottoms)
        versions.update(layer.tops)
        tops = tuple(_version(name, versions[name]) for name in layer.tops)
        found.append(dataclasses.replace(layer, bottoms=bottoms, tops=tops))
    return found


def _version(name: str, number: int) -> str:
    return name if number <= 1 else f"{name} ({number})"


def _layers(root: Block) -> list[Layer]:
    """Return the layers of the phase TEST."""
    if "layers" in root and "layer" in root:
        raise root.error("has layers in the old and in the new form", "layers")
    old = "layers" in root
    blocks = root.blocks("layers" if old else "layer")
    if not blocks:
        raise root.error("has no layers, so it is no network of Caffe")
    if len(blocks) > MAX_LAYERS:
        raise root.error(f"has more than {MAX_LAYERS:,} layers")
    layers = []
    for number, block in enumerate(blocks, 1):
        if old and "layer" in block:
            raise block.error(
                "is of Caffe's first form, which Caffe's upgrade_net_proto_text converts", "layer"
            )
        kind = block.text("type")
        if old and kind not in _OLD_TYPES:
            raise block.error(
                f"layer {block.text('name')!r}: no layer here computes the type {kind!r}", "type"
            )
        layer = Layer(
            block.text("name") or f"layer{number}",
            _OLD_TYPES[kind] if old else kind,
            tuple(block.texts("bottom")),
            tuple(block.texts("top")),
            block,
        )
        if _runs_in_tests(block):
            layers.append(layer)
    return layers


def _runs_in_tests(block: Block) -> bool:
    includes, excludes = block.blocks("include"), block.blocks("exclude")
    return (not includes or any(map(_meets, includes))) and not any(map(_meets, excludes))


def _meets(rule: Block) -> bool:
    """True if a rule holds in the phase TEST, at level 0, in no stage."""
    return (
        rule.text("phase", "TEST") == "TEST"
        and rule.integer("min_level", 0) <= 0 <= rule.integer("max_level", 0)
        and "stage" not in rule
    )


def _images(root: Block, layers: list[Layer], size: Pair | None) -> tuple[InputSpec, str]:
    """Return how the images are read, and the name of their blob."""
    if "input" in root:
        name = root.texts("input")[0]
        sides = root.integers("input_dim")[:4] or _dims(root.blocks("input_shape"))
        return _input(root, sides, size, root), name
    for layer in layers:
        if layer.type in _DATA and layer.tops:
            block, transform = layer.block, layer.block.block("transform_param")
            if layer.type == "Input":
                return _input(
                    block, _dims(block.block("input_param").blocks("shape")), size, transform
                ), layer.tops[0]
            own = block.block("memory_data_param")
            crop = transform.integer("crop_size", 0) or block.block("data_param").integer("crop_size", 0)
            sides = [1, own.integer("channels", 3), own.integer("height", crop), own.integer("width", crop)]
            return _input(block, sides, size, transform), layer.tops[0]
    raise root.error("has neither an input nor a layer of data")


def _dims(shapes: list[Block]) -> list[int]:
    return shapes[0].integers("dim") if shapes else []


def _input(block: Block, sides: list[int], size: Pair | None, transform: Block) -> InputSpec:
    """Return how images [N, C, H, W] of these sides are read, with the mean and the scale of their layer."""
    if len(sides) != 4:
        raise block.error(f"the images must have 4 sides [N, C, H, W], not {sides}")
    _, channels, *own = sides
    height, width = size or own
    if not all(1 <= side <= MAX_SIDE for side in (channels, height, width)):
        raise block.error(f"the size of the images must be given; here it is {sides}")
    mean = transform.reals("mean_value") or [0.0]
    if len(mean) not in (1, channels):
        raise transform.error(f"mean_value must be given once or {channels} times", "mean_value")
    mean = mean * channels if len(mean) == 1 else mean
    return InputSpec(height, width, channels, transform.real("scale", 1.0), mean=tuple(mean))


def _finished(net: Translation, unread: list[str], root: Block, path: Path) -> Imported:
    """Return the network that ends in the result that no layer reads; of several softmaxes in the last."""
    heads = unread[:-1] if set(unread) <= net.softmax.keys() else []
    ends = [name for name in unread if name not in heads]
    if len(ends) != 1:
        raise root.error(f"must have one result that no layer reads, not {len(ends)}: {', '.join(ends)}")
    end, softmax = net.signals[ends[0]], net.softmax.get(ends[0])
    if softmax is None and end.is_row:
        softmax = "probs"
        net.draft.notes.append(f"{ends[0]} are taken for logits, of which the network computes the softmax")
    if heads:
        net.draft.notes.append(f"left out: {', '.join(heads)}, beside the answer {ends[0]}")
    try:
        return net.draft.finish(root.text("name") or path.stem, end, softmax)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
