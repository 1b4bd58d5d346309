"""Order of copies between devices, by marks alone: nothing may depend on when a device happens to work.

The devices here have queues like a GPU's streams. A call only enqueues work, and chance decides which queue
proceeds. Only a mark makes one queue wait for another. For every draw the weights must be those of devices
that do everything at once. Without any one mark they must differ, or the tests would prove nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.queued_streams import Machine, Mark, Queue

from cconvnet import devices, nets
from cconvnet.devices import CudaDevice, Device, Feed, ReferenceDevice, Transfer, registry
from cconvnet.layers import CopyLayer
from cconvnet.nets import NetSpec, alexnet, alexnet_2012, place
from cconvnet.network import Network
from cconvnet.training.saver import Snapshot


class QueuedModule:
    """A module whose functions enqueue their work."""

    def __init__(self, module: Any, queue: Queue) -> None:
        self._module, self._queue = module, queue

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._module, name)
        if name.endswith(("_workspace", "_impls")) or name == "serves":
            return function
        return lambda *arguments, **rest: self._queue.entries.append(lambda: function(*arguments, **rest))


class QueuedDevice(ReferenceDevice):
    def __init__(self, machine: Machine, index: int) -> None:
        super().__init__("reference", index)
        self.machine, self.work, self.copies = machine, machine.queue(), machine.queue()
        self.images = machine.queue()
        self.module = QueuedModule(self.module, self.work)

    def fill(self, array: Any, host: Any) -> None:
        value = np.array(host)
        self.work.entries.append(lambda: array.__setitem__(..., value))

    def host(self, array: Any) -> Any:
        self.machine.drain()
        return np.array(array)

    def copy_out(self, pairs: Iterable[tuple[Any, Any]]) -> Callable[[], None]:
        copied = [(source, target) for source, target in pairs]
        self.work.entries.append(lambda: [target.__setitem__(..., source) for source, target in copied])
        return self.machine.drain

    def synchronize(self) -> None:
        self.machine.drain()

    def mark(self) -> Any:
        return self.work.mark()

    def wait(self, mark: Any) -> None:
        if mark is not None:
            self.work.entries.append(mark)

    def transfer(self, target: Any, target_device: Device, source: Any) -> Transfer:
        return QueuedTransfer(target, source, self.copies)

    def feed(self, target: Any) -> Feed:
        return QueuedFeed(self, target)


class QueuedFeed(Feed):
    """CudaFeed with queues in place of streams."""

    _device: QueuedDevice

    def __init__(self, device: QueuedDevice, target: Any) -> None:
        super().__init__(device, target)
        self._read: Any = None
        self._filled: Any = None

    def start(self, host: Any) -> None:
        queue, value, fill = self._device.images, np.array(host), super().start
        if self._read is not None:
            queue.entries.append(self._read)
        queue.entries.append(lambda: fill(value))
        self._filled = queue.mark()

    def wait(self) -> None:
        self._device.wait(self._filled)

    def been_read(self) -> None:
        self._read = self._device.mark()


class QueuedTransfer(Transfer):
    def __init__(self, target: Any, source: Any, queue: Queue) -> None:
        super().__init__(target, source)
        self._queue = queue

    def start(self, *after: Any) -> Any:
        self._queue.entries += [mark for mark in after if mark is not None]
        self._queue.entries.append(lambda: self._target.__setitem__(..., self._source))
        return self._queue.mark()


def placed_lenet() -> NetSpec:
    """Place LeNet so that one device feeds the other, and receives only gradients from it."""
    return place(nets.build("lenet"), {"conv2": 1})


NETS = {
    "alexnet": alexnet.build((76, 76, 3), 10, width=1 / 24),
    "alexnet-2012": alexnet_2012.build((76, 76, 3), 10, width=1 / 24),
    "lenet": placed_lenet(),
}


def losses_and_state(spec: NetSpec, devices: Sequence[Any]) -> tuple[list[float], dict[str, Any]]:
    """Return the losses of three training steps and three test passes, and the state, without any wait."""
    network = Network(spec, batch=2, devices=devices, seed=1)
    cost = network.graph.cost
    losses = np.zeros((6, 2))
    for step in range(len(losses)):
        draws = np.random.default_rng(step)
        images = draws.integers(0, 256, (2, *spec.stored_shape), np.uint8)
        network.load(images, draws.integers(0, spec.classes, 2))
        network.forward(train=step < 3, step=step)
        cost.device.module.copy(losses[step], 0, cost.losses, 0)
        if step < 3:
            network.backward()
            network.update(0.01, 0.9)
    state = network.state()
    return losses.ravel().tolist(), state


def queued(spec: NetSpec, seed: int) -> tuple[list[float], dict[str, Any]]:
    machine = Machine(seed)
    return losses_and_state(spec, [QueuedDevice(machine, index) for index in range(2)])


@pytest.fixture(scope="module")
def expected() -> dict[str, tuple[list[float], dict[str, Any]]]:
    return {name: losses_and_state(spec, ["reference:0", "reference:1"]) for name, spec in NETS.items()}


def same(found: tuple[list[float], dict[str, Any]], right: tuple[list[float], dict[str, Any]]) -> bool:
    return found[0] == right[0] and all(
        found[1][name].tobytes() == value.tobytes() for name, value in right[1].items()
    )


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", range(6))
def test_marks_order_all_copies(expected: Any, name: str, seed: int) -> None:
    assert same(queued(NETS[name], seed), expected[name])


@pytest.mark.parametrize("seed", range(3))
def test_a_snapshot_is_of_the_moment_it_is_taken(seed: int) -> None:
    """Steps are enqueued before and after it, without a wait before the snapshot is read."""
    spec = NETS["alexnet-2012"]

    def taken(devices: Sequence[Any], wait: bool) -> dict[str, Any]:
        network = Network(spec, batch=2, devices=devices, seed=1)
        snapshot = Snapshot(network)
        images = np.random.default_rng(0).integers(0, 256, (2, *spec.stored_shape), np.uint8)
        copied: Callable[[], None] = lambda: None  # noqa: E731
        for step in range(4):
            network.load(images, np.zeros(2, np.int32))
            network.forward(train=True, step=step)
            network.backward()
            network.update(0.01, 0.9)
            if step == 1:
                copied = snapshot.take()
                if wait:
                    return network.state()
        copied()
        return {name: tensor.copy() for name, tensor in snapshot.items()}

    right = taken(["reference:0", "reference:1"], wait=True)
    machine = Machine(seed)
    found = taken([QueuedDevice(machine, index) for index in range(2)], wait=False)
    assert found.keys() == right.keys()
    for name, tensor in right.items():
        assert tensor.tobytes() == found[name].tobytes(), name


def test_copies_go_on_beside_other_work() -> None:
    """A device's own queue waits for a copy out of it only before the source is overwritten."""
    machine = Machine(0)
    devices = [QueuedDevice(machine, index) for index in range(2)]
    spec = NETS["alexnet"]
    network = Network(spec, batch=2, devices=devices)
    network.load(np.zeros((2, *spec.stored_shape), np.uint8), np.zeros(2, np.int32))
    network.forward(train=True)
    for queue in (*(device.images for device in devices), *(device.work for device in devices)):
        while queue.ready:
            queue.advance()
    # Both towers have advanced to where they need each other, with no copy done.
    assert all(isinstance(device.work.entries[0], Mark) for device in devices)
    # The queues contain only the waits of the receivers: three for each tower's layers, and fc8's.
    waits = [sum(isinstance(entry, Mark) for entry in device.work.entries) for device in devices]
    assert waits == [4, 3]
    machine.drain()


