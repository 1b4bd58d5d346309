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
        parallel: "data"; or "hybrid": each rank computes some outputs of FC layers, for all images.
    """

    world: World
    count: int
    wire: str = "fp32"
    reduction: str = "tree"
    exchange: str = "auto"
    batches: int = 1
    parallel: str = "data"

    @property
    def hybrid(self) -> bool:
        """True if each rank computes some outputs of FC layers, for all images."""
        return self.parallel == "hybrid"

    @property
    def fast(self) -> bool:
        """True if the library adds the gradients of the ranks."""
        return self.reduction == "fast"

    @property
    def own(self) -> range:
        """The numbers of this rank's shards."""
        return self.of_rank(self.world.rank)

    def of_rank(self, rank: int) -> range:
        """Return the numbers of a rank's shards."""
        return range(*tree.own_shards(rank, self.world.size, self.count))

    def rows(self, images: int) -> slice:
        """Return this rank's images of so many that are a step, or a batch."""
        return self.parts(images)[self.world.rank]

    def parts(self, count: int) -> list[slice]:
        """Return the part of each rank of so many things, of which each shard has as many."""
        each = count // self.count
        own = map(self.of_rank, range(self.world.size))
        return [slice(shards.start * each, shards.stop * each) for shards in own]
