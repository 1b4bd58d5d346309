"""Any of our networks as a PyTorch module, with our weights."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cconvnet.bench.peers.pytorch_layers import (
    Activation,
    BatchNorm,
    Concat,
    Conv,
    Deconv,
    Dropout,
    Fc,
    Learned,
    Lrn,
    Max,
    Pool,
    Select,
    Sum,
    Unpool,
    Weighted,
)
from cconvnet.bench.processes import PeerMissing
from cconvnet.nets import (
    DATA,
    BatchNormSpec,
    ConcatSpec,
    ConvSpec,
    DeconvSpec,
    DropoutSpec,
    FcSpec,
    InputSpec,
    LayerSpec,
    LrnSpec,
    MaxSpec,
    NetSpec,
    NeuronSpec,
    PoolSpec,
    SelectSpec,
    SoftmaxCostSpec,
    SumSpec,
    UnpoolSpec,
)
from cconvnet.nets.shapes import Shape, shapes

Array = np.ndarray[Any, Any]


def input_factor(images: InputSpec, device: torch.device | str = "cpu") -> Tensor | None:
    """Return what multiplies the pixels minus the mean, float[1,C,1,1]; None where that is 1."""
    if images.scale == 1 and images.deviation is None:
        return None
    deviation = torch.tensor(images.deviation or [1.0] * images.channels, device=device)
    return images.scale / deviation.view(1, -1, 1, 1)


def without_parameters(layer: LayerSpec, inputs: list[Shape], lrn_by_hand: bool = False) -> nn.Module | None:
    """Return the module of a layer that has no parameters; None: it has some, or PyTorch has no such layer.

    Args:
        layer: The layer.
        inputs: The shapes of what it reads.
        lrn_by_hand: See Lrn.
    """
    match layer:
        case NeuronSpec():
            return Activation(layer)
        case PoolSpec():
            return Pool(layer, inputs[0])
        case UnpoolSpec():
            return Unpool(layer, inputs[1])
        case LrnSpec():
            return Lrn(layer, lrn_by_hand)
        case DropoutSpec():
            return Dropout(layer)
        case SumSpec():
            return Sum(layer)
        case MaxSpec():
            return Max()
        case ConcatSpec():
            return Concat()
        case SelectSpec():
            return Select(layer)
    return None


class Net(nn.Module):
    """Map images float[N,C,H,W] to the costs' inputs, float[N,classes], the main cost's first.

    Those of a cost per pixel are float[N,classes,H,W].

    Heads run in training only, like ours.

    Args:
        spec: The network.
        state: Our parameters, as Network.state returns them.
        lrn_by_hand: See Lrn.

    Attributes:
        learned: Every parameter by our name.
        dropouts: The dropout layers by name.
        pools: The pooling layers.
        costs: Our costs, the main one first.

    Raises:
        PeerMissing: PyTorch lacks a layer; the text names it.
    """

    def __init__(self, spec: NetSpec, state: Mapping[str, Array], lrn_by_hand: bool = False) -> None:
        super().__init__()
        self.spec = spec
        found = shapes(spec)
        self.modules_in_order = nn.ModuleList()
        self.learned: dict[str, Learned] = {}
        self.dropouts: dict[str, Dropout] = {}
        self.pools: list[Pool] = []
        self.costs: list[SoftmaxCostSpec] = []
        for cost in sorted(spec.costs, key=lambda cost: cost.train_only):
            if not isinstance(cost, SoftmaxCostSpec):
                raise PeerMissing(f"{cost.name} is no softmax cost, as PyTorch's side has it")
            self.costs.append(cost)
        self.layers = [layer for layer in spec.layers if layer not in self.costs]
        for layer in self.layers:
            inputs = [found[name] for name in layer.inputs]
            module = self._module(layer, inputs, state, lrn_by_hand)
            self.modules_in_order.append(module)
            if isinstance(module, Weighted | BatchNorm):
                self.learned |= module.learned
            elif isinstance(module, Dropout):
                self.dropouts[layer.name] = module
            elif isinstance(module, Pool):
                self.pools.append(module)
        self.last_reader = {name: layer.name for layer in spec.layers for name in layer.inputs}

    def set_masks(self, masks: Mapping[str, Array], memory_format: torch.memory_format) -> None:
        """Let the next training pass multiply by our dropout masks, [N,H,W,C] or [N,C], by layer."""
        for name, given in masks.items():
            mask = torch.from_numpy(given)
            if mask.ndim == 4:
                mask = mask.permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
            self.dropouts[name].mask = mask.to(next(self.parameters()).device)

    @staticmethod
    def _module(
        layer: LayerSpec, inputs: list[Shape], state: Mapping[str, Array], lrn_by_hand: bool
    ) -> nn.Module:
        match layer:
            case ConvSpec():
                return Conv(layer, inputs, state)
            case DeconvSpec():
                return Deconv(layer, inputs, state)
            case FcSpec():
                return Fc(layer, inputs, state)
            case BatchNormSpec():
                return BatchNorm(layer, state)
        module = without_parameters(layer, inputs, lrn_by_hand)
        if module is None:
            raise PeerMissing(f"PyTorch has no layer like {layer.name}, a {layer.type}")
        return module

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the costs' inputs."""
        outputs = {DATA: images}
        skipped = frozenset() if self.training else self.spec.train_only
        for layer, module in zip(self.layers, self.modules_in_order, strict=True):
            if layer.name in skipped:
                continue
            outputs[layer.name] = module(*(outputs[name] for name in layer.inputs))
            # Free outputs that no later layer reads.
            for name in layer.inputs:
                if self.last_reader[name] == layer.name:
                    outputs.pop(name, None)
        found = [(cost, outputs[cost.inputs[0]]) for cost in self.costs if cost.name not in skipped]
        return [own if cost.per_pixel else own.flatten(1) for cost, own in found]

    def losses(self, logits: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the main cost's loss, and the sum of all costs, each times its coefficient."""
        losses = [
            F.cross_entropy(
                own.float(),
                labels,
                ignore_index=-100 if cost.ignore is None else cost.ignore,
                label_smoothing=cost.smoothing if self.training else 0.0,
            )
            for cost, own in zip(self.costs, logits, strict=False)
        ]
        parts = [
            loss if cost.coeff == 1 else loss * cost.coeff
            for cost, loss in zip(self.costs, losses, strict=False)
        ]
        return losses[0], functools.reduce(torch.add, parts)

    def param_groups(self, lr: float, momentum: float) -> list[dict[str, Any]]:
        """Return the groups of torch.optim.SGD, each with the parameters that learn alike."""
        groups: dict[tuple[float, float, float], list[nn.Parameter]] = {}
        for own in self.learned.values():
            kept = momentum if own.momentum is None else own.momentum
            groups.setdefault((own.lr_scale, own.weight_decay, kept), []).append(own.tensor)
        return [
            {"params": tensors, "lr": lr * lr_scale, "weight_decay": decay, "momentum": kept}
            for (lr_scale, decay, kept), tensors in groups.items()
        ]
