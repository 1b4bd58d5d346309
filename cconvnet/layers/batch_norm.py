"""Batch normalisation, with the sum and the ReLU behind it in the same passes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Self, cast

from cconvnet._problem import BatchNormProblem
from cconvnet.layers.base import Layer, Site, Tensor, only
from cconvnet.nets import BatchNormSpec, LayerSpec, NeuronSpec, SumSpec
from cconvnet.optim import FusedUpdates, Piece


class BatchNormLayer(Layer):
    """Each channel minus its mean, over its standard deviation, times gamma, plus beta.

    In training mean and variance are those of the batch's images, and move the running ones with the update.
    Otherwise they are the running ones. A sum with a second input, the shortcut, and a ReLU may follow.

    Attributes:
        gamma: the factor of each channel.
        beta: what is added to each.
        mean: the running mean. Its "gradient" is the batch's mean, which the update mixes into it.
        variance: the running variance. Its "gradient" is the batch's unbiased variance, likewise.
        sums: whether the sum follows.
        relu: whether the ReLU follows.
    """

    type = "batch_norm"
    backward_in_place = True

    def __init__(
        self,
        spec: BatchNormSpec,
        inputs: Sequence[Sequence[Tensor]],
        site: Site,
        behind: Sequence[LayerSpec] = (),
    ) -> None:
        tensors = [only([own]) for own in inputs]
        x = tensors[0]
        for tensor in tensors[1:]:
            if tensor.shape != x.shape:
                raise ValueError(
                    f"inputs must have one shape, not {x.shape} and {tensor.name} {tensor.shape}"
                )
        super().__init__(spec.name, site, tensors, x.shape, learns=True)
        self.sums, self.relu = len(inputs) == 2, bool(behind) and isinstance(behind[-1], NeuronSpec)
        for own in behind:
            self.take_along(own)
        self._rows, self._eps, self._loaded = x.count // x.channels, spec.eps, site.loaded
        vector = functools.partial(site.vector, spec.name, shape=(x.channels,))
        decay, bias_decay = spec.weight_decay, spec.bias_weight_decay
        self.gamma = vector("weight", first=spec.gamma, rate_factor=spec.lr_scale, weight_decay=decay)
        self.beta = vector("bias", first=0.0, rate_factor=spec.bias_lr_scale, weight_decay=bias_decay)
        average: dict[str, Any] = {"rate_factor": 1.0, "weight_decay": 0.0, "average": spec.momentum}
        self.mean = vector("mean", first=0.0, **average)
        self.variance = vector("variance", first=1.0, **average)
        self._biased = site.allocate(site.device, (x.channels,))
        # Mean and variance in the last forward pass: of the batch, or the running ones.
        self._used = self.mean.value, self.variance.value

    @staticmethod
    def fuses(chain: Sequence[LayerSpec]) -> bool:
        """True if a plain sum with one other input follows, a ReLU, or both in this order."""
        return all(
            layer.neuron.kind == "relu"
            if isinstance(layer, NeuronSpec)
            else isinstance(layer, SumSpec) and len(layer.inputs) == 2 and set(layer.coeffs) <= {1}
            for layer in chain[1:]
        )

    @classmethod
    def fuse(cls, chain: Sequence[LayerSpec], inputs: Sequence[Sequence[Tensor]], site: Site) -> Self:
        """Make the normalisation with what follows it."""
        return cls(cast(BatchNormSpec, chain[0]), inputs, site, chain[1:])

    @property
    def pieces(self) -> list[Piece]:
        """Gamma, beta, and the running mean and variance."""
        return [self.gamma, self.beta, self.mean, self.variance]

    @property
    def problem(self) -> BatchNormProblem:
        """Of the rows of a full batch, those that belong to loaded images count; all before any is loaded."""
        x = self.inputs[0]
        counted = self._loaded.count * (self._rows // x.shape[0])
        return _problem(self._rows, x.channels, counted, self._eps)

    def statistics(self) -> dict[str, Any]:
        """The arrays that receive the statistics of a batch, and how many of its rows count."""
        return {
            "mean": self.mean.gradient,
            "variance": self._biased,
            "unbiased": self.variance.gradient,
            "counted": self.problem.counted,
        }

    def workspace_bytes(self) -> int:
        """The bytes of workspace of the most demanding pass."""
        module = self.device.module
        return max(
            int(module.batch_norm_statistics_workspace(self.problem)),
            int(module.batch_norm_backward_workspace(self.problem)),
        )

    def forward(self, train: bool) -> None:
        """Compute the batch's statistics in training, then normalise."""
        self._used = self.mean.value, self.variance.value
        if train:
            self._used = self.mean.gradient, self._biased
            if not self.input_is_measured:
                self.device.module.batch_norm_statistics(
                    self.problem,
                    self.inputs[0].array,
                    self.mean.gradient,
                    self._biased,
                    self.variance.gradient,
                    self.workspace,
                    self.device.stream,
                )
        self._normalise(self.output.array, self.sums, self.relu)

    def _normalise(self, y: Any, sums: bool, relu: bool) -> None:
        self.device.module.batch_norm_forward(
            self.problem,
            self.inputs[0].array,
            *self._used,
            self.gamma.value,
            self.beta.value,
            self.inputs[1].array if sums else None,
            relu,
            y,
            self.device.stream,
        )

    def compute_inside(self, y: Any, name: str) -> None:
        """Compute the normalised values again, or their sum with the shortcut."""
        self._normalise(y, self.sums and name != self.names[0], False)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Compute the gradients of the input, of gamma and beta, and of the shortcut."""
        dx, *others = self.input_gradients
        self.device.module.batch_norm_backward(
            self.problem,
            self.inputs[0].array,
            self.output.array if self.relu else None,
            self.output.gradient,
            *self._used,
            self.gamma.value,
            dx,
            self.gamma.gradient,
            self.beta.gradient,
            self.workspace,
            self.device.stream,
            dshortcut=others[0] if others else None,
        )
        if updates is not None:
            for piece in self.pieces:
                updates.apply(piece)


# A batch's sizes last for many steps, so the problems of one size are made once.
@functools.lru_cache(maxsize=1024)
def _problem(rows: int, channels: int, counted: int, eps: float) -> BatchNormProblem:
    return BatchNormProblem(rows, channels, counted, eps)
