"""Order of work on arrays of CuPy, devices and operations, whatever stream each was made on.

The streams here advance at random (queued_cupy.py). Programs of CuPy kernels, operations and copies must have
the results that they have when every call is done at once. Without any one order the results must differ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers.queued_cupy import CudaRefused, Graph, QueuedCupy, QueuedModule, install, seen
from helpers.queued_streams import Machine
from helpers.queued_torch import QueuedTorch

from cconvnet import devices, ops
from cconvnet.devices import CudaDevice, get_device, registry
from cconvnet.devices.numpy_module import NumpyModule
from cconvnet.ops import arrays as arrays_module
from cconvnet.ops import call as call_module

SHAPE = (8, 16)
STREAMS = ("default", "own", "the device's")

Make = Callable[..., QueuedCupy]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Install the machine whose CuPy the package finds; on one GPU cuda:0 and cuda:1 are both that."""

    def made(seed: int = 0, gpus: int = 1, at_once: bool = False) -> QueuedCupy:
        cupy = QueuedCupy(Machine(seed), gpus, at_once)
        install(monkeypatch, cupy, QueuedModule(NumpyModule(), cupy))
        return cupy

    yield made
    registry._make.cache_clear()


def mix(x: Any, y: Any) -> Any:
    return np.clip(x + 2 * y, -99, 99)


def program(cupy: QueuedCupy, seed: int, stream: str = "default", steps: int = 60) -> list[Any]:
    """Return the results of a random program, which is the same for the same seed."""
    random = np.random.default_rng(seed)
    devices: list[Any] = [get_device("cuda:0"), get_device("cuda:1")]
    results: list[Any] = []
    later: list[Any] = []

    def values() -> Any:
        return random.integers(-8, 9, SHAPE).astype(np.float32)

    with contextlib.ExitStack() as stack:
        if stream == "own":
            stack.enter_context(cupy.cuda.Stream())
        elif stream == "the device's":
            stack.enter_context(devices[0])
        arrays = [cupy.array(values()) for _ in range(3)]
        for _ in range(steps):
            device = devices[random.integers(2)]
            one, two = (int(i) for i in random.integers(len(arrays), size=2))
            a, b = arrays[one], arrays[two]
            match random.integers(14):
                case 0:
                    arrays.append(device.array(values()))
                case 1:
                    arrays.append(cupy.launch(mix, cupy.empty(SHAPE), a, b))
                case 2:
                    cupy.launch(lambda x: np.clip(x + 1, -99, 99), a, a)
                case 3:
                    arrays.append(ops.add(a, b, 0.5, 0.25, device=device))
                case 4:
                    ops.relu_forward(a, out=a, device=device)
                case 5:
                    arrays.append(cupy.launch(lambda x: x + np.ones(SHAPE, np.float32), cupy.empty(SHAPE), b))
                    arrays.append(ops.eltmax_forward(a, arrays[-1], device=device))
                case 6:
                    device.fill(a, values())
                case 7:
                    results.append(device.host(a))
                case 8:
                    results.append(cupy.asnumpy(a))
                case 9:
                    arrays.append(device.zeros(SHAPE))
                case 10:
                    sums = ops.bias_grad(a, device=device)
                    arrays.append(cupy.launch(lambda x, y: y + np.clip(x, -9, 9), cupy.empty(SHAPE), sums, a))
                    del sums
                case 11:
                    later.append(device.host_later(a))
                    cupy.launch(lambda: -1.0, a)
                case 12:
                    arrays.append(cupy.launch(lambda x: -x, device.empty(SHAPE), b))
                case 13:
                    target = device.host_memory(SHAPE, np.float32)
                    wait = device.copy_out([(a, target)])
                    later.append(lambda wait=wait, target=target: (wait(), target)[1])
            del a, b
            while len(arrays) > 5:
                del arrays[int(random.integers(len(arrays)))]
        results += [wait() for wait in later]
        results += [cupy.asnumpy(array) for array in arrays]
    return [np.asarray(result).tobytes() for result in results]


