"""Problems by name, of shapes that are hard for kernels.

They are plain or have tails, strides, padding beyond the filter, groups, dilation, or one of everything.
"""

from __future__ import annotations

from typing import Any

from cconvnet._problem import (
    ContrastNormProblem,
    ConvProblem,
    FcProblem,
    LocalProblem,
    LrnProblem,
    PoolProblem,
)


def with_precision(problem: Any, precision: str) -> Any:
    """Return the same product in another precision."""
    if isinstance(problem, FcProblem):
        return FcProblem(problem.n, problem.c, problem.k, precision=precision)
    return type(problem)(
        *(problem.n, problem.h, problem.w, problem.c, problem.k, problem.r, problem.s),
        stride=(problem.stride_h, problem.stride_w),
        padding=(problem.pad_h, problem.pad_w),
        groups=problem.groups,
        precision=precision,
        outputs=(problem.p, problem.q),
        dilation=(problem.dilation_h, problem.dilation_w),
    )


CONV = {
    "plain": ConvProblem(2, 8, 8, 16, 32, 3, 3, padding=(1, 1)),
    "tail": ConvProblem(3, 7, 9, 13, 37, 3, 3, padding=(1, 1)),
    "one_of_each": ConvProblem(1, 1, 1, 1, 1, 1, 1),
    "one_channel": ConvProblem(2, 9, 6, 1, 5, 3, 2),
    "one_filter": ConvProblem(2, 6, 9, 7, 1, 2, 3),
    "strided": ConvProblem(2, 13, 11, 8, 12, 3, 3, stride=(2, 2), padding=(1, 1)),
    "stride_beyond_filter": ConvProblem(2, 10, 13, 5, 6, 2, 2, stride=(3, 4)),
    "stride_of_two_axes": ConvProblem(1, 12, 11, 4, 8, 3, 4, stride=(1, 3), padding=(2, 0)),
    "1x1": ConvProblem(2, 5, 7, 24, 40, 1, 1),
    "1x1_strided": ConvProblem(2, 9, 7, 12, 20, 1, 1, stride=(2, 2)),
    "1x1_padded": ConvProblem(1, 4, 5, 8, 8, 1, 1, padding=(1, 2)),
    "whole_image": ConvProblem(4, 6, 6, 8, 24, 6, 6),
    "padded_beyond_filter": ConvProblem(1, 4, 5, 4, 8, 2, 3, padding=(3, 5)),
    "padded_and_strided": ConvProblem(2, 5, 6, 3, 8, 3, 3, stride=(2, 3), padding=(4, 3)),
    "filter_beyond_image": ConvProblem(1, 2, 3, 8, 4, 5, 5, padding=(2, 2)),
    "one_image": ConvProblem(1, 10, 10, 32, 64, 3, 3, padding=(1, 1)),
    "many_images": ConvProblem(37, 3, 3, 4, 8, 3, 3, padding=(1, 1)),
    "groups": ConvProblem(2, 6, 6, 16, 24, 3, 3, padding=(1, 1), groups=2),
    "groups_tail": ConvProblem(2, 5, 7, 9, 15, 3, 3, padding=(1, 1), groups=3),
    "groups_strided": ConvProblem(1, 9, 9, 8, 12, 5, 5, stride=(2, 2), padding=(2, 2), groups=4),
    "depthwise": ConvProblem(2, 6, 5, 7, 7, 3, 3, padding=(1, 1), groups=7),
    "rectangular": ConvProblem(2, 5, 14, 6, 10, 1, 5, padding=(0, 2)),
    "tall": ConvProblem(1, 17, 3, 4, 8, 7, 1, stride=(2, 1), padding=(3, 0)),
    "ceil": ConvProblem(2, 8, 10, 8, 16, 3, 3, stride=(2, 2), rounding="ceil"),
    "ceil_hangs_over": ConvProblem(1, 20, 20, 3, 16, 11, 11, stride=(4, 4), rounding="ceil"),
    "ceil_groups_padded": ConvProblem(
        2, 7, 8, 8, 8, 3, 4, stride=(3, 3), padding=(1, 1), groups=2, rounding="ceil"
    ),
    "dilated": ConvProblem(2, 11, 10, 8, 12, 3, 3, padding=(2, 2), dilation=(2, 2)),
    "dilated_tail": ConvProblem(3, 9, 12, 7, 13, 3, 2, padding=(3, 1), dilation=(3, 4)),
    # The common divisors of stride and dilation are 2 and 1 here, 3 and 1 below.
    "dilated_strided": ConvProblem(
        2, 13, 12, 4, 8, 3, 4, stride=(4, 3), padding=(3, 2), dilation=(2, 2), rounding="ceil"
    ),
    "dilated_groups": ConvProblem(
        2, 18, 12, 6, 8, 4, 3, stride=(3, 1), padding=(3, 0), groups=2, dilation=(6, 4)
    ),
    "dilated_beyond_image": ConvProblem(1, 4, 3, 8, 8, 3, 3, padding=(5, 4), dilation=(5, 3)),
    # As TensorFlow pads "SAME": what is odd goes below and to the right.
    "padded_below": ConvProblem(2, 8, 7, 8, 12, 3, 4, stride=(2, 1), padding=((0, 1), (1, 2))),
    "padded_above": ConvProblem(2, 7, 6, 5, 9, 3, 3, padding=((2, 0), (1, 0)), groups=1),
    "padded_far_below": ConvProblem(1, 4, 5, 4, 8, 2, 3, stride=(1, 2), padding=((0, 4), (1, 5))),
    "fewer_outputs": ConvProblem(2, 9, 10, 4, 8, 3, 3, padding=(1, 1), outputs=(4, 6)),
    "more_outputs": ConvProblem(2, 6, 5, 6, 8, 3, 2, stride=(2, 2), groups=2, outputs=(4, 3)),
    "unequal_and_dilated": ConvProblem(
        2, 9, 10, 6, 10, 3, 3, stride=(2, 1), padding=((1, 3), (0, 2)), groups=2, dilation=(1, 2)
    ),
    "rgb": ConvProblem(2, 16, 16, 3, 32, 5, 5, padding=(2, 2)),
    "rgb_padded_below": ConvProblem(2, 15, 14, 3, 32, 5, 5, stride=(2, 2), padding=((1, 2), (0, 3))),
    "rgb_dilated": ConvProblem(2, 14, 13, 3, 32, 3, 3, padding=((2, 3), (2, 1)), dilation=(2, 2)),
    "rgb_groups": ConvProblem(
        2, 9, 19, 9, 24, 4, 3, stride=(2, 3), padding=(1, 2), groups=3, dilation=(1, 2)
    ),
    "rgb_strided": ConvProblem(1, 29, 42, 3, 72, 7, 7, stride=(2, 2), padding=(3, 3)),
    # 18 patches of 8 x 16 output pixels, and a filter whose words end behind its rows.
    "rgb_patches": ConvProblem(2, 20, 35, 3, 40, 3, 3, padding=(1, 1)),
    "wide_k": ConvProblem(1, 3, 4, 8, 150, 3, 3, padding=(1, 1)),
    "wide_c": ConvProblem(1, 3, 4, 150, 8, 3, 3, padding=(1, 1)),
}

