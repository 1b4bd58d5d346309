"""A trained network for inspection: it ends in any layer, and its gradients go back to the images."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from cconvnet.errors import nearest
from cconvnet.evaluate import Trained, center_view, network_tensors
from cconvnet.layers.neuron import NeuronLayer
from cconvnet.layers.pool import PoolLayer
from cconvnet.nets import BatchNormSpec
from cconvnet.nets.cuts import ending_in, neurons_apart
from cconvnet.nets.fold import fold
from cconvnet.nets.shapes import shapes
from cconvnet.network import Network
from cconvnet.runs.checkpoint import MEAN

Floats = NDArray[np.float32]


class Probe:
    """A trained network that ends in one of its layers, for activations and gradients outside of training.

    Batch normalisations are folded into the products before them, and activation functions are layers of
    their own.

    Args:
        trained: The network.
        end: The layer; None: that of the classes' scores, before the softmax.
        batch: Images at once.

    Attributes:
        network: The network.
        view: The part of stored images that it sees.
        names: By the name of a layer of the trained network, that of its output here.

    Raises:
        ValueError: There is no such layer, or a batch normalisation stands behind no product.
    """

    def __init__(self, trained: Trained, end: str | None = None, batch: int = 1) -> None:
        spec = trained.network.spec
        end = scores(trained) if end is None else end
        folded, values = fold(ending_in(spec, end), network_tensors(trained.checkpoint))
        for layer in folded.layers:
            if isinstance(layer, BatchNormSpec):
                raise ValueError(
                    f"layer {layer.name} follows no product, so it has no gradients outside of training"
                )
        whole, names = neurons_apart(folded)
        self.names = {layer.name: names[layer.name] for layer in folded.layers}
        self.network = Network(
            whole,
            batch=batch,
            devices=trained.network.devices[:1],
            seed=trained.network.seed,
            precision=trained.network.precision,
            fuse=False,
            image_gradient=True,
            needs="forward",
        )
        self.view = center_view(whole)
        state = self.network.state_shapes()
        self.network.load_state({name: values[name] for name in state})
        self.network.set_mean(trained.checkpoint.tensors.get(MEAN))
        self._ruled = [layer for layer in self.network.layers if isinstance(layer, NeuronLayer | PoolLayer)]

    @property
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """The shape (H, W, C) of each layer's output, by the trained network's names."""
        found = shapes(self.network.spec)
        return {name: found[here] for name, here in self.names.items()}

    def here(self, name: str) -> str:
        """Return the name in this network of the output of a layer of the trained one.

        Raises:
            ValueError: It has no output of its own here.
        """
        if name not in self.names:
            raise ValueError(nearest("layer", name, list(self.names)))
        return self.names[name]

    def forward(self, images: NDArray[np.uint8]) -> Floats:
        """Return the last layer's output for images.

        Args:
            images: uint8[n,H,W,C] of the stored size, at most a batch; the middle is seen.

        Returns:
            float32[n, ...].
        """
        self.view.show(self.network, images)
        found: Floats = self.network.outputs(self.network.spec.answer.name)[: len(images)]
        return found

    def activation(self, name: str) -> Floats:
        """Return a layer's output in the last forward pass, float32[batch, ...]."""
        found: Floats = self.network.outputs(self.here(name))
        return found

    def gradients(self, names: Collection[str], start: Floats, rule: str = "gradient") -> dict[str, Floats]:
        """Return gradients of layers' outputs, or of "data", from one of the last layer's output.

        Args:
            names: Layers of the trained network, or "data".
            start: float32[n, ...], the gradient of the last layer's output for the images of the last pass.
            rule: Of ReLUs, "gradient", "guided" or "deconvnet", and with it of max poolings; see
                cconvnet.layers.neuron and cconvnet.layers.pool.

        Returns:
            By name, float32[n, ...].
        """
        for layer in self._ruled:
            layer.rule = rule
        count = len(start)
        whole = np.zeros((self.network.batch, *start.shape[1:]), np.float32)
        whole[:count] = start
        here = {name: name if name == "data" else self.here(name) for name in names}
        found = self.network.gradients(list(here.values()), whole)
        return {name: found[own][:count] for name, own in here.items()}

    def seen(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the part of stored images [...,H,W,C] that the network sees."""
        return self.view.of(self.network.spec, images)


def scores(trained: Trained) -> str:
    """Return the layer whose outputs are the classes' scores, before the softmax."""
    return trained.network.spec.answer.inputs[0]
