"""Operations as functions of arrays.

Arrays are NumPy's, CuPy's, or those of any library that offers DLPack, such as PyTorch's tensors and JAX's
arrays. They are read and written without a copy. Results are arrays of the same library on the same device.
``cpu:0`` computes on host arrays, unless ``device`` is ``"emulator:0"`` (the CUDA kernels, emulated) or
``"reference:0"`` (float64 NumPy).

Rules for every function:

- Layout is NHWC: ``x[N,H,W,C]``, ``y[N,P,Q,K]``, filters ``w[K,R,S,C/groups]``; FC is ``x[N,C]``,
  ``w[K,C]``.
- Arrays are C-contiguous; nothing is converted silently. Numbers are float32 or bfloat16, the same in all
  arrays of a call. Exceptions are named; biases, gradients of weights and losses are always float32.
  Labels are int32, images uint8.
- All arrays of a call are of one library (else ``TypeError``). An object that offers nothing but DLPack
  counts as an array of NumPy or CuPy. Tensors that require gradients are refused; ``cconvnet.torch`` records
  them.
- bfloat16 is the type of that name of any package (``ml_dtypes.bfloat16``, ``torch.bfloat16``), or uint16
  with its bits. Results are of the type that was given, and bits if none was and the library has no such
  type. ``cconvnet.bfloat16.pack`` and ``unpack`` convert on the host, ``to_bf16`` and ``from_bf16`` on a
  device.
- Products of float32 arrays are strict (``fp32``) unless ``precision="tf32"`` rounds the factors to 10
  bits of fraction, or ``precision="fp32x3"`` adds three products of parts of them. Products of bfloat16
  arrays are ``bf16``. All sums are of floats, rounded once at the end. A device that cannot compute in a
  precision raises ``ValueError``, which names the devices that can.
- ``out`` is written and returned; without it a new array is made. It may share memory with an input only
  if "in place" is allowed, and must then be that input exactly.
- ``impl`` names a row of the selection table of a convolution, local or FC operation.
  ``CCONVNET_LOG_KERNELS=1`` prints the rows that any table chooses.
- Results are bit-identical at every call on the same device.
- On a GPU an operation runs on the device's own stream (``Device.stream``), behind all work of CuPy's
  current stream of that GPU. Later work of the current stream waits for it, so CuPy code needs no
  synchronization. For PyTorch's tensors the same holds of PyTorch's current stream. For a library whose
  stream is unknown, the call returns when its work is done. All arrays of a call must be on the device's GPU.
- A stream that is being captured takes an operation into its graph if `out` is given and no workspace is
  needed (else ``RuntimeError``).
- Bad arguments raise ``ValueError`` or ``TypeError``, which names the argument, before anything is
  launched. A device that cannot be used raises ``DeviceUnavailable``, a CUDA failure ``CudaError``.
- Formulas and sources are in ``kernels/api.h``.

``call`` contains the checks of arrays, ``arrays`` their exchange with other libraries, ``arguments`` the
checks of numbers, ``windows`` those of sliding filters. Every other module is a family of operations.
"""

from __future__ import annotations

from cconvnet.ops.arguments import Array, Padding, Pair
from cconvnet.ops.batch_norm import batch_norm_backward, batch_norm_forward, batch_norm_statistics
from cconvnet.ops.bias import bias_add, bias_grad, relu_bias_backward
from cconvnet.ops.contrast_norm import contrast_norm_backward, contrast_norm_forward
from cconvnet.ops.conv import conv_dgrad, conv_fprop, conv_wgrad
from cconvnet.ops.dropout import dropout
from cconvnet.ops.elementwise import add, from_bf16, to_bf16
from cconvnet.ops.eltmax import eltmax_backward, eltmax_forward
from cconvnet.ops.eltmul import eltmul
from cconvnet.ops.fc import fc_dgrad, fc_fprop, fc_wgrad
from cconvnet.ops.input_transform import filters_from_blocks, filters_to_blocks, input_transform
from cconvnet.ops.l2_cost import l2_cost_backward, l2_cost_forward
from cconvnet.ops.lars import lars_rate
from cconvnet.ops.limit_norm import limit_norm
from cconvnet.ops.local import local_dgrad, local_fprop, local_wgrad
from cconvnet.ops.lrn import lrn_backward, lrn_forward
from cconvnet.ops.lrn_maxpool import lrn_maxpool_backward, lrn_maxpool_forward
from cconvnet.ops.neuron import neuron_backward, neuron_forward, relu_backward, relu_forward
from cconvnet.ops.pool import avgpool_backward, avgpool_forward, maxpool_backward, maxpool_forward
from cconvnet.ops.sgd import sgd_update
from cconvnet.ops.softmax import (
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
    softmax_forward,
    top_k_error,
    watch_losses,
)
from cconvnet.ops.tree_sum import tree_sum
from cconvnet.ops.unpool import maxunpool_backward, maxunpool_forward

__all__ = [
    "Array",
    "Padding",
    "Pair",
    "add",
    "avgpool_backward",
    "avgpool_forward",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_statistics",
    "bias_add",
    "bias_grad",
    "contrast_norm_backward",
    "contrast_norm_forward",
    "conv_dgrad",
    "conv_fprop",
    "conv_wgrad",
    "dropout",
    "eltmax_backward",
    "eltmax_forward",
    "eltmul",
    "fc_dgrad",
    "fc_fprop",
    "fc_wgrad",
    "filters_from_blocks",
    "filters_to_blocks",
    "from_bf16",
    "input_transform",
    "l2_cost_backward",
    "l2_cost_forward",
    "lars_rate",
    "limit_norm",
    "local_dgrad",
    "local_fprop",
    "local_wgrad",
    "lrn_backward",
    "lrn_forward",
    "lrn_maxpool_backward",
    "lrn_maxpool_forward",
    "maxpool_backward",
    "maxpool_forward",
    "maxunpool_backward",
    "maxunpool_forward",
    "neuron_backward",
    "neuron_forward",
    "relu_backward",
    "relu_bias_backward",
    "relu_forward",
    "sgd_update",
    "softmax_cross_entropy",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "softmax_forward",
    "to_bf16",
    "top_k_error",
    "tree_sum",
    "watch_losses",
]
