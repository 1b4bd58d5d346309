"""A run: the folder that contains all of one training.

config.json       settings, network and device, and the software and machine of its beginning
data.json         the data: images found, used, and left out with reasons; unreadable images
log.jsonl         a line per window of steps, one per epoch and one per checkpoint
checkpoints/      the last two checkpoints and the best one; set-aside-N/ has those after a step resumed from
summary.json      the results, written when training stops
state.json        "training", or how it ended
lock              empty; the process that trains in the folder holds it
tensorboard/      the log for TensorBoard, with --tensorboard
run.toml          the options, by which `cconvnet train --config` repeats the run
arrays.npz        the images, if a Python program gave few enough of them
curve.png         the training curve, if matplotlib is installed
report.html       the report, and timeline.svg or .png, if they were made

`cconvnet.runs.pruning` removes no other files.

Modules in reading order: checkpoint (one file, and those of a folder), reading (configuration, log and
checkpoints of a run), folder (a run in training), data_record (``data.json``), history (the log as columns),
log_table (the log for spreadsheets), rank_waits (waiting of ranks for each other), overview (a run in a
line), comparison (differences between runs), ablation (runs of a network without one part), pruning (removal
of what is no longer needed), tensorboard (event files).
"""

from __future__ import annotations

from cconvnet.errors import CheckpointError
from cconvnet.runs.checkpoint import Checkpoint, Folder
from cconvnet.runs.folder import Listener, Run, check_new, in_use, new_folder
from cconvnet.runs.reading import (
    MACHINE,
    RunError,
    arithmetic,
    data_name,
    find_checkpoint,
    folder_of,
    read_config,
    read_log,
    surroundings,
    unfinished,
)

__all__ = [
    "MACHINE",
    "Checkpoint",
    "CheckpointError",
    "Folder",
    "Listener",
    "Run",
    "RunError",
    "arithmetic",
    "check_new",
    "data_name",
    "find_checkpoint",
    "folder_of",
    "in_use",
    "new_folder",
    "read_config",
    "read_log",
    "surroundings",
    "unfinished",
]
