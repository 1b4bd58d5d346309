"""Ranks for tests: commands in several processes, started by the mpiexec of this environment."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).with_name("rank_programs.py")

# Variables by which another launcher, around the tests, would be taken for the ranks' own.
_LAUNCHERS = ("PMI", "OMPI_", "PRTE_", "MPI_", "HYDRA", "SLURM_", "WORLD_SIZE", "RANK", "LOCAL_RANK")

_numbers = itertools.count()


def environment(**variables: str) -> dict[str, str]:
    """Return this environment without launchers, with one OpenMP thread a rank, and with other variables."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHERS)}
    own.pop("PYTHONUNBUFFERED", None)  # lines of ranks would be mixed
    return own | {"OMP_NUM_THREADS": "1"} | variables


def mpiexec() -> str:
    """Return the mpiexec of this environment, or skip the test."""
    found = Path(sys.executable).with_name("mpiexec")
    if not found.exists():
        pytest.skip(f"there is no {found}: pip install mpi4py mpich")
    return str(found)


class Ranks(subprocess.Popen[str]):
    """A command in several processes, all of which are killed at the end of a context of this.

    Args:
        ranks: Their number.
        command: The program and its arguments.
        launcher: mpiexec with its options; None: that of this environment, for this host.
        variables: Of the environment, besides `environment()`.
    """

    def __init__(
        self, ranks: int, *command: str, launcher: Sequence[str] | None = None, **variables: str
    ) -> None:
        self._mark = f"TEST_RANKS={os.getpid()}.{next(_numbers)}"
        name, _, value = self._mark.partition("=")
        super().__init__(
            [*(launcher or [mpiexec()]), "-n", str(ranks), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**variables, **{name: value}),
        )

    def __exit__(self, *exception: object) -> None:
        self.kill_all()
        self.communicate()

    def living(self) -> list[int]:
        """Return the processes that are left: mpiexec, its proxy, ranks and what these started."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                marked = self._mark.encode() in (folder / "environ").read_bytes().split(b"\0")
                if marked:  # a zombie has no environment
                    found.append(int(folder.name))
        return found

    def kill_all(self) -> None:
        """Kill the processes that are left."""
        while living := self.living():
            for number in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)

    def finish(self, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Return the exit code and what was printed; fail if the ranks do not end in time."""
        try:
            out, err = self.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill_all()
            out, err = self.communicate()
            pytest.fail(f"the ranks did not end within {seconds} s; they printed:\n{out}{err}")
        return subprocess.CompletedProcess(self.args, self.returncode, out, err)


def run(
    ranks: int,
    *command: str,
    seconds: float = 60,
    launcher: Sequence[str] | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command as several ranks to its end."""
    with Ranks(ranks, *command, launcher=launcher, **variables) as job:
        return job.finish(seconds)


def alone(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in one process, which no launcher starts."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=folder,
        env=environment(**variables),
    )


_SSH = """#!/bin/sh
# In place of ssh: options, a host, a command. A host is a network namespace with a name of its own.
while [ "${1#-}" != "$1" ]; do shift; done
host=$1; shift
exec ip netns exec "%s.$host" unshare -u sh -c "hostname node${host##*.}; exec $*"
"""


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[list[str]]:
    """Make two hosts with two ranks each of this machine, and return their mpiexec; or skip the test.

    They are connected by TCP alone, through a link called eth0 at either end.

    Args:
        folder: A folder for files.
    """
    prefix = f"ranks{os.getpid()}"
    addresses = ("10.99.0.1", "10.99.0.2")
    spaces = [f"{prefix}.{address}" for address in addresses]

    def ip(*words: str) -> str:
        return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20).stdout

    ssh = folder / "ssh"
    ssh.write_text(_SSH % prefix)
    ssh.chmod(0o755)
    launcher = [mpiexec(), "-launcher", "ssh", "-launcher-exec", str(ssh), "-hosts", ",".join(addresses)]
    with contextlib.ExitStack() as stack:
        try:
            for space in spaces:
                ip("netns", "add", space)
                stack.callback(ip, "netns", "del", space)
            ip(*f"link add eth0 netns {spaces[0]} type veth peer name eth0 netns {spaces[1]}".split())
            for space, address in zip(spaces, addresses, strict=True):
                ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    ip("-n", space, "link", "set", device, "up")
            until = time.monotonic() + 10
            while not all("state UP" in ip("-n", space, "link", "show", "eth0") for space in spaces):
                assert time.monotonic() < until
                time.sleep(0.1)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces can be made here: {error}")
        tcp = ["env", "UCX_TLS=tcp,self", "UCX_NET_DEVICES=eth0"]
        yield ["ip", "netns", "exec", spaces[0], *tcp, *launcher, "-ppn", "2"]


def program(name: str, *arguments: str) -> list[str]:
    """Return the command that calls a function of rank_programs.py."""
    return [sys.executable, "-P", str(PROGRAMS), name, *arguments]
