"""Elementwise product, which is its own gradient's operation."""

from __future__ import annotations

from cconvnet.operations.operation import ANY, Array, Operation

ELTMUL = Operation(
    "eltmul",
    (),
    (Array("a", ANY, "count"), Array("b", ANY, "count")),
    (Array("y", ANY, "count"),),
    out="y",
    in_place=("a", "b"),
    elementwise=True,
)
