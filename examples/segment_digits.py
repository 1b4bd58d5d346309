"""Segment: a class for each pixel of scenes with digits in noise, by a small fully convolutional network."""

import numpy as np

import cconvnet as cc
from cconvnet.data import load_digits

BACKGROUND, IGNORED, SIDE = 10, 255, 16


def scenes(count: int, seed: int, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8[n,H,W] of two to four digits in noise, and the class of each pixel.

    The pixels around a digit belong neither to it nor to the background, so that they count for nothing.
    """
    draws = np.random.default_rng(seed)
    digits, labels = load_digits()
    x = draws.integers(0, 100, (count, size, size)).astype(np.uint8)
    y = np.full((count, size, size), BACKGROUND, np.uint8)
    for image, classes in zip(x, y, strict=True):
        for _ in range(draws.integers(2, 5)):
            chosen = draws.integers(len(digits))
            top, left = draws.integers(1, size - SIDE, 2)
            around = np.s_[top - 1 : top + SIDE + 1, left - 1 : left + SIDE + 1]
            if (classes[around] != BACKGROUND).any():
                continue  # it would cover another digit
            inside = np.s_[top : top + SIDE, left : left + SIDE]
            digit = np.kron(digits[chosen, :, :, 0], np.ones((2, 2), np.uint8))
            image[inside] = np.maximum(image[inside], digit)
            classes[around], classes[inside] = IGNORED, labels[chosen]
    return x, y


def network() -> cc.NetSpec:
    """Return a small FCN: scores of coarse places, which see a whole digit, and of finer ones, enlarged."""

    def conv(x: cc.nets.Value, filters: int, window: int) -> cc.nets.Value:
        return x.conv(filters, window, pad=window // 2, bias=None).bn().relu()

    fine = conv(cc.image(40, 40, 1), 16, 3).maxpool(2)
    coarse = conv(conv(conv(fine, 32, 3).maxpool(2), 64, 5), 64, 1).conv(11, 1)
    doubled = {"filters": 11, "window": 4, "stride": 2, "pad": 1, "bias": None, "init": "bilinear"}
    x = (coarse.deconv(**doubled) + fine.conv(11, 1)).deconv(**doubled)
    return x.softmax("segments", per_pixel=True, ignore=IGNORED)


if __name__ == "__main__":
    train, test = scenes(1200, seed=0), scenes(200, seed=1)
    names = [*"0123456789", "background"]
    given = {"batch": 16, "epochs": 6, "lr": 0.1, "lr_schedule": "cosine"}
    run = cc.train(network(), (train, test), classes=names, quiet=True, **given)
    found = run.evaluate(quiet=True)
    print(f"{1 - found.error_top1:.1%} of {found.images:,} pixels are right")
    both = found.confusion.diagonal()
    overlap = both / (found.confusion.sum(0) + found.confusion.sum(1) - both)
    print(
        "intersection over union: " + ", ".join(f"{n} {o:.2f}" for n, o in zip(names, overlap, strict=True))
    )
