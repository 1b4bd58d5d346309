"""Batches of crops of images, and filters for images that are cut into blocks."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import FilterBlocksProblem, InputProblem
from cconvnet.checks import real, whole
from cconvnet.devices import Device
from cconvnet.operations.input_transform import FILTERS_FROM_BLOCKS, FILTERS_TO_BLOCKS, INPUT_TRANSFORM
from cconvnet.ops.arguments import Array, Pair, four_extents, pair_of
from cconvnet.ops.call import Call


def input_transform(
    images: Array, size: Pair, *, top: Array, left: Array, mirror: Array, mean: Array | None = None,
    shift: Array | None = None, scale: float = 1.0, factors: Array | None = None, center_mean: bool = False,
    block: int = 1, pad: int = 0, margin: int = 0, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return a batch ``y[N,P,Q,C]`` of crops of uint8 images[N,H,W,C]: scale * (pixel - mean + shift).

    With `block` above 1 the crop is put into a border of `pad` zeros and cut into squares. Zeros at the
    bottom and right make its sides multiples of `block`. Then y is [N, P', Q', block*block*C], one pixel for
    each square.

    Crops may reach into a margin of zeros around the image. These are zeros of y, without mean and shift, as
    in He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2.

    Args:
        images: The images.
        size: (P, Q), or one number for both.
        top: int32[N], the first row of each crop, clamped to the image and its margin.
        left: int32[N], the first column of each crop, likewise; -1 is the margin's last.
        mirror: uint8[N], not 0 to flip a crop from left to right.
        mean: float32[H,W,C] to subtract, taken at the pixel's position in the whole image.
        shift: float32[N,C] to add, a colour for each image.
        scale: The factor of the sum.
        factors: float32[C], by which each channel is also multiplied, such as 1 / its standard deviation.
        center_mean: True to take the mean at the output's position in the centre crop instead.
        block: The side of a square.
        pad: The border in pixels.
        margin: The zeros on each side of an image, in pixels.
        out: The array to write to. One of bfloat16 receives the batch rounded.
        device: The device of host arrays.
    """
    call = Call(
        INPUT_TRANSFORM,
        device,
        images=images,
        top=top,
        left=left,
        mirror=mirror,
        mean=mean,
        shift=shift,
        factors=factors,
    )
    n, h, w, c = call.shape("images")
    p, q = pair_of("size", size)
    if p > h or q > w:
        raise ValueError(f"size must be at most that of the images, ({h}, {w}), not ({p}, {q})")
    cut = {"block": whole("block", block, 1), "pad": whole("pad", pad), "margin": whole("margin", margin)}
    problem = InputProblem(n, h, w, c, p, q, bool(center_mean), **cut)
    return call.run(problem, out=out, scale=real("scale", scale))


def filters_to_blocks(
    w: Array, block: int, *, out: Array | None = None, device: str | Device | None = None
) -> Array:
    """Return ``blocks[K, R', S', block*block*C]`` of float32 filters w[K,R,S,C], for images in blocks.

    A convolution of stride `block` is one of stride 1 with these filters, over images that input_transform
    cut into blocks. An `out` of bfloat16 receives them rounded.
    """
    call = Call(FILTERS_TO_BLOCKS, device, w=w)
    k, r, s, c = call.shape("w")
    return call.run(FilterBlocksProblem(k, r, s, c, whole("block", block, 1)), out=out)


def filters_from_blocks(
    dblocks: Array, w_shape: Sequence[int], block: int, *, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dw[K,R,S,C]``, the gradient by w of the sum of dblocks times ``filters_to_blocks(w)``.

    `dblocks` are float32; `w_shape` is [K,R,S,C].
    """
    call = Call(FILTERS_FROM_BLOCKS, device, dblocks=dblocks)
    call.shape("dblocks")
    k, r, s, c = four_extents("w_shape", w_shape, "K,R,S,C")
    return call.run(FilterBlocksProblem(k, r, s, c, whole("block", block, 1)), out=out)
