"""Tools of tests and benchmarks, of which only ``reference`` is used at run time.

The modules, in the order of reading:

    reference: every operation in float64 NumPy.
    problems, random_problems, networks: problems by name, at random, and of real networks.
    inputs: random inputs of every operation.
    buffers: arrays between guard bands.
    compare: exact comparisons and bounds of errors.
    apart: fused operations computed by the separate ones.
    check: the test of one operation on one problem.
"""

from __future__ import annotations
