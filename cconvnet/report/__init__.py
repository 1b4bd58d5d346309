"""A run on one page: results, curves, filters, predictions, feature maps, settings, log, environment.

The page is a single HTML file that loads and runs nothing, and forbids its reader to do either. What
cannot be made, because matplotlib or the data is not there or the run has not come so far, says so in place.
"""

from __future__ import annotations

from cconvnet.report.page import write
from cconvnet.report.words import duration

__all__ = ["duration", "write"]