# Each channel has a filter of its own. What is known of windows is their width, stride and dilation along a
# row: 3 or 5 wide, in steps of 1 or 2, undilated.
DEPTHWISE = {
    "3x3": ConvProblem(2, 9, 10, 16, 16, 3, 3, padding=(1, 1), groups=16),
    "3x3_strided": ConvProblem(2, 9, 11, 24, 24, 3, 3, stride=(2, 2), padding=(1, 1), groups=24),
    "3x3_strided_below": ConvProblem(1, 8, 6, 8, 8, 3, 3, stride=(2, 2), padding=((0, 1), (0, 1)), groups=8),
    "5x5": ConvProblem(2, 7, 9, 8, 8, 5, 5, padding=(2, 2), groups=8),
    "5x5_strided": ConvProblem(1, 11, 10, 16, 16, 5, 5, stride=(2, 2), padding=(2, 2), groups=16),
    "5x5_strided_below": ConvProblem(2, 8, 10, 8, 8, 5, 5, stride=(2, 2), padding=((1, 2), (1, 2)), groups=8),
    "2x3_dilated_down": ConvProblem(
        1, 12, 7, 8, 8, 2, 3, stride=(3, 1), padding=(3, 0), groups=8, dilation=(2, 1)
    ),
    "7x7": ConvProblem(1, 9, 8, 8, 8, 7, 7, padding=(3, 3), groups=8),
    "1x1": ConvProblem(2, 4, 5, 8, 8, 1, 1, groups=8),
    "dilated": ConvProblem(2, 9, 8, 16, 16, 3, 3, padding=(2, 2), groups=16, dilation=(2, 2)),
    "dilated_strided": ConvProblem(
        2, 13, 12, 8, 8, 3, 4, stride=(4, 3), padding=(3, 2), groups=8, dilation=(2, 2)
    ),
    "two_shares_of_channels": ConvProblem(1, 4, 5, 136, 136, 3, 3, padding=(1, 1), groups=136),
    # In wgrad a block has no room for the 17 rows of a filter.
    "17x3": ConvProblem(1, 19, 4, 128, 128, 17, 3, padding=(8, 1), groups=128),
    "many_rows": ConvProblem(15, 8, 5, 8, 8, 3, 3, padding=(1, 1), groups=8),
    "scalar": ConvProblem(3, 7, 9, 13, 13, 3, 3, padding=(1, 1), groups=13),
    "scalar_strided": ConvProblem(2, 9, 8, 5, 5, 2, 5, stride=(1, 2), padding=(0, 1), groups=5),
    "scalar_dilated": ConvProblem(2, 9, 8, 70, 70, 2, 3, padding=(1, 2), groups=70, dilation=(3, 2)),
    "fewer_outputs": ConvProblem(1, 9, 10, 8, 8, 3, 3, padding=(1, 1), groups=8, outputs=(4, 6)),
    "padded_beyond_filter": ConvProblem(1, 4, 5, 8, 8, 3, 3, padding=(4, 6), groups=8),
}

