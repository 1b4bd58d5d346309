"""A network's memory: gradients share it, steps take none, all of it is counted."""

from __future__ import annotations

import tracemalloc

from helpers.small_networks import CLASSES, batch_of, conv, net_of
from hypothesis import given
from hypothesis import strategies as st

from cconvnet.devices import Device
from cconvnet.network import Network, Slot, plan_memory
from cconvnet.network.gradcheck import small_spec


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 20), st.integers(0, 6)), max_size=30))
def test_planned_memory_never_overlaps(drawn: list[tuple[int, int, int]]) -> None:
    slots = [Slot(count, first, first + life) for count, first, life in drawn]
    total = plan_memory(slots)
    for index, a in enumerate(slots):
        assert 0 <= a.offset <= total - a.count
        assert a.offset % 64 == 0
        for b in slots[:index]:
            same_time = a.first <= b.last and b.first <= a.last
            same_place = a.offset < b.offset + b.count and b.offset < a.offset + a.count
            assert not (same_time and same_place)


def test_slots_that_never_meet_lie_on_each_other() -> None:
    assert plan_memory([Slot(100, 0, 1), Slot(90, 2, 3), Slot(80, 4, 4)]) == 100


def test_gradients_share_memory(full_alexnet: Network) -> None:
    """Conv1 and pool1 are alive together and largest, since the normalisation between them is fused; all else
    fits beside or into them."""
    tensors = [layer.output for layer in full_alexnet.layers if layer.output.gradient is not None]
    largest = (55 * 55 + 27 * 27) * 96 * 4
    arena = tensors[0].gradient.base
    while arena.base is not None:
        arena = arena.base
    assert largest <= arena.nbytes <= largest + 64 * 4
    assert sum(tensor.count * 4 for tensor in tensors) > 1.5 * arena.nbytes


def test_a_step_allocates_no_array() -> None:
    """Measured on the emulator: NumPy reports its arrays to tracemalloc, kernels take none of its memory."""
    spec = small_spec("cifar-18pct")
    network = Network(spec, batch=2, devices="emulator:0")
    network.load(**batch_of(spec, 2))
    network.forward(train=True, step=0)
    network.backward()
    network.update(0.1, 0.9)
    tracemalloc.start()
    try:
        network.forward(train=True, step=1)
        network.backward()
        network.update(0.1, 0.9)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    smallest = min(layer.output.array.nbytes for layer in network.layers if layer.type == "conv")
    assert peak < smallest / 2


def test_memory_is_counted(device: Device) -> None:
    network = Network(net_of(conv("c")), batch=2, devices=device)
    n, stored, image = 2, 9 * 9 * 2, 7 * 6 * 2
    arrays = n * (stored + 9) + 4 * (
        stored + n * 2 + n * image
    )  # images, top, left, mirror, mean, shift, data
    arrays += 4 * n * (7 * 6 * 4 + CLASSES + CLASSES) + 12 * n  # activations; labels, losses, ranks
    arrays += 3 * 4 * (4 * 3 * 3 * 2 + 4 + 168 * CLASSES + CLASSES)  # value, gradient, velocity
    gradients = 4 * (n * 168 + n * CLASSES)
    found = network.describe()["memory_bytes"]
    assert found == sum(network.memory.values())
    workspace = max(layer.workspace_bytes() for layer in network.layers)
    assert arrays + gradients <= found <= arrays + gradients + 64 * 4 + workspace