def test_the_next_images_come_while_a_step_computes() -> None:
    """They only wait for the crops of the previous images, the first operation of a step."""
    machine = Machine(0)
    device = QueuedDevice(machine, 0)
    spec = nets.build("lenet")
    network = Network(spec, batch=2, devices=device)
    fed = network.graph.inputs[device.name].images
    machine.drain()  # of the first weights
    for number in (1, 2):
        network.load(np.full((2, *spec.stored_shape), number, np.uint8), np.zeros(2, np.int32))
        network.train_step(number, 0.01, 0.9)
    work, images = device.work, device.images

    def advance(queue: Queue, until: Callable[[], bool]) -> None:
        while not until():
            assert queue.ready
            queue.advance()

    advance(images, lambda: not images.ready)
    assert (fed == 1).all() and images.entries  # the second batch waits for the first to be cropped
    before = len(work.entries)
    advance(work, lambda: images.ready)
    advance(images, lambda: not images.entries)
    assert (fed == 2).all()
    # By then only the inputs of the first step were computed. Nearly all of both steps is still enqueued.
    assert len(work.entries) > 0.8 * before
    machine.drain()


@pytest.mark.parametrize(
    ("gone", "name"),
    [
        ("wait", "alexnet"),
        ("wait_here", "alexnet"),
        ("been_read", "lenet"),
        ("mark", "alexnet"),
        ("images' wait", "lenet"),
        ("images' been_read", "lenet"),
    ],
)
def test_a_missing_mark_is_noticed(
    expected: Any, monkeypatch: pytest.MonkeyPatch, gone: str, name: str
) -> None:
    if gone == "mark":
        monkeypatch.setattr(QueuedDevice, "mark", lambda self: None)
    elif gone.startswith("images' "):
        monkeypatch.setattr(QueuedFeed, gone.split()[1], lambda self: None)
    else:
        monkeypatch.setattr(CopyLayer, gone, lambda self: None)
    with np.errstate(all="ignore"):
        results = [same(queued(NETS[name], seed), expected[name]) for seed in range(12)]
    assert not all(results)


