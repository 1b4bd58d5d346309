"""Test of one operation on one problem and device in one call.

    >>> check("conv_fprop", ConvProblem(n=1, h=5, w=5, c=3, k=4, r=3, s=3), "emulator:0")

makes the inputs from a seed, puts every array between guard bands and fills outputs and workspace with
NaN. It runs the operation and asserts that

- the result is the reference's. With ``data="exact"`` (integers from -4 to 4, whose sums float32 represents
  exactly) it is bit-identical. With ``data="real"`` (normally distributed numbers) and ``data="integers"``
  (those of "exact" where the operation rounds) it is within twice the error of plain float32;
- nothing outside the outputs was written, inputs included;
- further runs give the same bits. On the emulator they run under its other two schedules.

Products have the precision of their problem. ``element="bf16"`` makes the arrays of any other operation
bfloat16's. Real inputs are rounded to what the precision multiplies, so that only the rounding of the result
adds to the error; ``data="unrounded"`` leaves that to a tf32 product.

``check_fused`` asserts that a fused operation gives the bits of the separate ones.

A failure ends with a shell command that repeats it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cconvnet import bfloat16
from cconvnet._problem import (
    BatchNormProblem,
    BiasProblem,
    ContrastNormProblem,
    ConvProblem,
    DropoutProblem,
    FcProblem,
    FilterBlocksProblem,
    InputProblem,
    L2CostProblem,
    LarsProblem,
    LocalProblem,
    LrnProblem,
    NeuronProblem,
    NormLimitProblem,
    PoolProblem,
    SgdProblem,
    SoftmaxProblem,
    TreeSumProblem,
)
from cconvnet.devices import Device, get_device
from cconvnet.operations import COUNTS, OPERATIONS, Operation, element_of, workspace_size
from cconvnet.operations.operation import Shape
from cconvnet.testing import compare, reference
from cconvnet.testing.apart import Outputs, apart
from cconvnet.testing.buffers import Buffer
from cconvnet.testing.inputs import Array, make_inputs
from cconvnet.testing.problems import with_precision

__all__ = [
    "BatchNormProblem",
    "BiasProblem",
    "ContrastNormProblem",
    "ConvProblem",
    "DropoutProblem",
    "FcProblem",
    "FilterBlocksProblem",
    "InputProblem",
    "L2CostProblem",
    "LarsProblem",
    "LocalProblem",
    "LrnProblem",
    "NeuronProblem",
    "NormLimitProblem",
    "PoolProblem",
    "SgdProblem",
    "SoftmaxProblem",
    "TreeSumProblem",
    "check",
    "check_fused",
    "exact_impls",
    "impls",
    "make_inputs",
    "own_impls",
    "repro",
    "run",
]

# Rows of selection tables that transform their inputs, with rounding.
TRANSFORMING = ("winograd",)
# Outputs of a forward pass that are mean values, so that they are rounded whatever the inputs are.
_STATISTICS = ("mean", "variance", "unbiased")


def _outputs(operation: str, problem: Any, inputs: dict[str, Any]) -> dict[str, Shape]:
    """Return the shape of each output of this call; the dw of a wgrad that updates is unspecified."""
    shapes = OPERATIONS[operation].output_shapes(problem)
    if "update" in inputs:
        shapes = {"v": shapes["dw"], "w": shapes["dw"]}
    further = {name: OPERATIONS[operation].arrays[name] for name in OPERATIONS[operation].further}
    return shapes | {name: array.shape_for(problem) for name, array in further.items() if name in inputs}


def _reference(operation: str, problem: Any, inputs: dict[str, Any]) -> list[Array]:
    """Return the reference's outputs, in the order and of the shapes of _outputs."""
    arguments = dict(inputs)
    w_bf16, sgd = arguments.pop("w_bf16", None), arguments.pop("update", None)
    updated = {name: arguments.pop(name) for name in ("v", "w", "rates", "halt") if name in arguments and sgd}
    spec = OPERATIONS[operation]
    options = {name: arguments.pop(name) for name in spec.keywords if name in arguments}
    results = getattr(reference, operation)(*spec.problems(problem), *arguments.values(), **options)
    if sgd is not None:
        results = reference.sgd_update(sgd, results, **updated)
    results = results if isinstance(results, tuple) else (results,)
    if w_bf16 is not None:
        halted = inputs["halt"].item() != 0
        results = (*results, bfloat16.unpack(w_bf16) if halted else results[1])
    shapes = _outputs(operation, problem, inputs).values()
    return [result.reshape(shape) for result, shape in zip(results, shapes, strict=True)]


