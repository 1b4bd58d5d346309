"""Batches of crops of images, and filters for images cut into blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cconvnet._problem import FilterBlocksProblem, InputProblem
from cconvnet.checks import real, whole
from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call, Pair, four_extents, pair_of


def input_transform(
    images: Array, size: Pair, *, top: Array, left: Array, mirror: Array, mean: Array | None = None,
    shift: Array | None = None, scale: float = 1.0, center_mean: bool = False, block: int = 1, pad: int = 0,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """A float batch ``y[N,P,Q,C]`` of crops of uint8 images[N,H,W,C]: scale * (pixel - mean + shift).

    `size` is (P, Q); `top` and `left` (int32[N]) place each crop, clamped to the image; `mirror` (uint8[N])
    flips it from left to right where not 0; `mean` is float32[H,W,C], taken at the pixel's place in the whole
    image, or with `center_mean` at the output's place in the centre crop; `shift` is float32[N,C], a colour
    shift per image. An `out` of bfloat16 receives the batch rounded.

    With `block` above 1 the crop, in a border of `pad` zeros and as many more at the bottom and right as make
    its sides multiples of `block`, is cut into squares: y is [N, P', Q', block*block*C], one pixel for each.
    """
    call = Call(device, images=images, top=top, left=left, mirror=mirror, mean=mean, shift=shift)
    images = call.get("images", "N,H,W,C", np.uint8)
    n, h, w, c = images.shape
    p, q = pair_of("size", size)
    if p > h or q > w:
        raise ValueError(f"size must be at most that of the images, ({h}, {w}), not ({p}, {q})")
    cut = {"block": whole("block", block, 1), "pad": whole("pad", pad)}
    problem = InputProblem(n, h, w, c, p, q, bool(center_mean), **cut)
    top, left = call.shaped("top", (n,), np.int32), call.shaped("left", (n,), np.int32)
    mirror = call.shaped("mirror", (n,), np.uint8)
    mean, shift = call.optional("mean", (h, w, c)), call.optional("shift", (n, c))
    y = call.output(out, problem.y_shape, dtype=call.element_of("out", out))
    call.module.input_transform(
        problem, images, top, left, mirror, mean, shift, real("scale", scale), y, call.stream
    )
    return y


def filters_to_blocks(
    w: Array, block: int, *, out: Array | None = None, device: str | Device | None = None
) -> Array:
    """``blocks[K, R', S', block*block*C]`` of float32 filters w[K,R,S,C]: those for images in blocks.

    A convolution of stride `block` is one of stride 1 over images that input_transform cut into blocks, with
    these filters. An `out` of bfloat16 receives them rounded.
    """
    call = Call(device, w=w)
    w = call.get("w", "K,R,S,C")
    k, r, s, c = w.shape
    problem = FilterBlocksProblem(k, r, s, c, whole("block", block, 1))
    blocks = call.output(out, problem.blocks_shape, dtype=call.element_of("out", out))
    call.module.filters_to_blocks(problem, w, blocks, call.stream)
    return blocks


def filters_from_blocks(
    dblocks: Array, w_shape: Sequence[int], block: int, *, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dw[K,R,S,C]``, the gradient by w of the sum of float32 dblocks times ``filters_to_blocks(w)``;
    `w_shape` is [K,R,S,C]."""
    call = Call(device, dblocks=dblocks)
    call.get("dblocks", "K,R,S,C")
    k, r, s, c = four_extents("w_shape", w_shape, "K,R,S,C")
    problem = FilterBlocksProblem(k, r, s, c, whole("block", block, 1))
    dblocks = call.shaped("dblocks", problem.blocks_shape)
    dw = call.output(out, problem.w_shape)
    call.module.filters_from_blocks(problem, dblocks, dw, call.stream)
    return dw
