"""Processes that train one network together: ranks, started by ``mpiexec`` or ``srun``.

A process alone is rank 0 of 1 and imports nothing of MPI.

Modules, in reading order:

- ``launch`` finds out from the environment whether a launcher started several processes.
- ``world`` passes values and arrays between the ranks.
- ``clocks`` compares the ranks' clocks.
- ``cores`` divides a host's cores and devices among its ranks.
- ``tree`` is the order in which the sums over the shards of a batch are added.
- ``shares`` are the parts of each batch that a rank computes.
- ``wires`` moves gradients and weights between ranks by MPI, ``nccl`` between GPUs by NCCL.
- ``watchdog`` ends all ranks if they cannot go on.
- ``verdict`` finds the rank at fault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cconvnet.ranks.launch import Launch, RanksError, launched

if TYPE_CHECKING:
    from cconvnet.ranks.world import World, join

__all__ = ["Launch", "RanksError", "World", "join", "launched"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # The command line asks for the launch at each start, and a world imports NumPy.
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from cconvnet.ranks import world

        return getattr(world, name)
