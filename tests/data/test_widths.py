"""Digits of one width: boxes, order and files, and columns that were trained on several of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.commands import refuse, succeed

import cconvnet as cc
from cconvnet import data
from cconvnet.data import widths
from cconvnet.errors import DataError
from cconvnet.evaluate import evaluate_runs


def test_boxes_have_the_width_and_stay_as_high() -> None:
    digits = np.zeros((4, 12, 20, 1), np.uint8)
    digits[0, 2:9, 0:3] = 200
    digits[1, 1:12, 4:20] = 90
    digits[2, 5, 7] = 1
    for width in (1, 6, 7, 20):
        wide = widths.with_width(digits, width)
        assert wide.shape == digits.shape and not wide[3].any()
        for before, after in zip(digits[:3, ..., 0], wide[:3, ..., 0], strict=True):
            columns = np.flatnonzero(after.any(axis=0))
            first = (20 - width) // 2
            assert columns.tolist() == list(range(first, first + width))
            assert (after.any(axis=1) == before.any(axis=1)).all()
            assert after.max() == before.max()


def test_a_digit_of_the_width_is_only_moved() -> None:
    digit = np.zeros((1, 8, 9, 1), np.uint8)
    digit[0, :, 1:6, 0] = np.random.default_rng(0).integers(1, 256, (8, 5))
    wide = widths.with_width(digit, 5)
    assert np.array_equal(wide[0, :, 2:7], digit[0, :, 1:6]) and not wide[0, :, [0, 1, 7, 8]].any()


def test_images_that_are_no_digits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="digits must be grey, not of 3 channels"):
        widths.with_width(np.zeros((1, 8, 8, 3), np.uint8), 4)
    with pytest.raises(ValueError, match="--width must be at most 8, not 9"):
        widths.with_width(np.zeros((1, 8, 8, 1), np.uint8), 9)
    with pytest.raises(DataError, match="exists already"):
        widths.write(data.open_source(), 4, tmp_path)
    assert "--width must be at most 8" in refuse("data", "width", "digits", tmp_path / "w9", "--width", 9)
    assert not (tmp_path / "w9").exists()


def test_columns_of_several_widths_are_averaged(tmp_path: Path) -> None:
    """Each is tested on the digits of its own width."""
    original = data.open_source()
    text = succeed("data", "width", "digits", tmp_path / "w5", "--width", 5)
    assert text.endswith("w5: 1,442 training and 355 test digits of 5 columns\n")
    narrow = data.open_source(tmp_path / "w5")
    for ours, theirs in ((narrow.train, original.train), (narrow.test, original.test)):
        images = theirs.read(np.arange(len(theirs)))[0]
        assert np.array_equal(ours.read(np.arange(len(ours)))[0], widths.with_width(images, 5))
        assert np.array_equal(ours.labels, theirs.labels)
    columns = [
        cc.train(
            "lenet",
            data=where,
            epochs=1,
            steps=30,
            lr=0.05,
            devices="cpu:0",
            out=tmp_path / f"run-{name}",
            quiet=True,
        ).path
        for name, where in (("own", None), ("w5", str(tmp_path / "w5")))
    ]
    both = evaluate_runs(columns, devices=["cpu:0"])
    for path, result in zip(columns, both.results, strict=True):
        alone = evaluate_runs([path], devices=["cpu:0"]).tally
        assert result.tally.wrong_top1 == alone.wrong_top1
        assert result.tally.loss == pytest.approx(alone.loss, rel=1e-5)
    assert both.tally.count == 355 and both.tally.wrong_top1 < 355 // 2
    # On the first column's digits the second does worse.
    (_, second) = evaluate_runs(columns, "digits", devices=["cpu:0"]).results
    assert second.tally.wrong_top1 > both.results[1].tally.wrong_top1