# Convolutions that are hard for the tiles of warp groups, most of which want whole lines of 64 channels.
WARP_GROUPS = {
    # Rows, columns and pixels beyond the last of a tile.
    "padded": ConvProblem(2, 8, 9, 64, 64, 3, 3, padding=(1, 1)),
    "strided": ConvProblem(12, 11, 9, 64, 64, 3, 3, stride=(2, 3), padding=(1, 2)),
    "dilated": ConvProblem(2, 10, 9, 64, 64, 3, 2, padding=(2, 1), dilation=(2, 3)),
    "wide": ConvProblem(1, 5, 6, 320, 320, 1, 1),
    "1x1": ConvProblem(5, 1, 1, 128, 192, 1, 1),
    "groups_of_64": ConvProblem(1, 6, 7, 128, 128, 2, 3, padding=(1, 1), groups=2),
    # Sums end within a step, and within a stage.
    "groups_of_48": ConvProblem(1, 7, 8, 96, 96, 3, 3, padding=(1, 1), groups=2),
    "groups_of_16": ConvProblem(2, 6, 5, 64, 64, 3, 1, padding=(1, 0), groups=4),
    # Several slabs of channels for the taps that share pixels, and a tile that begins within an image.
    "slabs": ConvProblem(3, 9, 8, 192, 72, 3, 3, padding=(1, 1)),
    "slabs_back": ConvProblem(3, 9, 8, 72, 192, 3, 3, padding=(1, 1)),
    # As a first layer over blocks: the last windows read zeros behind the image.
    "padded_behind": ConvProblem(2, 8, 7, 48, 96, 3, 3, outputs=(7, 6)),
    "odd_filters": ConvProblem(1, 5, 6, 64, 67, 3, 3, padding=(1, 1)),
    "groups_of_48_back": ConvProblem(1, 7, 8, 96, 128, 5, 5, padding=(2, 2), groups=2),
    # Taps behind the last would be further away than the copy engine can say.
    "dilated_far": ConvProblem(1, 120, 2, 16, 16, 2, 1, dilation=(100, 1)),
    # Eight tiles and more of two steps.
    "many_tiles": ConvProblem(4, 16, 17, 64, 136, 2, 1),
    "many_tiles_back": ConvProblem(4, 16, 17, 136, 64, 2, 1),
    "split": ConvProblem(3, 1, 1, 1024, 128, 1, 1),
    "split_back": ConvProblem(3, 1, 1, 128, 1024, 1, 1),
    "split_pixels": ConvProblem(4, 13, 13, 64, 64, 1, 1),
}  # fmt: skip

