"""Steps in which ranks compute FC layers together, level by level.

All batches of a rank pass a level before ranks meet. The activations of one batch fit in the network's
memory, so a rank with several batches computes a level once more before its backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cconvnet.layers.columns import Columns
from cconvnet.network.levels import Level
from cconvnet.network.shards import ShardedUpdates
from cconvnet.network.step import Runner, StepResult

# Loads a batch and returns the number that selects its dropout masks.
Load = Callable[[], int]


class Together:
    """A step of a network with levels.

    Args:
        runner: runs the passes.
        shards: exchanges and updates.
        loads: of each batch of this rank, shard by shard.
    """

    def __init__(self, runner: Runner, shards: ShardedUpdates, loads: Sequence[Load]) -> None:
        self._runner, self._shards, self._loads = runner, shards, loads
        self._levels = runner.graph.levels
        self._results: list[Callable[[], StepResult]] = []

    def run(self, lr: float | Mapping[str, float], momentum: float) -> list[Callable[[], StepResult]]:
        """Run all passes and the update; return the results of the batches, once they are there."""
        runner, shards = self._runner, self._shards
        shards.set_rates(lr, momentum)
        if self._is_one:
            self._enter(0)
            runner.forward_inputs()
            if shards.can_be_captured:
                runner.replayed((shards.frozen, *runner.key), self._run)
            else:
                self._run()
            self._results = [runner.result_later()]
        else:
            self._run()
        shards.end_together()
        runner.summed = shards.pushed = 0
        return self._results

    @property
    def _is_one(self) -> bool:
        return len(self._loads) == 1

    def _enter(self, number: int) -> None:
        """Load a batch, the number of which is that among this rank's."""
        runner, shards = self._runner, self._shards
        shards.pushed, runner.summed = divmod(number, shards.share.batches)
        runner.begin(True, self._loads[number]())
        shards.begin_together(runner.summed)

    def _run(self) -> None:
        runner, shards = self._runner, self._shards
        for level in self._levels:
            for columns in level.first:
                self._call(columns, "forward", columns.multiply, shards.swap)
            for number in range(len(self._loads)):
                self._forward(level, number)
                for columns in level.behind:
                    self._call(columns, "forward", columns.keep_inputs)
                if level is self._levels[-1] and not self._is_one:
                    self._results.append(runner.result_later())
                    if number < len(self._loads) - 1:
                        runner.add_losses()
        runner.watch_losses(shards)
        shards.agree()
        for index, level in enumerate(reversed(self._levels)):
            for columns in level.behind:
                self._call(columns, "backward", columns.multiply_back, shards.swap)
            for number in range(len(self._loads)):
                if not self._is_one:
                    self._forward(level, number)
                self._backward(index, level, number)
        runner.finish_exchange(shards)

    def _forward(self, level: Level, number: int) -> None:
        """Run the forward pass of a level for a batch."""
        runner = self._runner
        if not self._is_one:
            self._enter(number)
            if level is self._levels[0]:
                runner.forward_inputs()
        for layer in level.forward:
            runner.forward_layer(layer, True)

    def _backward(self, index: int, level: Level, number: int) -> None:
        """Run the backward pass of a level, which has this place in its order, for a batch."""
        runner, shards, loads = self._runner, self._shards, self._loads
        for columns in level.behind:
            self._call(columns, "backward", columns.input_gradients)
        is_last = number == len(loads) - 1
        for layer in level.backward:
            runner.backward_layer(layer, None)
            if is_last:
                runner.begin_exchange(shards, layer)
        if not is_last and (layers := [layer for layer in level.backward if layer.pieces]):
            ends_shard = (number + 1) % shards.share.batches == 0
            runner.add_gradients_of(shards, layers[-1], ends_shard, index)

    def _call(self, columns: Columns, phase: str, work: Callable[..., None], *args: Any) -> None:
        with columns.layer.device as device:
            self._runner.call(columns.layer, device, phase, work, *args)
