"""cuda-convnet's configuration files: a network in two INI files, read as a NetSpec.

The layer file has a section per layer, named like the layer; the parameter file has a section of the same
name for each layer that learns or has other values. What each key means, and what stands for a missing one,
is what the original program of 2012 makes of it, and for keys it no longer or not yet had, cuda-convnet and
cuda-convnet2.

Where these files and a NetSpec speak differently:

- `filters` counts the filters of one group; a spec counts all.
- A response norm's `scale` is divided by the window's size (:func:`cconvnet.nets.lrn_alpha`).
- `start` is where the first pooling window begins: a padding with the other sign.
- Output sizes are rounded up. Where the number of windows is not the one a spec's own rule gives, it is set.
- Every layer has its own rates. The recipe's rate and momentum are the first that is not zero of the first
  layer with weights, and every layer has its factor.
- A softmax is a layer of its own, which the cost reads. In a spec both are one layer, named like the cost; it
  keeps the softmax's name.
- `neuron=` on a layer without weights becomes a layer of its own, NAME_neuron, as in the original.
- ``pass`` is no layer: its readers read its input. ``nailbed`` is pooling with windows of one pixel.
- ``randSparse`` becomes a layer that deals the channels out, NAME_sparse; ``dropout=`` of a layer becomes one
  behind it, NAME_dropout.
- Of a list of devices, ``gpu=0,1``, the first computes the whole batch, with the same result.
- Neither the size of the images nor how long to train is in the files. Comments that this package writes and
  reads (cuda_convnet_extras) have them.
- `dropout` is what the original calls hs: it multiplies by keep at test time. cuda-convnet2 knows that as
  dropout2, and its own `dropout` divides by keep in training; a note says which one was read.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cconvnet.formats.cuda_convnet_draft import Draft
from cconvnet.formats.cuda_convnet_extras import read_extras
from cconvnet.formats.cuda_convnet_layers import BUILDERS, add_cost
from cconvnet.formats.cuda_convnet_sections import Sections
from cconvnet.formats.ini import ConfigError, Section
from cconvnet.formats.rates import read_rates
from cconvnet.nets import DATA, DropoutSpec, InputSpec, NetSpec, NeuronSpec, TrainRecipe

__all__ = ["ConfigError", "read"]


def read(
    layer_def: Path,
    layer_params: Path,
    *,
    image_shape: tuple[int, int] | tuple[int, int, int],
    crop: int | None = None,
    classes: int | None = None,
    name: str | None = None,
    recipe: TrainRecipe | None = None,
) -> tuple[NetSpec, list[str]]:
    """Read the network of a layer file and a parameter file, with notes on what changes no result.

    Args:
        layer_def: The layer file.
        layer_params: The parameter file.
        image_shape: (H, W, C) of the stored images; (H, W): C is what the first layer that reads the images
            says, 3 if none does.
        crop: the side of the squares cut out of them; None: that of the files' comments, or the network sees
            whole images.
        classes: how many labels there are; None: as many as the softmax has inputs.
        name: the network's; None: that of the comments, or the layer file's name, or its folder's where it is
            called layers.cfg.
        recipe: how to train, except for the rate and the momentum, which are in the files. None: that of the
            comments, or 90 epochs of batches of 128, random crops and mirror images if there is a crop.

    Raises:
        ConfigError: ``FILE:LINE: layer NAME: ...`` where the files cannot be used.
        OSError: one of them cannot be read.
    """
    layer_def, layer_params = Path(layer_def), Path(layer_params)
    files, extras = Sections(layer_def, layer_params), read_extras(layer_def, layer_params)
    height, width, *rest = image_shape
    channels = rest[0] if rest else files.image_channels()
    if crop is not None and not 1 <= crop <= min(height, width):
        raise ValueError(f"crop must be from 1 to {min(height, width)}, the images' side, not {crop}")
    sides = extras.crop if crop is None else (crop, crop)
    if sides is not None and (sides[0] > height or sides[1] > width):
        raise ValueError(
            f"{layer_def} is for crops of {sides[0]}x{sides[1]}, larger than the images, {height}x{width}: "
            "give a crop"
        )
    # The old programs' data providers that crop subtract the centre of the mean image from every crop.
    image = InputSpec(*(sides or (height, width)), channels, center_mean=sides is not None)
    if sides == extras.crop and extras.input is not None:
        image = dataclasses.replace(extras.input, height=image.height, width=image.width, channels=channels)
    draft = Draft(files)
    _build(draft, image, classes)
    cropped = sides is not None
    recipe = recipe or extras.recipe
    recipe = recipe or TrainRecipe(batch=128, epochs=90, lr=0.01, crop=cropped, mirror=cropped)
    stem = layer_def.absolute().parent.name if layer_def.stem == "layers" else layer_def.stem
    spec = NetSpec(
        name=name or extras.name or stem,
        layers=tuple(draft.layers),
        input=image,
        stored=(height, width),
        classes=draft.classes,
        recipe=dataclasses.replace(recipe, lr=draft.lr, momentum=draft.momentum),
    )
    return spec, _notes(draft)


def _build(draft: Draft, image: InputSpec, classes: int | None) -> None:
    _find_rates(draft)
    draft.outputs[draft.files.images.name] = DATA
    draft.shapes[draft.files.images.name] = (image.height, image.width, image.channels)
    for section in draft.files.order:
        kind = draft.files.kinds[section.name]
        if kind == "data":
            continue
        if kind == "softmax":
            if section.text("neuron", "ident") != "ident":
                raise section.error("a softmax cannot have a neuron", "neuron")
            draft.shapes[section.name] = draft.input_shapes(section)[0]
            continue
        if kind == "cost.logreg":
            add_cost(draft, section, classes)
            continue
        neuron = draft.neuron(section) if kind != "neuron" else None
        dropped = _dropped(draft, section)
        if kind == "pass":
            # Copies between devices are the network's own affair.
            draft.device(section)
            (source,) = draft.files.inputs[section.name]
            output, shape = draft.outputs[source], draft.shapes[source]
        else:
            # A layer takes its function along, unless something else is between them.
            inside = kind in ("conv", "local", "fc") and not (dropped and neuron and neuron.kind != "relu")
            spec = BUILDERS[kind](draft, section, neuron if inside else None)
            output, shape = spec.name, draft.add(section, spec)
            neuron = None if inside else neuron
        if dropped:
            output = draft.add_behind(output, DropoutSpec(name=f"{section.name}_dropout", keep=1 - dropped))
        if neuron is not None:
            output = draft.add_behind(output, NeuronSpec(name=f"{section.name}_neuron", neuron=neuron))
        draft.outputs[section.name], draft.shapes[section.name] = output, shape


def _dropped(draft: Draft, section: Section) -> float:
    """Return the fraction that ``dropout=`` drops of a layer's output in training, before its neuron."""
    params = draft.files.params.get(section.name)
    where = params if params is not None and "dropout" in params else section
    if where is params and "dropout" in section:
        raise section.error("dropout must be in one of the two files, not in both", "dropout")
    part = where.value("dropout", float, 0.0)
    if not 0 <= part < 1:
        raise where.error(f"dropout must be at least 0 and below 1, not {part:g}", "dropout")
    return part


