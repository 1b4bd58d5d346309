"""Problems of layers whose filters slide over images: convolutions and locally connected layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cconvnet.checks import whole
from cconvnet.ops.arguments import Padding, Pair, optional_pair, padding_pairs, pair_of, text


def window_problem(
    kind: Callable[..., Any], x_shape: Sequence[int], krs: Sequence[int], precision: str,
    stride: Pair, padding: Padding, groups: int, rounding: str, outputs: Pair | None, dilation: Pair = 1,
) -> Any:  # fmt: skip
    """Check the numbers of a layer and return its problem.

    Args:
        kind: ConvProblem or LocalProblem.
        x_shape: The shape of the images, [N,H,W,C].
        krs: How many filters there are, and their height and width.
        precision: The precision of the products.
        stride: See conv_fprop.
        padding: See conv_fprop.
        groups: See conv_fprop.
        rounding: See conv_fprop.
        outputs: See conv_fprop.
        dilation: See conv_fprop.
    """
    return kind(
        *x_shape, *krs, stride=pair_of("stride", stride), padding=padding_pairs(padding),
        groups=whole("groups", groups, 1), rounding=text("rounding", rounding), precision=precision,
        outputs=optional_pair("outputs", outputs), dilation=pair_of("dilation", dilation),
    )  # fmt: skip