LOCAL = {
    "plain": LocalProblem(5, 6, 6, 8, 12, 3, 3, padding=(1, 1)),
    "tail": LocalProblem(3, 4, 5, 7, 37, 3, 3, padding=(1, 1)),
    "one_of_each": LocalProblem(1, 1, 1, 1, 1, 1, 1),
    "one_channel": LocalProblem(2, 7, 5, 1, 5, 3, 2),
    "one_image": LocalProblem(1, 5, 5, 16, 8, 3, 3, padding=(1, 1)),
    "many_images": LocalProblem(70, 3, 3, 4, 36, 3, 3, padding=(1, 1)),
    "wide": LocalProblem(34, 2, 3, 36, 40, 2, 2),
    "strided": LocalProblem(2, 9, 8, 4, 8, 3, 3, stride=(2, 2), padding=(1, 1)),
    "stride_beyond_filter": LocalProblem(2, 10, 9, 5, 6, 2, 2, stride=(3, 4)),
    "stride_of_two_axes": LocalProblem(1, 9, 7, 4, 8, 3, 4, stride=(1, 3), padding=(2, 0)),
    "1x1": LocalProblem(6, 3, 4, 12, 20, 1, 1),
    "whole_image": LocalProblem(4, 4, 4, 8, 24, 4, 4),
    "padded_beyond_filter": LocalProblem(1, 3, 4, 4, 8, 2, 3, padding=(3, 5)),
    "filter_beyond_image": LocalProblem(2, 2, 3, 8, 4, 5, 5, padding=(2, 2)),
    "groups": LocalProblem(3, 4, 4, 16, 24, 3, 3, padding=(1, 1), groups=2),
    "groups_tail": LocalProblem(2, 4, 3, 9, 15, 3, 3, padding=(1, 1), groups=3),
    "depthwise": LocalProblem(2, 4, 3, 5, 5, 3, 3, padding=(1, 1), groups=5),
    "padded_below": LocalProblem(2, 6, 5, 4, 8, 3, 2, stride=(2, 1), padding=((0, 2), (1, 0))),
    "more_outputs": LocalProblem(2, 4, 5, 6, 8, 3, 3, padding=(1, 0), groups=2, outputs=(5, 4)),
    "ceil_hangs_over": LocalProblem(2, 7, 8, 8, 8, 3, 4, stride=(3, 3), groups=2, rounding="ceil"),
    # So much to sum that it is split: 9 taps of 64 channels forward, of 64 filters backward.
    "long_sum": LocalProblem(4, 3, 3, 64, 64, 3, 3, padding=(1, 1)),
    "long_batch": LocalProblem(520, 2, 2, 4, 4, 2, 1),
}

FC = {
    "plain": FcProblem(16, 64, 32),
    "tail": FcProblem(7, 37, 13),
    "one_image": FcProblem(1, 96, 40),
    "one_of_each": FcProblem(1, 1, 1),
    "one_output": FcProblem(9, 50, 1),
    "one_input": FcProblem(5, 1, 21),
    "many_images": FcProblem(150, 12, 10),
    "long_sum": FcProblem(2, 3001, 3),
    "beyond_a_tile": FcProblem(130, 70, 131),
}

# FC layers that are hard for the tiles of warp groups.
FC_WARP_GROUPS = {
    # Several tiles, steps and parts of weights for each block; boxes that end in zeros, whatever they are of.
    "boxes": FcProblem(130, 264, 136),
    "part_of_a_box": FcProblem(7, 8, 24),
    "one_image": FcProblem(1, 72, 40),
    # Two tiles, of four splits and of three, with rows for each block of a cluster.
    "split": FcProblem(40, 1024, 136),
    "split_back": FcProblem(37, 136, 1000),
    "split_batch": FcProblem(776, 16, 64),
}

