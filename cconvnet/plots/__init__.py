"""Pictures of runs: curves, filters, predictions, feature maps, the time of a step.

Only this package needs matplotlib (the extra ``plot``).

Modules in reading order: figures (the style and the writing of all pictures), mosaic (many small images in
one), analysis (predictions, nearest images and feature maps as arrays), then a module for each kind of
picture: curve, ablation, filters, predictions, activations, why, strongest, map, timeline, rank_timeline,
augmentation.
"""

from __future__ import annotations

from cconvnet.plots.ablation import ablation
from cconvnet.plots.activations import activations
from cconvnet.plots.curve import Curves, curve, draw, follow, into_run
from cconvnet.plots.figures import PlotError, check, drawn, figure, save
from cconvnet.plots.filters import filters
from cconvnet.plots.predictions import predictions
from cconvnet.plots.rank_timeline import rank_timeline
from cconvnet.plots.timeline import timeline
from cconvnet.plots.why import why

__all__ = [
    "Curves",
    "PlotError",
    "ablation",
    "activations",
    "check",
    "curve",
    "draw",
    "drawn",
    "figure",
    "filters",
    "follow",
    "into_run",
    "predictions",
    "rank_timeline",
    "save",
    "timeline",
    "why",
]