def _find_rates(draft: Draft) -> None:
    """Set the network's rate and momentum."""
    for key, target in (("epsW", "lr"), ("momW", "momentum")):
        for section in draft.files.sections.values():
            if draft.files.kinds[section.name] not in ("conv", "local", "fc"):
                continue
            count = len(draft.files.inputs[section.name])
            rates = read_rates(draft.files.params_of(section), key, count)
            first = next((value for value, _ in rates if value), None)
            if first is not None:
                setattr(draft, target, first)
                break


def _notes(draft: Draft) -> list[str]:
    """List what a reader of the files may want to know, each thing once."""
    notes = [
        f"{key} changes no result and is not used: {', '.join(names)}"
        for key, names in draft.files.no_effect.items()
    ]
    sections = [*draft.files.sections.values(), *draft.files.params.values()]
    notes += [note for section in sections for note in section.repeats]
    notes += [
        f"{section.file}:{section.line}: [{section.name}] is no layer's and is not used"
        for section in draft.files.of_no_layer
    ]
    notes += [
        f"gpu={gpu}: a replica on each would compute a part of the batch; the first device computes all "
        f"of it: {', '.join(names)}"
        for gpu, names in draft.replicas.items()
    ]
    dropout = ", ".join(section.name for section in draft.files.of_kind("dropout"))
    if dropout:
        notes.append(
            f"dropout multiplies by keep at test time, like hs and unlike cuda-convnet2's: {dropout}"
        )
    return notes