def _of_written(name: str, written: Array, inputs: dict[str, Any]) -> tuple[Array, Array]:
    """Return what is made of the pixels of an output by sums, and the same of plain float32."""
    rows, channels = written.size // written.shape[-1], written.shape[-1]

    def computed() -> Array:
        if name == "db":
            return reference.bias_grad(BiasProblem(rows, channels), written)
        pixels = BatchNormProblem(rows, channels, inputs["counted"])
        return reference.batch_norm_statistics(pixels, written)[_STATISTICS.index(name)]

    with reference.precision(np.float32):
        plain = computed()
    return computed(), plain


@dataclass(frozen=True)
class _Expected:
    """Inputs and expected outputs, which do not depend on the device.

    Attributes:
        inputs: The inputs by name.
        outputs: The reference's outputs.
        baseline: The outputs of plain float32.
        slack: How far each element may be off because the inputs are rounded on the way.
    """

    inputs: dict[str, Any]
    outputs: list[Array]
    baseline: list[Array]
    slack: list[Array | float]


@functools.lru_cache(maxsize=32)
def _expected(
    operation: str, problem: Any, data: str, seed: int, element: str, options: tuple[tuple[str, Any], ...]
) -> _Expected:
    inputs = make_inputs(operation, problem, data, seed, element, **dict(options))
    expected = _reference(operation, problem, inputs)
    slack: list[Array | float] = [0.0] * len(expected)
    if data == "unrounded":
        # Each factor is off by at most a 2^-11th of itself. A sum of products is off by at most
        # (1 + 2^-11)^2 - 1 of the sum of their magnitudes. A ReLU makes no difference larger.
        if getattr(problem, "precision", None) != "tf32" or "dropout" in inputs or "update" in inputs:
            raise ValueError("data can be unrounded for a tf32 product alone")
        sizes = [np.abs(value) for value in list(inputs.values())[:2]]
        slack = [(2.0**-10 + 2.0**-22) * getattr(reference, operation)(problem, *sizes)]
    if data == "exact":
        return _Expected(inputs, expected, expected, slack)
    with reference.precision(np.float32):
        return _Expected(inputs, expected, _reference(operation, problem, inputs), slack)


def impls(operation: str, problem: Any, device: str | Device) -> list[str | None]:
    """Return the rows of the operation's selection table that serve the problem; [None] without a table."""
    if not OPERATIONS[operation].has_impls:
        return [None]
    return list(getattr(get_device(device).module, f"{operation}_impls")(problem))


def exact_impls(operation: str, problem: Any, device: str | Device) -> list[str | None]:
    """Return the rows of impls that compute plain sums of products, which are exact for small integers."""
    return [row for row in impls(operation, problem, device) if row not in TRANSFORMING]


def own_impls(operation: str, problem: Any, device: str | Device) -> list[str | None]:
    """Return the exact rows for a product's own precision, without those that serve the same in fp32.

    If there is none, return the first choice.
    """
    rows = exact_impls(operation, problem, device)
    if problem.precision == "fp32":
        return rows
    others = exact_impls(operation, with_precision(problem, "fp32"), device)
    return [row for row in rows if row not in others] or rows[:1]


def _as_stored(spec: Operation, name: str, value: Array, element: str) -> Array:
    """Return an input as the call's array contains it."""
    if value.dtype == np.float32 and spec.dtype(name, element) == bfloat16.BITS:
        return bfloat16.pack(value)
    return value


