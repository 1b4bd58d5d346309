"""FC layers that learn beside later layers: the same weights, whatever the order of the two streams.

The GPU here is one of queues that advance as a test wants (queued_cupy.py): each kernel at once, in random
order as far as events allow, or all of the second stream as late as possible. Kernels are those of the CPU
and of the emulator. Steps after the first are captured and replayed.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers.queued_cupy import CudaRefused, QueuedCupy, QueuedModule, install, seen
from helpers.queued_streams import Machine
from helpers.small_networks import ALEXNET, BRANCHES, CHAINS, assert_equal, batch_of, reduced

from cconvnet.devices import CudaDevice, get_device, registry
from cconvnet.devices.device import used_multiprocessors
from cconvnet.devices.modules import load_module
from cconvnet.layers import ConvLayer
from cconvnet.layers.fc import FcLayer
from cconvnet.network import Network, graph
from cconvnet.operations import OPERATIONS
from cconvnet.ranks.shares import Share
from cconvnet.ranks.world import World

WORKSPACE = 512  # bytes that every operation is given at least
NAMES = ["fc6", "fc7", "fc8"]
TOKENS = itertools.count(1)

Make = Callable[..., Any]


class OccupiedModule(QueuedModule):
    """A module whose operations fill their workspaces before their work and miss what is not there then."""

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_workspace"):
            size = getattr(self._module, name)
            return lambda *arguments, **options: max(WORKSPACE, size(*arguments, **options))
        call = super().__getattr__(name)
        operation = OPERATIONS.get(name)
        if operation is None or operation.workspace is None:
            return call

        def occupied(*arguments: Any, **options: Any) -> None:
            _, named = operation.bind(arguments, options)
            stream, space = self._cupy.streams[named["stream"]], named["workspace"]
            if space is not None:
                memory, token = seen(space)[:8].view(np.int64), next(TOKENS)
                stream.give(lambda: memory.fill(token))
                stream.give(lambda: self._check(name, memory[0] == token))
            call(*arguments, **options)

        return occupied

    def _check(self, name: str, is_own: bool) -> None:
        assert is_own, f"the workspace of {name} is used by two operations at once"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make cuda:0, with the kernels of a kind of device; see the text above."""

    def made(kind: str = "cpu", seed: int = 0, at_once: bool = False, late: bool = False) -> Any:
        cupy = QueuedCupy(Machine(seed), 1, at_once)
        install(monkeypatch, cupy, OccupiedModule(load_module(kind)[0], cupy))
        device: Any = get_device("cuda:0")
        if late:
            cupy.machine.late = device._branch.queue
        return device

    yield made
    registry._make.cache_clear()


def trained(device: Any, steps: int = 3, precision: str = "fp32") -> dict[str, Any]:
    """Train a small AlexNet by whole steps, and return its state and losses."""
    network = Network(ALEXNET, batch=4, devices=device, precision=precision, needs=None)
    assert [layer.name for layer in network.layers if layer.learns_beside] == NAMES * device.runs_beside
    losses = []
    for step in range(steps):
        network.load(**batch_of(ALEXNET, 4, step))
        network.train_step(step, 0.02, 0.9)
        losses.append(network.result().losses)
    return {**network.state(), "losses": np.array(losses)}


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """Return what a training without a second stream has found, by kind and precision."""
    return {}


def alone(gpu: Make, expected: dict[str, Any], kind: str, precision: str) -> dict[str, Any]:
    if (kind, precision) not in expected:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CCONVNET_BESIDE", "off")
            expected[kind, precision] = trained(gpu(kind, at_once=True), precision=precision)
    found: dict[str, Any] = expected[kind, precision]
    return found


ORDERS: list[dict[str, Any]] = [{"at_once": True}, {"late": True}, {"seed": 1}, {"seed": 2}]


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize(("kind", "precision"), [("cpu", "fp32"), ("cpu", "bf16"), ("emulator", "bf16")])
def test_weights_do_not_depend_on_the_order(
    gpu: Make, expected: dict[str, Any], kind: str, precision: str, order: dict[str, Any]
) -> None:
    if kind == "emulator" and "seed" in order:
        return  # its kernels are slow, and the order is that of the host in both
    assert_equal(trained(gpu(kind, **order), precision=precision), alone(gpu, expected, kind, precision))


