"""What tests and benchmarks share: the oracle, named problems, and how results are compared."""

from __future__ import annotations
