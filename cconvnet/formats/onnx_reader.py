"""Networks in ONNX files, read as a NetSpec and weights.

A file contains a graph of operators for images [N, C, H, W], and weights. Only what the chosen output needs
is translated: operators to layers, layouts to [N, H, W, C]. What no layer computes is refused by its name.

Weights may be views of the file's memory. Values that the file keeps in other files are read if these are
inside its folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from pathlib import Path

from cconvnet.checks import MAX_SIDE
from cconvnet.errors import DataError
from cconvnet.formats.drafts import Draft, Imported, Signal
from cconvnet.formats.onnx_constants import FOLDED, fold
from cconvnet.formats.onnx_graph import Node, Translation
from cconvnet.formats.onnx_operators import OPERATORS
from cconvnet.formats.onnx_schema import MODEL
from cconvnet.formats.protobuf import Message, open_message
from cconvnet.nets import InputSpec, Pair

OPSETS = range(7, 23)
MAX_NODES = 1 << 14
_DOMAINS = ("", "ai.onnx")


def read(path: Path, size: Pair | None = None, output: str | None = None) -> Imported:
    """Read a network.

    Images are read as they are in the graph: pixels from 0 to 255 if the graph itself normalises them, and
    otherwise already normalised. The spec's `input` says which mean and scale the graph has.

    Args:
        path: of the file.
        size: (H, W) of the images; None: as in the file.
        output: the graph's output that is the answer; None: the only one.

    Raises:
        DataError: the file is damaged, or is a network that layers here do not compute. The text names the
            file, and the node or the tensor.
        OSError: it cannot be read.
    """
    model = open_message(path, MODEL)
    graph = model.message("graph")
    if graph is None:
        raise DataError(f"{path}: is no ONNX file: it contains no graph")
    opset = _opset(model)
    if len(graph.parts("node")) > MAX_NODES:
        raise DataError(f"{path}: has more than {MAX_NODES:,} nodes")
    nodes = [Node(message) for message in graph.messages("node")]
    tensors = {tensor.text("name"): tensor for tensor in graph.messages("initializer")}
    answer = _output(graph, output)
    needed, readers = _needed(nodes, answer)
    name, images = _images(graph, tensors.keys(), needed, size)
    draft = Draft(images, path.stat().st_size)
    net = Translation(draft, opset, path.parent, readers)
    net.signals[name] = draft.data
    for key, tensor in tensors.items():
        net.add_tensor(key, tensor)
    nodes = [node for node in nodes if not needed.isdisjoint(node.outputs)]
    _check_operators(nodes, path)
    for node in nodes:
        try:
            _translate(net, node)
        except DataError:
            raise  # it names the file and the tensor
        except ValueError as error:
            raise DataError(f"{path}: {node.text_of}: {error}") from error
    return _finished(net, graph, answer, path)


def _opset(model: Message) -> int:
    """Return the version of the operators."""
    for entry in model.messages("opset_import"):
        if entry.text("domain") in _DOMAINS:
            version = entry.integer("version")
            if version not in OPSETS:
                raise DataError(
                    f"{model.where}: has version {version} of ONNX's operators, not one from {OPSETS[0]} to "
                    f"{OPSETS[-1]}"
                )
            return version
    raise DataError(f"{model.where}: has no version of ONNX's operators, so it is no ONNX file")


def _output(graph: Message, wanted: str | None) -> str:
    """Return the name of the graph's answer."""
    names = [value.text("name") for value in graph.messages("output")]
    if wanted is not None and wanted not in names:
        raise graph.error("output", f"has no {wanted!r}; there are {', '.join(names)}")
    if wanted is None and len(names) != 1:
        raise graph.error(
            "output", f"has {len(names)} values, of which one must be chosen: {', '.join(names)}"
        )
    return wanted or names[0]


def _needed(nodes: list[Node], answer: str) -> tuple[set[str], Counter[str]]:
    """Return the names of all results that lead to the answer, and how many nodes read each."""
    needed, readers = {answer}, Counter([answer])
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            readers.update(node.inputs)
    return needed, readers


def _images(
    graph: Message, tensors: Container[str], needed: set[str], size: Pair | None
) -> tuple[str, InputSpec]:
    """Return the name of the images, and their shape."""
    found = [
        value
        for value in graph.messages("input")
        if (name := value.text("name")) in needed and name not in tensors
    ]
    if len(found) != 1:
        names = ", ".join(value.text("name") for value in found)
        raise graph.error("input", f"has {len(found)} values, not the images alone: {names}")
    (value,) = found
    name, kind = value.text("name"), value.message("type")
    tensor = kind.message("tensor_type") if kind else None
    shape = tensor.message("shape") if tensor else None
    sides = [dim.integer("dim_value") for dim in shape.messages("dim")] if shape else []
    if len(sides) != 4:
        raise value.error(repr(name), f"has {len(sides)} dimensions, but images have 4: [N, C, H, W]")
    _, channels, *own = sides
    height, width = size or own
    if not all(1 <= side <= MAX_SIDE for side in (channels, height, width)):
        raise value.error(
            repr(name),
            f"has the shape {sides}, which leaves channels, height or width open or is too large; the size "
            "of the images must be given",
        )
    return name, InputSpec(height, width, channels, mean=(0.0,) * channels)


def _check_operators(nodes: list[Node], path: Path) -> None:
    """Refuse operators that are never translated, before a node that prepares one is."""
    for node in nodes:
        if node.domain not in _DOMAINS:
            raise DataError(
                f"{path}: {node.text_of}: the operator is of the domain {node.domain!r}, not ONNX's own"
            )
        if node.op not in OPERATORS and node.op not in FOLDED:
            raise DataError(f"{path}: {node.text_of}: no layer computes {node.op}")


def _translate(net: Translation, node: Node) -> None:
    """Add the layers of a node, or the constant that it is."""
    if fold(net, node):
        return
    if node.op not in OPERATORS:
        raise ValueError(f"{node.op} is only computed of constants")
    found = OPERATORS[node.op](net, node)
    net.set_signals(node, [found] if isinstance(found, Signal) else found)
    if node.op in _ENDS and node.inputs[0] in net.softmax:
        net.softmax[node.outputs[0]] = net.softmax[node.inputs[0]]


_ENDS = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze")  # what may follow a softmax


def _finished(net: Translation, graph: Message, answer: str, path: Path) -> Imported:
    """Return the network that ends in the answer."""
    end: Signal | None = net.signals.get(answer)
    if end is None or answer in net.paddings:
        raise DataError(f"{path}: no node computes the output {answer!r}")
    softmax = net.softmax.get(answer)
    if softmax is None and end.is_row:
        softmax = "probs"
        net.draft.notes.append(f"{answer} are taken for logits, of which the network computes the softmax")
    try:
        return net.draft.finish(graph.text("name") or path.stem, end, softmax)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
