"""Processes that train one network together: ranks, started by ``mpiexec`` or ``srun``.

A process alone is rank 0 of 1 and imports nothing of MPI.

Modules, in reading order:

- ``launch`` finds out from the environment whether a launcher started several processes.
- ``world`` passes values and arrays between the ranks.
- ``watchdog`` ends all ranks if they cannot go on.
- ``verdict`` finds the rank at fault.
"""

from __future__ import annotations

from cconvnet.ranks.launch import Launch, RanksError, launched
from cconvnet.ranks.watchdog import Watchdog
from cconvnet.ranks.world import World, join, joined

__all__ = ["Launch", "RanksError", "Watchdog", "World", "join", "joined", "launched"]
