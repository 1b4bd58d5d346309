"""Every operation of kernels/api.h in a few plain lines of NumPy, the reference of all tests.

A function has the name of its operation. It takes the problem, where there is one, and the operation's
inputs, and returns the outputs in float64 (ranks in int32). Arrays may have any shape that reshapes to the
problem's. Formulas and their sources are in kernels/api.h and kernels/problem.h. The code is written for
reading and not for speed, but no loop runs over pixels.

    >>> with precision(np.float32):
    ...     y = conv_fprop(problem, x, w)

computes the same in float32, which gives the rounding error to expect of a plain computation.

``base`` contains what the families share, ``products`` the steps behind a sum of products. Every other
module is a family of operations.
"""

from __future__ import annotations

from cconvnet.testing.reference.base import Array, Taps, precision
from cconvnet.testing.reference.batch_norm import (
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_statistics,
)
from cconvnet.testing.reference.bias import bias_add, bias_grad, relu_bias_backward
from cconvnet.testing.reference.contrast_norm import contrast_norm_backward, contrast_norm_forward
from cconvnet.testing.reference.conv import conv_dgrad, conv_fprop, conv_wgrad
from cconvnet.testing.reference.dropout import dropout, dropout_mask, philox4x32_10
from cconvnet.testing.reference.elementwise import add, from_bf16, to_bf16
from cconvnet.testing.reference.eltmax import eltmax_backward, eltmax_forward
from cconvnet.testing.reference.eltmul import eltmul
from cconvnet.testing.reference.fc import fc_dgrad, fc_fprop, fc_wgrad
from cconvnet.testing.reference.input_transform import filters_from_blocks, filters_to_blocks, input_transform
from cconvnet.testing.reference.l2_cost import l2_cost_backward, l2_cost_forward
from cconvnet.testing.reference.lars import lars_rate
from cconvnet.testing.reference.limit_norm import limit_norm
from cconvnet.testing.reference.local import local_dgrad, local_fprop, local_wgrad
from cconvnet.testing.reference.lrn import lrn_backward, lrn_forward
from cconvnet.testing.reference.lrn_maxpool import lrn_maxpool_backward, lrn_maxpool_forward
from cconvnet.testing.reference.neuron import neuron_backward, neuron_forward, relu_backward, relu_forward
from cconvnet.testing.reference.pool import (
    avgpool_backward,
    avgpool_forward,
    maxpool_backward,
    maxpool_forward,
)
from cconvnet.testing.reference.sgd import sgd_update
from cconvnet.testing.reference.softmax import (
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
    softmax_forward,
    watch_losses,
)
from cconvnet.testing.reference.tree_sum import tree_sum
from cconvnet.testing.reference.unpool import maxunpool_backward, maxunpool_forward

__all__ = [
    "Array",
    "Taps",
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
    "dropout_mask",
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
    "philox4x32_10",
    "precision",
    "relu_backward",
    "relu_bias_backward",
    "relu_forward",
    "sgd_update",
    "softmax_cross_entropy",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "softmax_forward",
    "to_bf16",
    "tree_sum",
    "watch_losses",
]
