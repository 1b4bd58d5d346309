"""The launcher that started this process, found by the variables that it sets.

MPI is not needed for that, so a process that was started alone never loads it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


class RanksError(ValueError):
    """Processes that cannot work together as they were started; the text contains the cause and the fix."""


@dataclass(frozen=True)
class Launch:
    """The processes that a launcher started, this one among them.

    Attributes:
        launcher: The launcher, for messages; empty if there was none.
        rank: This process's number, from 0.
        size: The number of processes. None if only MPI knows it.
    """

    launcher: str = ""
    rank: int = 0
    size: int | None = 1

    @property
    def alone(self) -> bool:
        """True if this process is the only one."""
        return self.size == 1

    @property
    def started(self) -> str:
        """The beginning of a message about these processes."""
        return f"{self.launcher} started {self.size or 'several'} processes"

    def check(self) -> None:
        """Check that this launcher starts processes of MPI.

        Raises:
            RanksError: If it does not.
        """
        if self.launcher == _TORCHRUN[0]:
            raise RanksError(
                f"WORLD_SIZE={self.size}: torchrun cannot start ranks; use mpiexec -n {self.size} "
                "cconvnet ..., or unset WORLD_SIZE to train in one process"
            )


# Of each launcher, the variables of the number of processes and of this one's. A launcher of MPI may have
# been started in a step of Slurm, so it comes first.
_MPI_LAUNCHERS = (
    ("mpiexec of MPICH or Intel MPI", "PMI_SIZE", "PMI_RANK"),
    ("mpiexec of Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
)
# sbatch runs its script once, but sets the job's variables, such as SLURM_NTASKS. These are the step's.
_SRUN = ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
_TORCHRUN = ("torchrun", "WORLD_SIZE", "RANK")


def launched(environ: Mapping[str, str] = os.environ) -> Launch:
    """Return how this process was started.

    Args:
        environ: The environment to read.

    Raises:
        RanksError: If a variable is no number.
    """
    in_step = not {"SLURM_STEP_ID", "SLURM_STEPID"}.isdisjoint(environ)
    launchers = (*_MPI_LAUNCHERS, _SRUN) if in_step else _MPI_LAUNCHERS
    found = next((launch for names in launchers if (launch := _read(environ, *names))), None)
    if found is None and "PMIX_RANK" in environ:
        return Launch("a launcher with PMIx", _number(environ, "PMIX_RANK"), None)
    if found is None or found.alone:
        found = _read(environ, *_TORCHRUN)
    return Launch() if found is None or found.alone else found


def _read(environ: Mapping[str, str], launcher: str, size: str, rank: str) -> Launch | None:
    if size not in environ:
        return None
    return Launch(launcher, _number(environ, rank) if rank in environ else 0, _number(environ, size))


def _number(environ: Mapping[str, str], name: str) -> int:
    if not environ[name].isdecimal():
        raise RanksError(f"{name} must be a number that a launcher set, not {environ[name]!r}")
    return int(environ[name])
