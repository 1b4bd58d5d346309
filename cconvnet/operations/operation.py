"""Operation, the description of one function of ``kernels/api.h``, and the arrays and values that it takes.

A call of an operation on a device's module has this form::

    module.conv_fprop(problem, x, w, bias, relu, y, workspace, stream, impl, dropout=..., step=...)

the problems, the inputs, the outputs that are no inputs, the workspace if the operation has one, the stream,
the row of the selection table if the operation has one, and the options by keyword.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cconvnet import bfloat16

# The element type of a call: float32 or bfloat16, the same for all arrays described with it.
ELEMENT = "the element type of the call"
# The axes of an array that may have any shape. All such arrays of a call have the same.
ANY = "any"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Array:
    """An array that an operation reads or writes.

    Attributes:
        name: The name of the argument.
        axes: The axes that callers give, "N,H,W,C" or ANY.
        shape: The shape in terms of the problem: attributes of the problem with commas between ("x_shape",
            "rows,k"), or a function of the problem.
        type: ELEMENT or a NumPy type. An array of ``bfloat16.BITS`` always contains bfloat16s.
        optional: True if the array may be None.
        written: True for an option that is written.
        bytes_read: The bytes that must be read, as a function of the problem, where it is not all of them.
    """

    name: str
    axes: str
    shape: str | Callable[[Any], Shape]
    type: Any = ELEMENT
    optional: bool = False
    written: bool = False
    bytes_read: Callable[[Any], int] | None = None

    def shape_for(self, problem: Any) -> Shape:
        """Return the shape for a problem, or for a tuple of problems."""
        if not isinstance(self.shape, str):
            return self.shape(problem)
        shape: Shape = ()
        for attribute in self._attributes:
            extent = getattr(problem, attribute)
            shape += extent if isinstance(extent, tuple) else (extent,)
        return shape

    @functools.cached_property
    def rank(self) -> int:
        """The number of axes, where they are not ANY."""
        return self.axes.count(",") + 1

    @functools.cached_property
    def _attributes(self) -> tuple[str, ...]:
        return tuple(str(self.shape).split(","))

    def dtype(self, element: str) -> Any:
        """Return the NumPy type for an element type, "fp32" or "bf16"."""
        if self.type != ELEMENT:
            return self.type
        return bfloat16.BITS if element == "bf16" else np.float32


@dataclass(frozen=True)
class Value:
    """A number or a flag that an operation takes, or the problem of a fused step."""

    name: str


@dataclass(frozen=True)
class Operation:
    """Everything that callers, modules, tests and benchmarks must know of an operation.

    Attributes:
        name: The name of the function.
        problem_types: The problems that a call begins with. Without any, the size of the first array is the
            size of all, and a NeuronProblem contains it where a problem is needed.
        inputs: Arrays and values that are read, in the order of a call.
        outputs: Arrays that are written. One that is an input too is updated.
        options: Arrays and values that are passed by keyword.
        out: The output that a caller may supply, or None.
        in_place: The inputs that `out` may be.
        workspace: The function that returns the size of the workspace, or None without a workspace.
        sums: The option that is made by sums over rows, for which the workspace has room if it is asked for.
        has_impls: True if the operation has a selection table: ``NAME_impls`` lists its rows.
        elementwise: True if an output depends on few inputs, so that tests count errors in units of each
            element instead of the largest.
        flops: Floating-point operations of the sums of products, as a function of the problem. None for
            operations that take a few steps for each element they move: memory limits those.
    """

    name: str
    problem_types: tuple[type, ...]
    inputs: tuple[Array | Value, ...]
    outputs: tuple[Array, ...]
    options: tuple[Array | Value, ...] = ()
    out: str | None = None
    in_place: tuple[str, ...] = ()
    workspace: str | None = None
    sums: str | None = None
    has_impls: bool = False
    elementwise: bool = False
    flops: Callable[[Any], float] | None = None

    @property
    def has_problem(self) -> bool:
        """True if a call begins with a problem."""
        return bool(self.problem_types)

    @property
    def has_workspace(self) -> bool:
        """True if a call takes a workspace."""
        return self.workspace is not None

    @functools.cached_property
    def has_elements(self) -> bool:
        """True if some arrays may contain bfloat16s instead of floats."""
        return any(array.type == ELEMENT for array in self.arrays.values())

    @functools.cached_property
    def arrays(self) -> dict[str, Array]:
        """All arrays by name: inputs, outputs, options."""
        every = itertools.chain(self.inputs, self.outputs, self.options)
        return {array.name: array for array in every if isinstance(array, Array)}

    @functools.cached_property
    def keywords(self) -> tuple[str, ...]:
        """The names of the options."""
        return tuple(option.name for option in self.options)

    @functools.cached_property
    def further(self) -> tuple[str, ...]:
        """The names of the options that are outputs, if a call asks for them."""
        return tuple(option.name for option in self.options if isinstance(option, Array) and option.written)

    @functools.cached_property
    def updated(self) -> tuple[str, ...]:
        """The names of the arrays that are read and written."""
        inputs = {given.name for given in self.inputs}
        return tuple(output.name for output in self.outputs if output.name in inputs)

    @functools.cached_property
    def written(self) -> frozenset[str]:
        """The names of the arrays of a caller that are written: updated ones, and options."""
        return frozenset((*self.updated, *self.keywords))

    @functools.cached_property
    def positions(self) -> tuple[str, ...]:
        """The names of a call's arguments behind the problems, in order."""
        names = [given.name for given in self.inputs]
        names += [output.name for output in self.outputs if output.name not in names]
        names += ["workspace"] * self.has_workspace + ["stream"] + ["impl"] * self.has_impls
        return (*names, *self.keywords)

    def dtype(self, name: str, element: str) -> Any:
        """Return the NumPy type of an array for an element type, "fp32" or "bf16"."""
        return self.arrays[name].dtype(element)

    def asks_for_sums(self, given: Mapping[str, Any]) -> bool:
        """Return whether arguments of a call, by name, ask for the option that is made by sums."""
        return self.sums is not None and given.get(self.sums) is not None

    def problems(self, problem: Any) -> tuple[Any, ...]:
        """Return a problem, or a tuple of several, as the first arguments of a call."""
        if not self.problem_types:
            return ()
        return problem if isinstance(problem, tuple) else (problem,)

    def output_shapes(self, problem: Any) -> dict[str, Shape]:
        """Return the shape of every output by name."""
        return {output.name: output.shape_for(problem) for output in self.outputs}

    def bind(
        self, arguments: Sequence[Any], keywords: Mapping[str, Any] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the problems of a call and its other arguments by name."""
        count = len(self.problem_types)
        named = dict(zip(self.positions, arguments[count:], strict=False))
        return tuple(arguments[:count]), named | dict(keywords or {})
