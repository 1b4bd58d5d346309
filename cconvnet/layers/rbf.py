"""Distances of an activation from fixed codes, one for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cconvnet._problem import FcProblem, NeuronProblem
from cconvnet.bfloat16 import pack
from cconvnet.layers.base import Array, Layer, Site, Tensor, only
from cconvnet.nets import RbfSpec
from cconvnet.optim import FusedUpdates


class RbfLayer(Layer):
    """Minus the squared distance of each image's activation from each code.

    -sum_j (x_j - w_kj)^2 = sum_j 2 w_kj x_j - sum_j x_j^2 - sum_j w_kj^2: a product with the codes, a product
    of the squares with -1, and a constant, since all w_kj are 1 or -1.
    """

    type = "rbf"

    def __init__(self, spec: RbfSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        x = only(inputs)
        codes = np.array([[1 if sign == "+" else -1 for sign in code] for code in spec.codes], np.float32)
        k, c = codes.shape
        n = x.shape[0]
        if c * n != x.count:
            raise ValueError(f"codes must have {x.count // n} signs, as many as {x.name} has values, not {c}")
        self.problem = FcProblem(n, c, k, site.precision)
        self.square = NeuronProblem(x.count, "square", 1.0, 0.0)
        super().__init__(spec.name, site, [x], (n, k))
        self._twice = self._fixed(site, 2 * codes, site.element)
        self._minus = self._fixed(site, -np.ones_like(codes), site.element)
        self._constant = self._fixed(site, np.full(k, -c, np.float32), np.float32)
        self._squares = site.allocate(site.device, (n, c), site.element)

    @staticmethod
    def _fixed(site: Site, values: Array, element: Any) -> Any:
        array = site.allocate(site.device, values.shape, element)
        site.device.fill(array, pack(values) if element == np.uint16 else values)
        return array

    def workspace_bytes(self) -> int:
        """The bytes of workspace of the more demanding pass."""
        module = self.device.module
        needs = [module.fc_fprop_workspace(self.problem)]
        if self.inputs[0].needs_gradient:
            needs.append(module.fc_dgrad_workspace(self.problem))
        return int(max(needs))

    def scratch_count(self) -> int:
        """The product of the squares, or their gradient."""
        return max(self.output.count, self.inputs[0].count)

    def forward(self, train: bool) -> None:
        """Compute both products and their sum."""
        module, stream, problem, workspace = (
            self.device.module,
            self.device.stream,
            self.problem,
            self.workspace,
        )
        x, y = self.inputs[0].array.reshape(problem.x_shape), self.output.array
        module.neuron_forward(self.square, x, self._squares, stream)
        module.fc_fprop(problem, x, self._twice, self._constant, False, y, workspace, stream)
        products = self.scratch[: self.output.count].reshape(y.shape)
        module.fc_fprop(problem, self._squares, self._minus, None, False, products, workspace, stream)
        module.add(y, products, y, stream)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Compute the input's gradient: 2 sum_k dy_k (w_kj - x_j)."""
        if self.input_gradients[0] is None:
            return
        module, stream, problem, workspace = (
            self.device.module,
            self.device.stream,
            self.problem,
            self.workspace,
        )
        x, dx = (array.reshape(problem.x_shape) for array in (self.inputs[0].array, self.input_gradients[0]))
        dy, squares = self.output.gradient, self.scratch[: x.size].reshape(x.shape)
        module.fc_dgrad(problem, dy, self._twice, dx, workspace, stream)
        module.fc_dgrad(problem, dy, self._minus, squares, workspace, stream)
        module.neuron_backward(self.square, x, self._squares, squares, squares, stream)
        module.add(dx, squares, dx, stream)
