"""Images with room for windows that extend beyond them, as other libraries need them."""

from __future__ import annotations

from cconvnet._problem import ConvProblem


def covering_image(problem: ConvProblem) -> tuple[int, int, int, int]:
    """Return the shape [N,H,W,C] of x and dx with enough rows and columns of zeros for every window.

    Where sizes are rounded up, the last window can extend beyond the image's end. Others pad both ends alike
    (most of cuDNN's plans, all of PyTorch's convolutions), so the image itself gets those rows and columns.
    """
    needed = (
        (problem.p - 1) * problem.stride_h + (problem.r - 1) * problem.dilation_h + 1 - 2 * problem.pad_h,
        (problem.q - 1) * problem.stride_w + (problem.s - 1) * problem.dilation_w + 1 - 2 * problem.pad_w,
    )
    return problem.n, max(problem.h, needed[0]), max(problem.w, needed[1]), problem.c