POOL = {
    "plain": PoolProblem(2, 8, 8, 16),
    "overlapping": PoolProblem(2, 9, 11, 5, window=(3, 3), stride=(2, 2)),
    "tail": PoolProblem(3, 7, 5, 13, window=(2, 2), stride=(2, 2)),
    "ceil": PoolProblem(2, 8, 10, 6, window=(3, 3), stride=(2, 2), rounding="ceil"),
    "padded": PoolProblem(1, 6, 7, 4, window=(3, 3), stride=(2, 2), padding=(1, 1)),
    "ceil_padded": PoolProblem(2, 7, 8, 3, window=(4, 3), stride=(3, 2), padding=(2, 1), rounding="ceil"),
    "gaps": PoolProblem(2, 11, 9, 4, window=(2, 2), stride=(3, 4)),
    "stride_1": PoolProblem(1, 6, 6, 8, window=(3, 3), stride=(1, 1), padding=(1, 1)),
    "whole_image": PoolProblem(3, 4, 4, 9, window=(4, 4), stride=(1, 1)),
    "window_beyond_image": PoolProblem(1, 2, 3, 4, window=(4, 4), stride=(1, 1), padding=(2, 2)),
    "rectangular": PoolProblem(2, 5, 12, 4, window=(1, 4), stride=(1, 3)),
    "begins_inside": PoolProblem(2, 9, 10, 5, window=(3, 3), stride=(2, 2), padding=(-1, -2)),
    "begins_inside_gaps": PoolProblem(1, 12, 13, 8, window=(2, 3), stride=(3, 4), padding=(-2, -1)),
    "begins_at_the_last_pixel": PoolProblem(2, 3, 4, 4, padding=(-2, -3), outputs=(1, 1)),
    "fewer_windows": PoolProblem(2, 9, 11, 12, window=(3, 3), stride=(2, 2), outputs=(3, 2)),
    "more_windows": PoolProblem(2, 6, 7, 3, window=(3, 3), stride=(2, 2), padding=(1, 0), outputs=(4, 4)),
    "some_of_the_windows": PoolProblem(1, 11, 8, 6, window=(4, 2), padding=(-3, 1), outputs=(2, 3)),
    "padded_below": PoolProblem(2, 8, 7, 5, window=(3, 2), stride=(2, 1), padding=((0, 1), (0, 1))),
    "padded_above": PoolProblem(1, 7, 8, 8, window=(3, 3), stride=(2, 2), padding=((2, 0), (1, 0))),
    "count_padding": PoolProblem(2, 7, 8, 5, padding=(1, 1), count_padding=True),
    # The last windows hang over the padding, which they do not count.
    "count_padding_ceil": PoolProblem(
        2, 7, 8, 12, (4, 3), (3, 3), padding=(2, 1), rounding="ceil", count_padding=True
    ),
    "count_padding_below": PoolProblem(
        1, 6, 7, 8, (4, 5), (3, 2), padding=((0, 2), (1, 3)), count_padding=True
    ),
    "count_padding_of_some": PoolProblem(
        2, 9, 8, 4, padding=((2, 1), (0, 2)), outputs=(4, 4), count_padding=True
    ),
    "1x1": PoolProblem(2, 3, 4, 5, window=(1, 1), stride=(1, 1)),
    "one_of_each": PoolProblem(1, 1, 1, 1, window=(1, 1), stride=(1, 1)),
}