def test_a_bad_loss_moves_no_weights(gpu: Make) -> None:
    """The second stream reads the halt that the first has written, in captured steps too."""
    network = Network(ALEXNET, batch=4, devices=gpu(late=True), needs=None)
    state = network.state()
    for step in range(4):
        network.load(**batch_of(ALEXNET, 4, step))
        if step == 3:
            network.load_state(state | {"fc8.bias": np.full_like(state["fc8.bias"], np.nan)})
            state = network.state()
        network.train_step(step, 0.02, 0.9)
    assert not network.result().finite
    assert_equal(network.state(), state)


def test_it_is_for_whole_steps_of_one_gpu(gpu: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    device = gpu(at_once=True)
    forked: list[Any] = []
    beside = CudaDevice.beside
    monkeypatch.setattr(CudaDevice, "beside", lambda *given: (forked.append(given), beside(*given))[1])

    def forks(train: Callable[[Network], Any], devices: Any = device, batch: int = 4, **options: Any) -> int:
        forked.clear()
        network = Network(ALEXNET, batch=batch, devices=devices, needs=None, **options)
        network.load(**batch_of(ALEXNET, 4))
        train(network)
        return len(forked)

    def step(network: Network) -> None:
        network.train_step(0, 0.02, 0.9)

    def observed(network: Network) -> None:
        with network.observed(lambda owner, device, phase, work, *given: work(*given)):
            step(network)

    def accumulated(network: Network) -> None:
        network.accumulate(0)
        step(network)

    assert forks(step) == 1
    assert forks(step, precision="bf16", batch=960) == 1
    assert forks(step, precision="bf16", batch=961) == 0  # products take longer than memory
    assert forks(observed) == 0
    assert forks(lambda network: network.checked_step(0, 0.02, 0.9)) == 0
    assert forks(accumulated, accumulates=True) == 0
    assert forks(step, lars=0.01) == 0
    assert forks(step, share=Share(World.alone(), 1)) == 0
    assert forks(step, devices=[device, get_device("cuda:1")]) == 0


def test_others_have_a_third_of_the_multiprocessors_while_the_branch_runs(
    gpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = gpu(at_once=True)
    used: list[Any] = []
    backward = ConvLayer.backward
    monkeypatch.setattr(
        ConvLayer, "backward", lambda *given: (used.append((given[0].name, device._used)), backward(*given))
    )
    state = None
    for update_bytes, until in ((1, 5), (30_000, 3), (10**9, 0)):
        monkeypatch.setattr(FcLayer, "update_bytes", update_bytes)
        network = Network(ALEXNET, batch=4, devices=device, needs=None)
        network.load(**batch_of(ALEXNET, 4))
        used.clear()
        network.train_step(0, 0.02, 0.9)
        # A third of 8 multiprocessors, in pairs.
        assert used == [(f"conv{number}", 2 * (number > until)) for number in (5, 4, 3, 2, 1)]
        assert device._used == 0
        state = state or network.state()
        assert_equal(network.state(), state)


@pytest.mark.parametrize(("share", "count"), [(1.0, 0), (1 / 3, 44), (0.01, 2)])
def test_a_share_is_pairs_of_multiprocessors(share: float, count: int) -> None:
    assert used_multiprocessors(132, share) == count


# ---- accesses ---------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Accesses:
    """Stand-in for a module that notes the memory of each operation, and if it is of the second stream."""

    module: Any
    beside: bool = False
    noted: list[tuple[str, bool, list[Any], list[Any]]] = dataclasses.field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        if name not in OPERATIONS:
            return getattr(self.module, name)
        return lambda *arguments, **options: self._note(name, arguments, options)

    def _note(self, name: str, arguments: Any, options: Any) -> None:
        operation = OPERATIONS[name]
        _, named = operation.bind(arguments, options)
        if (update := named.pop("update", None)) is not None:
            named |= dict(zip(("v", "w", "w_bf16", "rates", "halt"), update[1:], strict=True))
        written = {
            "workspace",
            "v",
            "w_bf16",
            *(output.name for output in operation.outputs),
            *operation.further,
        }
        written |= {"w"} if update is not None else set()
        ranges: dict[bool, list[Any]] = {True: [], False: []}
        for key, value in named.items():
            if isinstance(value, np.ndarray):
                ranges[key in written].append(np.lib.array_utils.byte_bounds(value))
        self.noted.append((name, self.beside, ranges[False], ranges[True]))


def overlap(some: list[Any], others: list[Any]) -> bool:
    return any(a < d and c < b for a, b in some for c, d in others)


def conflicts(spec: Any, precision: str) -> list[tuple[str, str]]:
    """Return the pairs of operations of a step that may run at once and are not independent."""
    device = copy.copy(get_device("emulator:0"))
    module = Accesses(device.module)
    device.module, device.runs_beside = module, True

    def beside(work: Callable[[], None]) -> None:
        module.beside = True
        work()
        module.beside = False

    device.beside = beside  # type: ignore[method-assign]
    network = Network(spec, batch=4, devices=device, precision=precision, needs=None)
    network.load(**batch_of(spec, 4))
    module.noted.clear()
    network.train_step(0, 0.02, 0.9)
    assert sum(is_beside for _, is_beside, *_ in module.noted) > 0
    return [
        (name, other)
        for index, (name, is_beside, read, written) in enumerate(module.noted)
        if is_beside
        for other, other_beside, other_read, other_written in module.noted[index:]
        if not other_beside and (overlap(written, other_read + other_written) or overlap(read, other_written))
    ]


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "vgg11", "lenet", "chains", "branches"])
def test_operations_that_run_at_once_are_independent(name: str) -> None:
    spec = {"chains": CHAINS, "branches": BRANCHES}.get(name) or reduced(name)
    for precision in ("fp32", "bf16"):
        assert conflicts(spec, precision) == []


