"""A run's log as a table, for spreadsheets and other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cconvnet.errors import nearest
from cconvnet.runs.rank_waits import OF_RANKS, by_rank
from cconvnet.runs.reading import read_config, read_log

# The lines of a log, by the value that only they have, and their columns in order.
_KINDS = {
    "epochs": (
        "test_loss",
        (
            "epoch",
            "step",
            "train_loss",
            "train_error_top1",
            "test_loss",
            "test_error_top1",
            "test_error_top5",
            "lr",
            "images_per_second",
            "test_seconds",
        ),
    ),
    "steps": (
        "loss",
        (
            "step",
            "epoch",
            "loss",
            "train_error_top1",
            "lr",
            "images_per_second",
            "copied_bytes",
            "copy_seconds",
        ),
    ),
    "checkpoints": ("checkpoint", ("step", "epoch", "checkpoint", "bytes", "stall_seconds", "write_seconds")),
}
KINDS = tuple(_KINDS)


def log_table(run: Path, kind: str = "epochs") -> tuple[list[str], list[list[Any]]]:
    """Return the columns and the rows of a part of a run's log.

    Columns of ``epochs``, a row for each:

    - ``epoch``, ``step``: the epochs and the steps done.
    - ``train_loss``, ``train_error_top1``: the mean over the epoch's steps, while the weights changed.
    - ``test_loss``, ``test_error_top1``, ``test_error_top5``: those of the test after it.
    - ``lr``: the general learning rate of the last logged step.
    - ``images_per_second``: the speed of the epoch's steps, without the test and checkpoints.
    - ``test_seconds``: the time of the test.

    Columns of ``steps``, a row for each window of steps: ``step`` and ``epoch`` at its end, ``loss`` and
    ``train_error_top1`` as means over it, ``lr``, ``images_per_second``, and ``copied_bytes`` and
    ``copy_seconds`` for copies between devices. A parameter with a rate of its own has a column ``lr.NAME``,
    a cost that runs in training only a column ``loss.NAME``. Of a run of several ranks, ``ranks``,
    ``slowest_rank``, and ``wait_seconds.N``, ``sent_bytes.N`` and ``sent_bytes_per_second.N`` of each.

    Columns of ``checkpoints``, a row for each that was written: ``step``, ``epoch``, ``checkpoint`` (the
    file), ``bytes``, ``stall_seconds`` (for which training paused), ``write_seconds`` (in the background).

    Errors are shares from 0 to 1. A value that the log lacks is None.

    Args:
        run: The run's folder.
        kind: One of KINDS.

    Raises:
        RunError: The folder contains no run.
        ValueError: There is no such kind.
    """
    if kind not in _KINDS:
        raise ValueError(nearest("--of", kind, KINDS))
    read_config(run)
    mark, columns = _KINDS[kind]
    found = []
    lr = None
    for line in read_log(run):
        lr = line.get("lr", lr)
        if mark in line:
            other = {f"loss.{name}": loss for name, loss in line.pop("head_losses", {}).items()}
            other |= {f"lr.{name}": rate for name, rate in line.pop("lr_other", {}).items()}
            other |= by_rank(line)
            line = {name: value for name, value in line.items() if name not in OF_RANKS}
            found.append({"lr": lr, **line, **other} if "lr" in columns else line)
    names = list(dict.fromkeys([*columns, *(name for line in found for name in line)]))
    return names, [[line.get(name) for name in names] for line in found]
