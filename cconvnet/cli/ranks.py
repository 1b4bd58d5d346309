"""Commands in several processes: which ones may, and how the failure of one process ends all."""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from cconvnet.cli.errors import explain
from cconvnet.console import silence
from cconvnet.ranks import Launch, RanksError

# Commands that ranks run together: the first word, and what must be among the others.
TOGETHER: tuple[tuple[str, ...], ...] = (
    ("train",),
    ("doctor", "--ranks"),
    ("bench", "exchange"),
    ("bench", "scaling", "--ranks"),
    ("plot", "timeline"),
)


def run_as_rank(launch: Launch, run: Callable[[Callable[[Exception], int]], int]) -> int:
    """Run the command line in one of several processes.

    A failure ends all ranks. Each rank prints its own, but of failures at the same time only that of rank 0.
    A failure on which all ranks have agreed is printed once, and they end together.

    Args:
        launch: How this process was started.
        run: Runs the command and returns its exit code. It calls its argument with an exception for the code.

    Returns:
        The exit code.
    """
    try:
        launch.check()
        _check_command(launch, sys.argv[1:])
    except RanksError as error:
        return explain(error) if launch.rank == 0 else 2
    if launch.rank != 0:
        silence(sys.stdout)
        warnings.showwarning = lambda message, *_: print(
            f"rank {launch.rank}: warning: {message}", file=sys.stderr
        )
    from cconvnet.ranks.world import LEFT, exit_of, join, joined

    said, together = io.StringIO(), False

    def explain_later(error: Exception) -> int:
        nonlocal together
        from cconvnet.training.stopping import StoppedTogether

        together = isinstance(error, StoppedTogether)
        with contextlib.redirect_stderr(said):
            try:
                return explain(error)
            except Exception:
                traceback.print_exc()
                return 1

    try:
        code, text = run(explain_later), said.getvalue()
    except SystemExit as ending:
        code, text = exit_of(ending)
    if code == 0 and joined() is None:
        return 0  # a command that only printed its help, for example
    try:
        world = join()  # a failure before the others joined must wait for them to end them
    except RanksError:
        if launch.rank == 0:
            sys.stderr.write(text)
        return code
    if together:
        text = text if world.first else ""
        world.close()
    if not world.closed:
        world.fail(code or 1, text or LEFT * (code == 0))
    sys.stderr.write(text)
    return code


def _check_command(launch: Launch, arguments: Sequence[str]) -> None:
    command = next((word for word in arguments if not word.startswith("-")), "")
    if not any(command == name and set(words) <= set(arguments) for name, *words in TOGETHER):
        allowed = ", ".join(" ".join(["cconvnet", *words]) for words in TOGETHER)
        raise RanksError(f"{launch.started}, but only these commands may run in several: {allowed}")
