"""Pictures of runs, each kind in a file of its own: curve, filters, predictions, activations, ...

They need matplotlib (the extra ``plot``), which nothing else does.
"""

from __future__ import annotations

from cconvnet.plots.activations import activations
from cconvnet.plots.curve import Curves, curve, draw, follow
from cconvnet.plots.figures import PlotError, check, drawn, figure, save
from cconvnet.plots.filters import filters
from cconvnet.plots.predictions import predictions
from cconvnet.plots.timeline import timeline

__all__ = [
    "Curves",
    "PlotError",
    "activations",
    "check",
    "curve",
    "draw",
    "drawn",
    "figure",
    "filters",
    "follow",
    "predictions",
    "save",
    "timeline",
]