LRN = {
    "paper": LrnProblem(2, 5, 5, 32, alpha=1e-4, k=2.0),
    "strong": LrnProblem(2, 4, 5, 24, alpha=0.2, k=1.0),
    "towers": LrnProblem(1, 5, 4, 24, alpha=0.1, groups=2),
    "tail": LrnProblem(3, 3, 5, 13, size=3, alpha=0.3, beta=0.5),
    "even_window": LrnProblem(2, 3, 3, 17, size=4, alpha=0.2),
    "window_beyond_group": LrnProblem(2, 3, 4, 12, size=9, alpha=0.1, groups=4),
    "one_channel_window": LrnProblem(1, 4, 4, 8, size=1, alpha=0.5, beta=1.0),
    "other_beta": LrnProblem(1, 4, 4, 8, alpha=0.3, beta=0.6, k=1.5),
    "one_of_each": LrnProblem(1, 1, 1, 1, alpha=0.5),
    "same_map": LrnProblem(2, 7, 8, 6, alpha=0.05, region="same_map"),
    "same_map_3_vectors": LrnProblem(2, 7, 5, 12, size=3, alpha=0.05, region="same_map"),
    "same_map_5_vectors": LrnProblem(1, 19, 3, 8, size=5, alpha=0.05, region="same_map"),
    "same_map_even": LrnProblem(1, 6, 5, 5, size=4, alpha=0.1, region="same_map"),
    "same_map_beyond_image": LrnProblem(2, 3, 4, 7, size=9, alpha=0.1, region="same_map"),
}

LRN_POOL = {
    "alexnet": (
        LrnProblem(2, 9, 9, 32, groups=2, alpha=2e-5, k=2.0),
        PoolProblem(2, 9, 9, 32, rounding="ceil"),
    ),
    "strong": (LrnProblem(2, 8, 7, 24, alpha=0.2), PoolProblem(2, 8, 7, 24, (2, 2), (2, 2))),
    "overlapping": (LrnProblem(1, 7, 9, 16, alpha=0.1), PoolProblem(1, 7, 9, 16, (3, 3), (1, 1), (1, 1))),
    "tail": (LrnProblem(3, 6, 5, 13, size=3, alpha=0.3, beta=0.5), PoolProblem(3, 6, 5, 13)),
    "even_window": (LrnProblem(2, 5, 5, 17, size=4, alpha=0.2), PoolProblem(2, 5, 5, 17, rounding="ceil")),
    "window_beyond_group": (
        LrnProblem(2, 5, 6, 12, size=9, alpha=0.1, groups=4),
        PoolProblem(2, 5, 6, 12, (4, 2), (2, 1), (1, 0)),
    ),
    "other_beta": (LrnProblem(1, 6, 6, 8, alpha=0.3, beta=0.6, k=1.5), PoolProblem(1, 6, 6, 8)),
    "gaps": (LrnProblem(2, 9, 8, 20, alpha=0.1), PoolProblem(2, 9, 8, 20, (2, 2), (3, 3))),
    "begins_inside": (LrnProblem(1, 9, 10, 8, alpha=0.1), PoolProblem(1, 9, 10, 8, padding=(-1, -2))),
    "wide": (LrnProblem(1, 4, 4, 600, alpha=0.1), PoolProblem(1, 4, 4, 600)),
    "huge_window": (LrnProblem(1, 41, 40, 8, alpha=0.1), PoolProblem(1, 41, 40, 8, (40, 40), (1, 1))),
    # Blocks share the rows, the columns and the channels, and none of them equally, in either type.
    "shared": (
        LrnProblem(1, 9, 63, 136, alpha=0.1),
        PoolProblem(1, 9, 63, 136, (3, 5), padding=(1, 1)),
    ),
    "one_of_each": (LrnProblem(1, 1, 1, 1, alpha=0.5), PoolProblem(1, 1, 1, 1, (1, 1), (1, 1))),
}

CONTRAST_NORM = {
    "plain": ContrastNormProblem(2, 7, 8, 6, alpha=0.05),
    "weak": ContrastNormProblem(2, 6, 6, 16, alpha=1e-4, k=2.0),
    "strong": ContrastNormProblem(2, 5, 6, 8, size=3, alpha=0.5),
    "even_window": ContrastNormProblem(1, 6, 5, 5, size=4, alpha=0.1),
    "other_beta": ContrastNormProblem(1, 5, 5, 4, alpha=0.3, beta=0.6, k=1.5),
    "window_beyond_image": ContrastNormProblem(2, 3, 4, 7, size=9, alpha=0.1),
    "window_of_one": ContrastNormProblem(1, 4, 4, 8, size=1, alpha=0.5),
    "one_of_each": ContrastNormProblem(1, 1, 1, 1, alpha=0.5),
}