@pytest.mark.parametrize("wrong", ["memory", "workspace"])
def test_dependent_operations_are_found(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    for owner, name, value in WRONG[wrong]:
        monkeypatch.setattr(owner, name, value, raising=False)
    if wrong == "workspace":
        monkeypatch.setattr(FcLayer, "_workspace", lambda *given, **options: WORKSPACE)
    assert conflicts(ALEXNET, "fp32")


# ---- wrong orders ---------------------------------------------------------------------------------------


def no_wait(device: CudaDevice, later: Any, earlier: Any) -> None:
    """Let the second stream begin before the gradient that it reads is there."""
    if later is not device._branch:
        FOLLOW(device, later, earlier)


def early(layer: FcLayer) -> Any:
    """Update the weights before the gradient of the input has read them."""
    dy = TO_PRODUCT(layer)
    updates = layer.updates_of_test  # type: ignore[attr-defined]
    if updates.beside:
        layer.device.beside(lambda: LEARN(layer, dy, updates, layer.workspace_beside))
    return dy


def forgetting(backward: Any, *rest: Any) -> None:
    """Give the memory of gradients to others although the second stream reads them."""
    beside = [layer for layer in backward if layer.learns_beside]
    for layer in beside:
        layer.learns_beside = False
    ALLOCATE(backward, *rest)
    for layer in beside:
        layer.learns_beside = True


FOLLOW, TO_PRODUCT, LEARN = CudaDevice._follow, FcLayer._backward_to_product, FcLayer._learn
ALLOCATE = graph.allocate_gradients
WRONG: dict[str, list[tuple[Any, str, Any]]] = {
    "no fork": [(CudaDevice, "_follow", no_wait)],
    "no join": [(CudaDevice, "join", lambda device: None)],
    "before the gradient of the input": [
        (FcLayer, "_backward_to_product", early),
        (
            FcLayer,
            "_learn",
            lambda layer, dy, updates, workspace: updates.beside or LEARN(layer, dy, updates, workspace),
        ),
    ],
    "memory": [(graph, "allocate_gradients", forgetting)],
    "workspace": [
        (FcLayer, "workspace_beside", property(lambda layer: layer.workspace, lambda layer, own: None))
    ],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_order_is_noticed(
    gpu: Make, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    right = alone(gpu, expected, "cpu", "fp32")
    for owner, name, value in WRONG[wrong]:
        monkeypatch.setattr(owner, name, value, raising=False)
    if wrong.startswith("before"):
        init = graph.FusedUpdates.__init__

        def noting(updates: Any, *arguments: Any) -> None:
            init(updates, *arguments)
            monkeypatch.setattr(FcLayer, "updates_of_test", updates, raising=False)

        monkeypatch.setattr(graph.FusedUpdates, "__init__", noting)
    noticed = 0
    for order in ORDERS:
        try:
            assert_equal(trained(gpu(**order)), right)
        except (AssertionError, CudaRefused):
            noticed += 1
    assert noticed