# ---- copies between GPUs ---------------------------------------------------------------------------------


class Calls(list[tuple[Any, ...]]):
    """Calls of the CUDA runtime, in order."""


def fake_cupy(calls: Calls, peers: bool) -> Any:
    """Return the part of CuPy that copies need, on host memory. It records each call and does it at once."""

    class Event:
        done = False

        def __init__(self, **options: Any) -> None:
            self.stream: Any = None

        def record(self, stream: Any) -> None:
            self.stream = stream
            calls.append(("record", stream.ptr))

        def synchronize(self) -> None:
            calls.append(("synchronize",))

    class Stream:
        def __init__(self, **options: Any) -> None:
            self.ptr = 1 + sum(call[0] == "stream" for call in calls)
            calls.append(("stream", self.ptr))

        def __enter__(self) -> None: ...

        def __exit__(self, *error: object) -> None: ...

        def wait_event(self, event: Event) -> None:
            calls.append(("wait", self.ptr, event.stream.ptr))

    def memcpy(target: int, source: int, size: int, kind: str, stream: int) -> None:
        calls.append((kind, stream))
        ctypes.memmove(target, source, size)

    def pinned(size: int) -> Any:
        buffer: Any = ctypes.create_string_buffer(size)
        buffer.ptr = ctypes.addressof(buffer)
        return buffer

    def asnumpy(source: Any, *, stream: Stream, out: Any, blocking: bool) -> None:
        assert not blocking
        calls.append(("asnumpy", stream.ptr))
        out[...] = source.array

    runtime = SimpleNamespace(
        CUDARuntimeError=RuntimeError,
        memcpyDeviceToHost="out",
        memcpyHostToDevice="in",
        memcpyAsync=memcpy,
        deviceCanAccessPeer=lambda source, target: peers,
        deviceEnablePeerAccess=lambda target: calls.append(("peer", target)),
    )
    default = SimpleNamespace(ptr=0, wait_event=lambda event: calls.append(("wait", 0, event.stream.ptr)))
    cuda = SimpleNamespace(
        Event=Event,
        Stream=Stream,
        get_current_stream=lambda: default,
        Device=lambda ordinal: contextlib.nullcontext(),
        runtime=runtime,
        alloc_pinned_memory=pinned,
        get_elapsed_time=lambda begin, end: 2.0,
    )
    return SimpleNamespace(cuda=cuda, asnumpy=asnumpy)


class FakeGpu(CudaDevice):
    def __init__(self, cupy: Any, ordinal: int, calls: Calls) -> None:
        self.kind, self.index, self.ordinal, self.xp = "cuda", ordinal, ordinal, cupy
        self.name, self._entered, self._stream = f"cuda:{ordinal}", [], cupy.cuda.Stream()
        self._staged, self.calls = [], calls

        def copy(target: Any, to: int, source: Any, of: int, stream: int) -> None:
            calls.append(("across", of, to, stream))
            target.array[...] = source.array

        self.module = SimpleNamespace(copy=copy)

    def _pinned(self, shape: tuple[int, ...], dtype: Any) -> Any:
        self.calls.append(("pinned", *shape))
        return np.empty(shape, dtype)


class FedArray(np.ndarray):  # type: ignore[type-arg]
    """A CuPy array that records the stream on which it is filled."""

    calls: Calls

    def __array_finalize__(self, other: Any) -> None:
        self.calls = getattr(other, "calls", Calls())

    def set(self, host: Any, stream: Any) -> None:
        assert self.flags.c_contiguous and host.shape == self.shape and host.dtype == self.dtype
        self.calls.append(("set", stream.ptr))
        self[...] = host


def gpu_array(values: Any) -> Any:
    """Return an array with the attributes of a CuPy array that copies use."""
    array = np.array(values, np.float32)
    return SimpleNamespace(
        array=array,
        nbytes=array.nbytes,
        data=SimpleNamespace(ptr=array.ctypes.data),
        device=SimpleNamespace(id=0),
    )