def run(
    operation: str,
    problem: Any,
    device: str | Device,
    inputs: dict[str, Any],
    *,
    impl: str | None = None,
    offset: int = 0,
    in_place: str | None = None,
    element: str = "fp32",
) -> dict[str, Array]:
    """Run an operation between guard bands, and return its outputs on the host.

    Args:
        operation: The name of the operation.
        problem: Its problem, a tuple if it has several.
        device: The device, or its name.
        inputs: The inputs by name.
        impl: The row of the selection table.
        offset: The bytes by which every array is off its alignment, as far as its elements allow.
        in_place: The input that is also the first output.
        element: The element type of arrays that may be of either, "fp32" or "bf16".

    Raises:
        AssertionError: Something outside the outputs was written.
    """
    spec, device = OPERATIONS[operation], get_device(device)
    element = element_of(problem, element)

    def buffer_of(shape: tuple[int, ...], dtype: Any, values: Array | None = None) -> Buffer:
        # Single bytes are accepted anywhere, but some rows of pixels are read as words.
        size = np.dtype(dtype).itemsize
        shift = offset % 4 if size == 1 else offset - offset % size
        return Buffer(device, shape, dtype, values=values, offset=shift)

    stored = {
        name: _as_stored(spec, name, value, element)
        for name, value in inputs.items()
        if isinstance(value, np.ndarray)
    }
    buffers = {name: buffer_of(value.shape, value.dtype, value) for name, value in stored.items()}
    shapes = _outputs(operation, problem, inputs)
    outputs: dict[str, Buffer] = {}
    for name, shape in shapes.items():
        if in_place is not None and not outputs:
            outputs[name] = buffers[in_place]
        elif name in buffers:
            outputs[name] = buffers[name]
        else:
            dtype = spec.dtype(name, element)
            outputs[name] = buffer_of(shape, dtype)
    # Written, but not compared.
    unread = {"dw": buffer_of(shapes["w"], np.float32)} if "update" in inputs else {}

    def argument(name: str) -> Any:
        buffer = buffers.get(name) or outputs.get(name)
        return buffer.array if buffer else inputs.get(name)

    arguments: list[Any] = list(spec.problems(problem))
    arguments += [argument(name) for name in inputs if name not in spec.keywords]
    arguments += [buffer.array for name, buffer in (outputs | unread).items() if name not in inputs]
    workspace = None
    if spec.has_workspace:
        if size := workspace_size(device.module, operation, problem, impl, sums=spec.asks_for_sums(inputs)):
            # A workspace is aligned like device memory and no more, an input even less.
            workspace = Buffer(device, (size,), np.uint8)
        arguments.append(workspace.array if workspace else None)
    arguments.append(device.stream)
    if spec.has_impls:
        arguments.append(impl)
    keywords = {name: argument(name) for name in spec.keywords if name in inputs}
    if "update" in inputs:
        fields = ("update", "v", "w", "w_bf16", "rates", "halt")
        keywords = {"update": tuple(argument(name) for name in fields)}

    with device:
        getattr(device.module, operation)(*arguments, **keywords)
    device.synchronize()

    for name, buffer in {**buffers, **outputs, **unread}.items():
        buffer.assert_guarded(name)
    if workspace:
        workspace.assert_guarded("workspace")
    for name, buffer in buffers.items():
        if all(buffer is not output for output in outputs.values()):
            compare.assert_same_bits(name, buffer.host(), stored[name])
    return {name: buffer.host().reshape(shapes[name]) for name, buffer in outputs.items()}


def repro(
    operation: str, problem: Any, device: str | Device, function: str = "check", **arguments: Any
) -> str:
    """Return a shell command that repeats a check."""
    given = "".join(f", {name}={value!r}" for name, value in arguments.items())
    name = get_device(device).name
    return (
        f'python -c "from cconvnet.testing.check import *; '
        f"{function}('{operation}', {problem!r}, '{name}'{given})\""
    )


def _schedules(device: Device, seed: int) -> Iterator[str]:
    """Iterate over the schedules of the emulator, each set; any other device runs twice."""
    for schedule in ("forward", "reverse", "random") if device.kind == "emulator" else ("", ""):
        if schedule:
            device.module.set_schedule(schedule, seed)
        yield schedule


