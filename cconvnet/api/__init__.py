"""Training from Python: ``cconvnet.train``, the runs that it returns, and runs from the disk.

    >>> import cconvnet as cc
    >>> run = cc.train("lenet", (x, y), test=0.1, epochs=5)
    >>> run.evaluate().error_top1, run.predict(x[0])
    >>> run = cc.load("runs/lenet-arrays-20260101-120000").train(epochs=10)

Everything here is also in ``cconvnet`` itself. What it does is that of the commands: the same folder, log and
checkpoints, and the same bits.

Modules in reading order: training (the functions), run (what they return), session (one training, with its
progress), predictions (classes of single images), pictures (drawings that notebooks show), conversion
(keywords as options), keywords (their types).
"""

from __future__ import annotations

from cconvnet.api.keywords import TrainingKeywords
from cconvnet.api.pictures import Picture
from cconvnet.api.predictions import Prediction, Predictions, Segmentation
from cconvnet.api.run import Log, Run
from cconvnet.api.training import load, train

__all__ = [
    "Log",
    "Picture",
    "Prediction",
    "Predictions",
    "Run",
    "Segmentation",
    "TrainingKeywords",
    "load",
    "train",
]