@pytest.mark.parametrize("peers", [True, False])
def test_gpus_copy_directly_or_through_pinned_memory(peers: bool) -> None:
    calls = Calls()
    cupy = fake_cupy(calls, peers)
    one, two = FakeGpu(cupy, 0, calls), FakeGpu(cupy, 1, calls)
    source, target = gpu_array([1, 2, 3]), gpu_array([0, 0, 0])
    transfer = one.transfer(target, two, source)
    assert (("peer", 1) in calls) == peers
    calls.clear()
    for number in range(2):
        source.array[...] = [number, 5, 6]
        done = transfer.start(one.mark(), two.mark(), None)
        assert target.array.tolist() == [number, 5, 6]
        two.wait(done)
    work, other, out = one._stream.ptr, two._stream.ptr, one.copy_stream.ptr
    assert ("wait", out, work) in calls and ("wait", out, other) in calls
    kinds = [call[0] for call in calls if call[0] in ("across", "out", "in")]
    if peers:
        assert kinds == ["across", "across"] and ("across", 0, 1, out) in calls
        assert calls[-1] == ("wait", other, out)
        assert transfer.seconds == pytest.approx(2 * 0.002)
    else:
        into = two.copy_stream.ptr
        assert kinds == ["out", "in", "out", "in"] and ("out", out) in calls and ("in", into) in calls
        # The copy in waits for the copy out, and the next copy out for the copy in: they share host memory.
        assert ("wait", into, out) in calls and ("wait", out, into) in calls
        assert calls[-1] == ("wait", other, into)
        assert transfer.seconds == pytest.approx(4 * 0.002)


def test_images_go_to_a_gpu_on_a_stream_of_their_own() -> None:
    calls = Calls()
    gpu = FakeGpu(fake_cupy(calls, peers=True), 0, calls)
    target = np.full((4, 3), 9, np.uint8).view(FedArray)
    target.calls = calls
    feed = gpu.feed(target)
    work, own = gpu._stream.ptr, feed._stream.ptr
    assert own != work
    kept = []
    for number, count in enumerate((4, 2)):
        calls.clear()
        # The first is in ordinary memory, the second in pinned memory.
        host = gpu.staging((count, 3), np.uint8) if number else np.empty((count, 3), np.uint8)
        host[...] = number + 1
        feed.start(host)
        host[...] = 99  # seen by nobody: it was staged, or the copy, which here is done at once, read it
        assert (target[:count] == number + 1).all() and (target[count:] == 0).all()
        # Pinned memory was allocated once in either case: for a copy on the host, or for the array itself.
        assert [call for call in calls if call[0] == "pinned"] == [("pinned", count, 3)]
        # It waits for the last reader of the images, and its end is marked on its own stream.
        order = [call for call in calls if call[0] in ("wait", "set", "record")]
        assert order == [("wait", own, work), ("set", own), ("record", own)]
        kept.append(gpu._staged[-1])
        assert (kept[-1][1] is host) == (number == 1)
        calls.clear()
        feed.wait()
        feed.been_read()
        assert calls == [("wait", work, own), ("record", work)]
    # The source of a copy is kept until that copy is done.
    assert [entry[1] for entry in gpu._staged] == [staged for _, staged in kept]
    kept[0][0].done = True
    feed.start(np.zeros((1, 3), np.uint8))
    assert len(gpu._staged) == 2 and gpu._staged[0][1] is kept[1][1]


def test_a_gpus_arrays_are_copied_out_behind_its_work() -> None:
    """They are on the stream of all work, before the next step, and the caller does not wait."""
    calls = Calls()
    gpu = FakeGpu(fake_cupy(calls, peers=True), 0, calls)
    sources = [gpu_array([1, 2, 3]), gpu_array([[4], [5]])]
    targets = [gpu.host_memory(source.array.shape, np.float32) for source in sources]
    calls.clear()
    wait = gpu.copy_out(zip(sources, targets, strict=True))
    work = gpu._stream.ptr
    copied = [("asnumpy", work), ("asnumpy", work)]
    # They follow the work of the caller's stream, and its later work follows them.
    assert calls == [
        ("record", 0),
        ("wait", work, 0),
        *copied,
        ("record", work),
        ("wait", 0, work),
        ("record", work),
    ]
    wait()
    assert calls[-1] == ("synchronize",)
    assert [target.tolist() for target in targets] == [[1, 2, 3], [[4], [5]]]


def test_staging_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCONVNET_PEER_ACCESS", "off")
    calls = Calls()
    cupy = fake_cupy(calls, peers=True)
    one, two = FakeGpu(cupy, 0, calls), FakeGpu(cupy, 0, calls)
    target = gpu_array([0])
    one.transfer(target, two, gpu_array([7])).start(None)
    assert target.array.tolist() == [7] and "across" not in {call[0] for call in calls}


def test_an_array_finds_its_logical_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "cuda_ordinals", lambda: [1, 0, 0])
    monkeypatch.setattr(registry, "_make", lambda kind, index: f"{kind}:{index}")
    monkeypatch.setenv("CCONVNET_CUDA_DEVICES", "1,0,0")
    assert [devices.cuda_device_on(ordinal) for ordinal in (0, 1)] == ["cuda:1", "cuda:0"]
    with pytest.raises(devices.DeviceUnavailable, match="CCONVNET_CUDA_DEVICES=1,0,0 leaves GPU 2 out"):
        devices.cuda_device_on(2)