@contextlib.contextmanager
def _repeatable(line: str, device: Device) -> Iterator[None]:
    """End errors with the command that repeats them, and reset the emulator's schedule."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{error}\nrepeat with: {line}") from None
    except Exception as error:
        error.add_note(f"repeat with: {line}")
        raise
    finally:
        if device.kind == "emulator":
            device.module.set_schedule("forward")


def check(
    operation: str,
    problem: Any,
    device: str | Device,
    *,
    data: str = "exact",
    seed: int = 0,
    impl: str | None = None,
    offset: int = 0,
    in_place: str | None = None,
    element: str = "fp32",
    nonzero: float = 0.25,
    floor: float = 2.0,
    **options: Any,
) -> None:
    """Test one operation as the module's docstring describes.

    Args:
        operation: The name of the operation.
        problem: Its problem, a tuple if it has several, or a NeuronProblem of the size if it has none.
        device: The device, or its name.
        data: The kind of inputs: "exact", "integers", "real" or "unrounded".
        seed: The seed of the inputs.
        impl: The row of the selection table.
        offset: The bytes by which every array is off its alignment.
        in_place: The input that is also the first output.
        element: The element type of arrays that may be of either, "fp32" or "bf16".
        nonzero: See compare.assert_exact.
        floor: See compare.assert_close.
        **options: The operation's own: ``bias``, ``relu`` (fprop, bias_add), ``dropout`` (fprop), ``counted``
            (conv_fprop), ``update`` (wgrad, sgd_update), ``mean``, ``shift`` (input_transform), ``scale``,
            ``alpha``, ``beta`` (add), ``step`` (dropout).

    Raises:
        AssertionError: The operation is wrong. The text ends with the command that repeats the check.
    """
    device = get_device(device)
    spec = OPERATIONS[operation]
    settings = {
        "data": data, "seed": seed, "impl": impl, "offset": offset, "in_place": in_place, "element": element,
        "nonzero": nonzero, "floor": floor,
    }  # fmt: skip
    defaults = check.__kwdefaults__ or {}
    given: dict[str, Any] = {n: value for n, value in settings.items() if value != defaults[n]} | options
    with _repeatable(repro(operation, problem, device, **given), device):
        expected = _expected(operation, problem, data, seed, element, tuple(sorted(options.items())))
        first: dict[str, Array] | None = None
        for _ in _schedules(device, seed):
            actual = run(
                operation, problem, device, expected.inputs,
                impl=impl, offset=offset, in_place=in_place, element=element,
            )  # fmt: skip
            if first is not None:
                for name in first:
                    compare.assert_same_bits(name, actual[name], first[name])
                continue
            first = actual
            for (name, value), wanted, plain, slack in zip(
                actual.items(), expected.outputs, expected.baseline, expected.slack, strict=True
            ):
                measured = name in _STATISTICS and name in expected.inputs
                if measured or (name == "db" and name in expected.inputs):
                    # Of the first output as it was written.
                    written = compare.values(actual[next(iter(actual))])
                    wanted, plain = _of_written(name, written, expected.inputs)
                if name in COUNTS:
                    compare.assert_exact(name, value, wanted, nonzero=0, dtype=np.int32)
                    continue
                dtype = spec.dtype(name, element_of(problem, element))
                if data == "exact" and not measured:
                    compare.assert_exact(name, value, wanted, nonzero=nonzero, dtype=dtype)
                else:
                    compare.assert_close(
                        name, value, wanted, plain,
                        elementwise=spec.elementwise, floor=floor, dtype=dtype, slack=slack,
                    )  # fmt: skip


# ---- fused operations --------------------------------------------------------------------------------


def check_fused(
    operation: str,
    problem: Any,
    device: str | Device,
    *,
    data: str = "real",
    seed: int = 0,
    impl: str | None = None,
    offset: int = 0,
    element: str = "fp32",
    **options: Any,
) -> None:
    """Test that a fused operation gives the bits of the separate ones on the same device, row and arrays.

    On the emulator it is tested under each schedule. All arguments are those of check.

    Raises:
        AssertionError: A bit differs.
    """
    device = get_device(device)
    settings = {"data": data, "seed": seed, "impl": impl, "offset": offset, "element": element}
    defaults = check_fused.__kwdefaults__ or {}
    given: dict[str, Any] = {n: value for n, value in settings.items() if value != defaults[n]} | options

    def call(name: str, of: Any, inputs: dict[str, Any]) -> Outputs:
        row = impl if name == operation else None
        return run(name, of, device, inputs, impl=row, offset=offset, element=element_of(problem, element))

    with _repeatable(repro(operation, problem, device, function="check_fused", **given), device):
        inputs = make_inputs(operation, problem, data, seed, element, **options)
        if operation == "lrn_maxpool_backward":
            # A maximum is recognised by its bits, so it must be this device's.
            inputs["y"] = call("lrn_maxpool_forward", problem, {"x": inputs["x"]})["y"]
        wanted = apart(operation, problem, inputs, call)
        for _ in _schedules(device, seed):
            actual = call(operation, problem, inputs)
            for name, value in wanted.items():
                compare.assert_same_bits(name, actual[name], value.reshape(actual[name].shape))
