"""Results of operations are arrays of the library that the operands come from, over the same memory."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from helpers.good_calls import (
    GOOD,
    PLACE_OF_OUT,
    UPDATED,
    Exporter,
    X,
    arrays_of,
    call,
    floats,
    in_bf16,
    integers,
    poison,
    results,
)
from helpers.other_library import Tensor, install

from cconvnet import bfloat16, ops
from cconvnet.devices import get_device
from cconvnet.operations import OPERATIONS

CPU = get_device("cpu:0")
WITH_OUT = [name for name in GOOD if "out" in inspect.signature(getattr(ops, name)).parameters]
WITH_ELEMENTS = [name for name, o in OPERATIONS.items() if o.has_elements]


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Any:
    return install(monkeypatch)


def tensors(arguments: dict[str, Any]) -> dict[str, Any]:
    return {n: Tensor(v) if isinstance(v, np.ndarray) else v for n, v in arguments.items()}


def real_type() -> Any:
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)


def in_real_bf16(function: str) -> dict[str, Any]:
    return {
        name: value.view(real_type()) if getattr(value, "dtype", None) == bfloat16.BITS else value
        for name, value in in_bf16(function).items()
    }


@pytest.mark.parametrize("function", GOOD)
def test_results_are_of_the_operands_library(others: Any, function: str) -> None:
    wanted = results(CPU, function, GOOD[function]())
    arguments = GOOD[function]()
    originals = arrays_of(arguments)
    returned = call(function, tensors(arguments))
    if returned is None:
        returned = tuple(Tensor(originals[name]) for name in UPDATED[function])
    returned = returned if isinstance(returned, tuple) else (returned,)
    for actual, expected in zip(returned, wanted, strict=True):
        assert type(actual) is Tensor
        np.testing.assert_array_equal(actual.array, expected)


@pytest.mark.parametrize("function", WITH_OUT)
def test_out_of_a_library_is_written_and_returned(others: Any, function: str) -> None:
    place = PLACE_OF_OUT.get(function)
    wanted = results(CPU, function, GOOD[function]())[place or 0]
    out = Tensor(poison(wanted.shape, wanted.dtype))
    returned = call(function, {**tensors(GOOD[function]()), "out": out})
    assert (returned if place is None else returned[place]) is out
    np.testing.assert_array_equal(out.array, wanted)


@pytest.mark.parametrize("function", WITH_ELEMENTS)
def test_a_type_called_bfloat16_is_taken_and_returned(function: str) -> None:
    wanted = results(CPU, function, in_bf16(function))
    arguments = in_real_bf16(function)
    returned = call(function, arguments)
    if returned is None:
        returned = tuple(arguments[name] for name in UPDATED[function])
    returned = returned if isinstance(returned, tuple) else (returned,)
    for actual, expected in zip(returned, wanted, strict=True):
        assert actual.dtype == (real_type() if expected.dtype == bfloat16.BITS else expected.dtype)
        if actual.dtype == real_type():
            actual = actual.view(bfloat16.BITS)
        np.testing.assert_array_equal(actual, expected)


def test_an_out_of_bfloat16_is_written_and_returned() -> None:
    logits, labels = floats(3, 7), integers([6, 0, 2])
    p, _, _ = ops.softmax_cross_entropy_forward(logits, labels)
    bits, real = np.zeros((3, 7), bfloat16.BITS), np.zeros((3, 7), real_type())
    ops.softmax_cross_entropy_backward(p, labels, out=bits)
    assert ops.softmax_cross_entropy_backward(p, labels, out=real) is real
    np.testing.assert_array_equal(real.view(bfloat16.BITS), bits)
    np.testing.assert_array_equal(bfloat16.unpack(real), bfloat16.unpack(bits))
    target = np.zeros(X, real_type())
    x = floats(*X).astype(real_type())
    assert ops.relu_forward(x, out=target) is target and (target == np.maximum(x, 0)).all()
    assert ops.relu_forward(x, out=x) is x and (x == target).all()


def test_bits_stay_bits(others: Any) -> None:
    x = floats(*X)
    assert ops.to_bf16(x).dtype == bfloat16.BITS
    assert ops.relu_forward(ops.to_bf16(x)).dtype == bfloat16.BITS
    assert ops.relu_forward(Tensor(ops.to_bf16(x))).dtype == bfloat16.BITS


def test_a_library_with_bfloat16_has_it_as_result(others: Any) -> None:
    x = Tensor(floats(*X))
    rounded = ops.to_bf16(x)
    assert rounded.dtype is others.bfloat16
    again = ops.relu_forward(rounded)
    assert again.dtype is others.bfloat16
    np.testing.assert_array_equal(ops.from_bf16(again).array, np.maximum(x.array, 0))


def test_subclasses_are_of_their_library(others: Any) -> None:
    class Parameter(Tensor):
        __module__ = "somewhere.else"

    assert type(ops.relu_forward(Parameter(floats(3)))) is Tensor


def test_a_declared_namespace_counts(others: Any) -> None:
    class Declared(Exporter):
        def __array_namespace__(self) -> Any:
            return others

    assert type(ops.relu_forward(Declared(floats(3)))) is Tensor


def test_arrays_of_no_library_are_numpys(others: Any) -> None:
    """They go together with NumPy's, and `out` is returned as it was given."""
    x, out = Exporter(floats(*X)), Exporter(np.zeros(X, np.float32))
    assert type(ops.add(x, floats(*X))) is np.ndarray
    assert ops.add(floats(*X), x, out=out) is out
    np.testing.assert_array_equal(out.array, 2 * x.array)


