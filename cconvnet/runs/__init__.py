"""A run: the folder that holds all of one training.

config.json       settings, network and device, and what software and machine it was begun with
data.json         the data: what was found, used, left out and why; the pictures found unreadable
log.jsonl         a line per logged step and one per epoch
checkpoints/      the last two checkpoints and the best one; in set-aside-N/ what training went back before
summary.json      the results, written when training stops
state.json        whether it trains, or how that ended
lock              empty; whoever trains in the folder holds it
tensorboard/      the log for TensorBoard, with --tensorboard
curve.png         the training curve, where matplotlib is installed
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