def right(make: Make, seed: int, stream: str) -> bool:
    expected = program(make(seed, at_once=True), seed, stream)
    assert len(set(expected)) > 8  # it brings more than one value to the host
    return program(make(seed), seed, stream) == expected


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("seed", range(6))
def test_all_work_is_in_order(make: Make, seed: int, stream: str) -> None:
    assert right(make, seed, stream)


@pytest.mark.parametrize("gone", ["all", "entry", "exit", "operations", "device"])
def test_a_missing_order_is_noticed(make: Make, monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    follow, ordered = CudaDevice._follow, CudaDevice.ordered

    def some(self: CudaDevice, later: Any, earlier: Any) -> None:
        if gone != "all" and (later is self._stream) != (gone == "entry"):
            follow(self, later, earlier)

    def ordered_functions(self: Any, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with ordered(self._device):
                return getattr(self._device.module, name)(*arguments, **options)

        return call

    match gone:
        case "operations":
            monkeypatch.setattr(
                call_module.OrderedModule, "__getattr__", lambda o, name: getattr(o._device.module, name)
            )
        case "device":
            monkeypatch.setattr(CudaDevice, "ordered", CudaDevice.selected)
            monkeypatch.setattr(call_module.OrderedModule, "__getattr__", ordered_functions)
        case _:
            monkeypatch.setattr(CudaDevice, "_follow", some)
    with np.errstate(all="ignore"):
        assert not all(right(make, seed, "default") for seed in range(8))


def void(result: Any) -> None:
    """Drop a result."""


def test_the_devices_own_stream_needs_no_events(make: Make) -> None:
    cupy = make()
    device: Any = get_device("cuda:0")
    x, y = device.array(np.ones(SHAPE, np.float32)), device.empty(SHAPE)
    device.synchronize()
    cupy.events = 0
    with device:
        ops.relu_forward(x, out=y)
    device.captured(lambda: void(ops.add(x, x, out=y)))
    assert cupy.events == 0
    ops.relu_forward(x, out=y)
    assert cupy.events == 2


def test_a_graph_takes_the_operations_of_its_capture(make: Make) -> None:
    cupy = make()
    device: Any = get_device("cuda:0")
    x, y, z = (device.array(np.full(SHAPE, value, np.float32)) for value in (1, 2, 3))
    stream: Any = cupy.cuda.Stream()
    with stream:
        ops.add(x, y, out=z)
        stream.begin_capture()
        ops.add(x, y, 2.0, 1.0, out=z)
        ops.relu_forward(z, out=y)
        graph = stream.end_capture()
        assert isinstance(graph, Graph) and len(graph.work) == 2
        for expected in (4, 6):  # 2 x + y, which becomes y
            graph.launch(stream)
            assert (cupy.asnumpy(y) == expected).all()
        assert (device.host(z) == 6).all()


@pytest.mark.parametrize("stream", ["own", "the device's"])
def test_a_workspace_is_not_captured(make: Make, stream: str) -> None:
    """Its memory would belong to another array by the time the graph is launched."""
    cupy = make()
    device: Any = get_device("cuda:0")
    x, sums = device.zeros(SHAPE), device.zeros(SHAPE[1])
    current = cupy.cuda.Stream() if stream == "own" else device._stream
    with current:
        current.begin_capture()
        with pytest.raises(RuntimeError, match="a workspace of 512 bytes"):
            ops.bias_grad(x, out=sums)
        assert not current.end_capture().work
        ops.bias_grad(x, out=sums)


def test_a_failed_operation_leaves_streams_in_order(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = make()
    device: Any = get_device("cuda:0")
    x = cupy.array(np.zeros(SHAPE, np.float32))

    def half_done(x: Any, y: Any, stream: int) -> None:
        device.module.add(x, x, y, stream, 1.0, 1.0)
        raise devices.CudaError("the second launch failed")

    monkeypatch.setattr(device.module, "relu_forward", half_done, raising=False)
    with pytest.raises(devices.CudaError, match="second launch"):
        ops.relu_forward(x)
    assert cupy.events == 2 and cupy.null.queue.entries


@pytest.mark.parametrize("current", [0, 1])
def test_every_call_is_made_on_the_arrays_gpu(make: Make, current: int) -> None:
    """Streams, events and pools belong to a GPU, whichever GPU is the current one."""
    cupy = make(gpus=2)
    with cupy.cuda.Device(current):
        for ordinal in (0, 1):
            device: Any = get_device(f"cuda:{ordinal}")
            x = device.array(np.full(SHAPE, -1, np.float32))
            assert x.device.id == ordinal
            y = ops.add(x, x)
            sums = ops.bias_grad(y)
            assert y.device.id == sums.device.id == ordinal
            device.fill(x, np.ones(SHAPE, np.float32))
            assert (device.host(sums) == -2 * SHAPE[0]).all() and (device.host(x) == 1).all()
            assert (device.host_later(y)() == -2).all()


def test_arrays_of_another_gpu_are_refused(make: Make) -> None:
    make(gpus=2)
    x, y = (get_device(f"cuda:{ordinal}").zeros(SHAPE) for ordinal in (0, 1))
    with pytest.raises(ValueError, match=r"^x is on GPU 0, but cuda:1 is GPU 1: copy one of them$"):
        ops.relu_forward(x, device="cuda:1")
    with pytest.raises(ValueError, match=r"^b is on GPU 1, but cuda:0 is GPU 0"):
        ops.add(x, y)
    with pytest.raises(ValueError, match=r"^out is on GPU 1, but cuda:0 is GPU 0"):
        ops.add(x, x, out=y)
    device: Any = get_device("cuda:0")
    target = np.empty(SHAPE, np.float32)
    for call in (
        device.host,
        device.host_later,
        lambda array: device.fill(array, target),
        lambda array: device.copy_out([(array, target)]),
    ):
        call(x)
        with pytest.raises(ValueError, match=r"^array is on GPU 1, but cuda:0 is GPU 0"):
            call(y)


def test_a_foreign_array_is_awaited_on_its_own_gpu(make: Make) -> None:
    """DLPack orders the producer's work before that of the given stream."""
    cupy = make(gpus=2)
    array = get_device("cuda:1").zeros(SHAPE)

    class Producer:
        def __dlpack_device__(self) -> tuple[int, int]:
            return arrays_module._CUDA, 1

        def __dlpack__(self) -> None: ...

        def as_cupy(self, stream: Any) -> Any:
            assert cupy.gpu == 1
            self.stream = stream
            return array

    producer = Producer()
    with cupy.cuda.Device(1), cupy.cuda.Stream() as own, cupy.cuda.Device(0):
        assert ops.relu_forward(producer).device.id == 1
    assert producer.stream is own


def test_queues_refuse_what_cuda_refuses(make: Make) -> None:
    cupy = make(gpus=2)
    there = get_device("cuda:1")._stream  # type: ignore[attr-defined]
    with pytest.raises(CudaRefused, match="GPU 1 is used on GPU 0"):
        there.give(lambda: None)
    event, stream = cupy.cuda.Event(), cupy.cuda.Stream()
    event.record(cupy.null)
    stream.begin_capture()
    with pytest.raises(CudaRefused, match="not captured"):
        stream.wait_event(event)


# ---- another library's tensors --------------------------------------------------------------------------


def library_program(cupy: QueuedCupy, seed: int, torch_stream: bool, cupy_stream: bool, tells: bool) -> Any:
    """Return the results of a random program on tensors, none of which waits for anything by itself."""
    random = np.random.default_rng(seed)
    torch = QueuedTorch(cupy, torch_stream, tells)
    results: list[Any] = []

    def values() -> Any:
        return random.integers(-8, 9, SHAPE).astype(np.float32)

    with cupy.cuda.Stream() if cupy_stream else contextlib.nullcontext():
        tensors = [torch.tensor(values()) for _ in range(3)]
        for _ in range(50):
            one, two = (int(i) for i in random.integers(len(tensors), size=2))
            a, b = tensors[one], tensors[two]
            match random.integers(8):
                case 0:
                    tensors.append(torch.tensor(values()))
                case 1:
                    tensors.append(torch.launch(mix, torch.empty(SHAPE), a, b))
                case 2:
                    torch.launch(lambda x: np.clip(x + 1, -99, 99), a, a)
                case 3:
                    tensors.append(ops.add(a, b, 0.5, 0.25))
                case 4:
                    assert ops.relu_forward(a, out=a) is a
                case 5:
                    ops.add(a, a, 0.25, 0.5, out=a)
                    torch.launch(lambda: -1.0, b)
                case 6:
                    sums = ops.bias_grad(a)
                    tensors.append(
                        torch.launch(lambda x, y: y + np.clip(x, -9, 9), torch.empty(SHAPE), sums, a)
                    )
                    del sums
                case 7:
                    results.append(torch.numpy(a))
            del a, b
            while len(tensors) > 5:
                del tensors[int(random.integers(len(tensors)))]
        assert {type(tensor) for tensor in tensors} == {torch.Tensor}
        results += [torch.numpy(tensor) for tensor in tensors]
    return [np.asarray(result).tobytes() for result in results]


def library_right(make: Make, seed: int, *streams: bool) -> bool:
    expected = library_program(make(seed, at_once=True), seed, *streams)
    assert len(set(expected)) > 2
    return bool(library_program(make(seed), seed, *streams) == expected)


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("cupy_stream", [False, True])
@pytest.mark.parametrize("torch_stream", [False, True])
def test_work_on_tensors_is_in_order(make: Make, torch_stream: bool, cupy_stream: bool, tells: bool) -> None:
    assert all(library_right(make, seed, torch_stream, cupy_stream, tells) for seed in range(3))


@pytest.mark.parametrize("tells", [True, False])
def test_tensors_that_are_not_awaited_are_noticed(
    make: Make, monkeypatch: pytest.MonkeyPatch, tells: bool
) -> None:
    if tells:
        monkeypatch.setattr(arrays_module.Library, "stream", lambda self, gpu: contextlib.nullcontext())
    else:
        monkeypatch.setattr(CudaDevice, "synchronize", lambda self: None)
    with np.errstate(all="ignore"):
        assert not all(library_right(make, seed, True, False, tells) for seed in range(6))


def test_memory_that_only_out_borrows_is_awaited(make: Make) -> None:
    """The owner of memory that DLPack lends may reuse it as soon as the call returns."""
    cupy = make()

    class Lender:
        def __init__(self, array: Any) -> None:
            self.array = array

        def __dlpack_device__(self) -> tuple[int, int]:
            return arrays_module._CUDA, 0

        def __dlpack__(self) -> None: ...

        def as_cupy(self, stream: Any) -> Any:
            return self.array[...]

    x = get_device("cuda:0").array(np.full(SHAPE, 3, np.float32))
    out = Lender(cupy.empty(SHAPE))
    assert ops.add(x, x, out=out) is out
    assert (np.asarray(seen(out.array)) == 6).all()


def test_the_librarys_own_stream_needs_no_more_events(make: Make) -> None:
    cupy = make()
    torch = QueuedTorch(cupy, own_stream=True)
    x, y = (torch.tensor(np.ones(SHAPE, np.float32)) for _ in range(2))
    cupy.events = 0
    ops.relu_forward(x, out=y)
    assert cupy.events == 2  # the device follows the library, and the library the device


# ---- on a GPU ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", STREAMS)
def test_cuda_work_is_in_order(stream: str) -> None:
    """Each kernel of CuPy's takes so long that work which does not wait for it is noticed."""
    try:
        device: Any = get_device("cuda:0")
    except devices.DeviceUnavailable as error:
        pytest.skip(str(error))
    cupy, size = device.xp, 1 << 24
    with contextlib.ExitStack() as stack:
        if stream != "default":
            stack.enter_context(cupy.cuda.Stream(non_blocking=True) if stream == "own" else device)
        total = cupy.zeros(size, np.float32)
        for trial in range(1, 11):
            for _ in range(20):
                total += 1
            doubled = ops.add(total, total)
            total *= 1  # while the operation may still read it
            halved = doubled * np.float32(0.5)
            ops.add(doubled, doubled, out=doubled)
            ends = np.array([20.0 * trial] * 2, np.float32)
            assert np.array_equal(device.host(halved[:: size - 1]), ends)
            assert np.array_equal(cupy.asnumpy(doubled[:: size - 1]), 4 * ends)
            filled = device.array(np.full(size, trial, np.float32))
            filled += 1
            device.fill(filled, np.full(size, -trial, np.float32))
            assert float((filled - 1)[-1]) == -trial - 1
            del filled, halved