@pytest.mark.parametrize(
    ("a", "b", "out", "message"),
    [
        ("others", "numpy", "", r"^b is an array of NumPy, but a is one of others.*others\.from_dlpack\(b\)"),
        ("numpy", "others", "", r"^b is an array of others, but a is one of NumPy.*numpy\.asarray\(b\)"),
        ("others", "others", "numpy", r"^out is an array of NumPy, but a is one of others"),
        ("numpy", "numpy", "others", r"^out is an array of others, but a is one of NumPy"),
    ],
)
def test_libraries_are_not_mixed(others: Any, a: str, b: str, out: str, message: str) -> None:
    made: dict[str, Any] = {
        name: Tensor(floats(3)) if library == "others" else floats(3)
        for name, library in (("a", a), ("b", b), ("out", out))
        if library
    }
    with pytest.raises(TypeError, match=message):
        ops.add(**made)


def refused(value: Any, message: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=message):
        ops.relu_forward(value, **options)


def test_what_cannot_be_shared_is_refused_by_name(others: Any) -> None:
    refused(Tensor(floats(*X).transpose(0, 3, 1, 2)), r"^x must be C-contiguous; x\.contiguous\(\) makes it")
    refused(Tensor(floats(3), requires_grad=True), r"^x requires gradients.*x\.detach\(\).*cconvnet\.torch")
    refused(Tensor(floats(3).astype(np.float64)), "^x must be float32, not float64")
    elsewhere = Tensor(floats(3))
    elsewhere.device = (8, 0)
    refused(elsewhere, r"^x is on a device of Metal \(DLPack's type 8\)")
    read_only = floats(3)
    read_only.flags.writeable = False
    refused(Tensor(floats(3)), "^out must be writable", out=Tensor(read_only))
    labels = Tensor(integers([6, 0, 2], bfloat16.BITS), others.bfloat16)
    with pytest.raises(ValueError, match=r"^labels must be int32, not bfloat16"):
        ops.softmax_cross_entropy_forward(Tensor(floats(3, 7)), labels)


@pytest.mark.usefixtures("cpu_with_bf16")
def test_floats_beside_bfloat16s_are_refused(others: Any) -> None:
    with pytest.raises(ValueError, match=r"^w must be bfloat16, not float32"):
        ops.fc_fprop(ops.to_bf16(Tensor(floats(3, 4))), Tensor(floats(2, 4)))


def test_what_a_producer_says_is_passed_on(others: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensor: Tensor, **arguments: Any) -> Any:
        raise BufferError("sparse tensors have no strides")

    monkeypatch.setattr(Tensor, "__dlpack__", fail)
    refused(Tensor(floats(3)), "^x cannot be read without a copy: sparse tensors have no strides")


def test_memory_of_an_old_producer_may_be_written(others: Any) -> None:
    """DLPack before version 1 cannot mark memory as read-only; its consumers write to it."""
    out = Tensor(poison((3,), np.float32))
    out.old = True
    assert ops.relu_forward(Tensor(floats(3)), out=out) is out
    np.testing.assert_array_equal(out.array, np.maximum(floats(3), 0))
    kept = ops.relu_forward(out).array
    del out
    np.testing.assert_array_equal(kept, np.maximum(floats(3), 0))


def test_bfloat16_of_no_library_is_given_by_its_bits() -> None:
    class Typed(Exporter):
        dtype = "strange.bfloat16"

    with pytest.raises(TypeError, match=r"^x is of bfloat16.*give its bits as uint16"):
        ops.relu_forward(Typed(floats(3)))


def test_top_k_error_of_another_library() -> None:
    torch = pytest.importorskip("torch")
    assert ops.top_k_error(torch.tensor([0, 1, 4, 5], dtype=torch.int32), 2) == 0.5


def test_no_library_is_imported() -> None:
    code = (
        "import sys; from cconvnet import ops; print({'torch', 'jax', 'ml_dtypes', 'cupy'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200
    )
    assert done.stdout.strip() == "set()"
