"""Pictures of runs, each kind in a file of its own: curve, filters, ...

They need matplotlib (the extra ``plot``), which nothing else does.
"""

from __future__ import annotations

from cconvnet.plots.curve import curve
from cconvnet.plots.figures import PlotError, check, figure, save
from cconvnet.plots.filters import filters

__all__ = ["PlotError", "check", "curve", "figure", "filters", "save"]
