"""The layers of a network as a table: shapes, parameters and multiply-adds."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cconvnet.nets.shapes import Shape, multiply_adds, parameters, shapes

if TYPE_CHECKING:
    from cconvnet.nets.recipe import NetSpec


@dataclass(frozen=True)
class TableRow:
    """One layer.

    Attributes:
        name: of the layer.
        type: of its spec.
        inputs: the layers it reads.
        shape: (H, W, C) of its output for one image.
        parameters: how many weights and biases it learns.
        multiply_adds: how many products it adds up for one image; 0 of layers without weights.
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    shape: Shape
    parameters: int
    multiply_adds: int


@dataclass(frozen=True, repr=False)
class NetTable:
    """The layers of a network, printed as a table with a row each and a last row with the sums.

        >>> net.table().parameters
        60965224

    Attributes:
        name: of the network.
        rows: one for each layer, in order.
    """

    name: str
    rows: tuple[TableRow, ...]

    @property
    def parameters(self) -> int:
        """The number of weights and biases of all layers."""
        return sum(row.parameters for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        """The number of products that all layers add up for one image."""
        return sum(row.multiply_adds for row in self.rows)

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and the rows as texts, the sums last."""
        header = ["layer", "type", "inputs", "output", "parameters", "multiply-adds"]
        cells = [
            [
                row.name,
                row.type,
                ", ".join(row.inputs),
                "x".join(map(str, row.shape)),
                number(row.parameters),
                number(row.multiply_adds),
            ]
            for row in self.rows
        ]
        sums = [self.name, "", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}"]
        return header, [*cells, sums]

    def __str__(self) -> str:
        header, rows = self.cells()
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        aligned = [str.ljust] * 3 + [str.rjust] * 3

        def line(cells: Sequence[str]) -> str:
            parts = zip(aligned, cells, widths, strict=True)
            return "  ".join(align(cell, width) for align, cell, width in parts).rstrip()

        rule = "  ".join("-" * width for width in widths)
        return "\n".join([line(header), rule, *map(line, rows[:-1]), rule, line(rows[-1])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        header, rows = self.cells()

        def line(tag: str, cells: Sequence[str]) -> str:
            sides = ["left"] * 3 + ["right"] * 3
            made = (
                f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
                for side, cell in zip(sides, cells, strict=True)
            )
            return f"<tr>{''.join(made)}</tr>"

        body = "".join(line("td", row) for row in rows[:-1])
        head, foot = line("th", header), line("th", rows[-1])
        return f"<table><thead>{head}</thead><tbody>{body}</tbody><tfoot>{foot}</tfoot></table>"


def number(value: int) -> str:
    """Return a number with commas; nothing for 0."""
    return f"{value:,}" if value else ""


def table_of(spec: NetSpec) -> NetTable:
    """Return the table of a network; see :meth:`NetSpec.table`."""
    found = shapes(spec)
    learned, work = parameters(spec, found), multiply_adds(spec, found)
    rows = (
        TableRow(
            layer.name,
            layer.type,
            layer.inputs,
            found[layer.name],
            learned.get(layer.name, 0),
            work.get(layer.name, 0),
        )
        for layer in spec.layers
    )
    return NetTable(spec.name, tuple(rows))
