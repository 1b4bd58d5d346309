"""The part of each batch that a rank computes."""

from __future__ import annotations

from dataclasses import dataclass

from cconvnet.ranks import tree
from cconvnet.ranks.world import World


@dataclass(frozen=True)
class Share:
    """The shards of every batch that belong to this rank.

    Attributes:
        world: The ranks.
        count: The number of shards of a batch, at least as many as ranks.
        wire: The type of gradients between ranks: "fp32", or "bf16", to which each shard's are rounded.
        reduction: "tree", the fixed order; or "fast", the order that the library chooses.
        exchange: "auto": of FC layers what is fewer bytes, gradients or their factors; "gradients": always
            gradients.
        batches: The number of batches of each shard of a step.
    """

    world: World
    count: int
    wire: str = "fp32"
    reduction: str = "tree"
    exchange: str = "auto"
    batches: int = 1

    @property
    def fast(self) -> bool:
        """True if the library adds the gradients of the ranks."""
        return self.reduction == "fast"

    @property
    def own(self) -> range:
        """The numbers of this rank's shards."""
        return range(*tree.own_shards(self.world.rank, self.world.size, self.count))

    def rows(self, images: int) -> slice:
        """Return this rank's images of so many that are a step, or a batch."""
        each = images // self.count
        return slice(self.own.start * each, self.own.stop * each)
