"""The commands that look at whole runs: ``cconvnet runs``, ``compare`` and ``report``."""

from __future__ import annotations
