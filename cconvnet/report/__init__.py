"""Report of a run on one HTML page: curves, mistakes, predictions, filters, feature maps, settings, log.

The page is a single file. It loads and runs nothing, and its content security policy forbids both. A section
that cannot be made contains the reason instead, such as missing data or matplotlib.

Modules in reading order: page (the head and the order of sections), results, pictures and tables (the
sections), opened (the network and data they share), words (numbers and times), markup (HTML without
injection).
"""

from __future__ import annotations

from cconvnet.report.page import write
from cconvnet.report.words import duration

__all__ = ["duration", "write"]
