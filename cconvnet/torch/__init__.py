"""The operations as differentiable functions of PyTorch, with the arguments of ``torch.nn.functional``.

Nothing else in this package imports PyTorch, and this package is imported only by its own name:

    import cconvnet.torch as ct

    y = ct.max_pool2d(ct.relu(ct.conv2d(x, w, b, padding=2)), 3, 2)
    ct.cross_entropy(y.flatten(1), labels).backward()

Rules for every function:

- Images have PyTorch's shape [N,C,H,W] and filters [K,C/groups,R,S]. In memory, kernels want channels last.
  Tensors of ``torch.channels_last`` are read without a copy; others are copied into that layout. Results are
  channels-last.
- Tensors are float32 or bfloat16, all of a call alike; a bias may be of either. Gradients have the types of
  the tensors they belong to.
- Results and gradients are bit-identical to those of ``cconvnet.ops`` on the same arrays, at every call.
- Work is ordered with PyTorch's current stream, in the backward pass too.
- CPU tensors are computed on ``cpu:0`` unless ``device`` names another device of the host:
  ``"emulator:0"`` runs the CUDA kernels, ``"reference:0"`` takes float64 as well, for
  ``torch.autograd.gradcheck``.
- Gradients can be taken once. A second derivative raises PyTorch's ``RuntimeError``.

Modules: ``layout`` (shapes and memory), ``function`` (gradients of operations), ``products`` (convolutions,
local and linear layers), ``pooling``, ``normalisation``, ``elementwise`` (activations, dropout, maximum),
``cost`` (cross-entropy).
"""

from __future__ import annotations

from cconvnet.torch.cost import cross_entropy
from cconvnet.torch.elementwise import dropout, maximum, neuron, relu, sigmoid, softplus, tanh
from cconvnet.torch.normalisation import contrast_norm, local_response_norm
from cconvnet.torch.pooling import avg_pool2d, max_pool2d
from cconvnet.torch.products import conv2d, conv_transpose2d, linear, local2d

__all__ = [
    "avg_pool2d",
    "contrast_norm",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "linear",
    "local2d",
    "local_response_norm",
    "max_pool2d",
    "maximum",
    "neuron",
    "relu",
    "sigmoid",
    "softplus",
    "tanh",
]
