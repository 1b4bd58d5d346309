"""Whole training steps side by side: the sides must agree before they are timed.

A fake side, which is ours under another name, shows without PyTorch what becomes of agreement, disagreement
and failure; with PyTorch its own steps are compared with ours.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cconvnet as cc
from cconvnet import nets
from cconvnet.bench import step as bench
from cconvnet.bench.peers import forms
from cconvnet.bench.peers.cconvnet_step import END, OurStep
from cconvnet.bench.processes import Disagreement, Worker
from cconvnet.devices import PRECISIONS
from cconvnet.nets import NetSpec, spec_to_dict
from cconvnet.nets.transform import scaled

FAKE = '''
import json, shutil
import numpy as np
from cconvnet.bench.peers.cconvnet_step import END, OurStep

class Fake(OurStep):
    """The same network, unless its form names a mistake."""

    def __init__(self, spec, batch, ordinal, precision, folder, form):
        if form == "refused":
            raise ValueError("there is no such form")
        if form == "other_rate":
            for layer in spec["layers"]:
                if layer["name"] == "fc1":
                    layer["lr_scale"] = 1.5
        super().__init__(spec, batch, ["cpu:0"], precision, folder + "/other")
        self.up, self.form, self.steps = folder, form, 0
        if form == "other_weight":
            state = self.network.state()
            state["conv1.weight"][0, 0, 0, 0] += 0.5
            self.network.load_state(state)

    def first_steps(self, count, lr):
        self.folder.mkdir(exist_ok=True)
        losses = super().first_steps(count, lr)
        shutil.copy(self.folder / END, f"{self.up}/{self.form}-{END}")
        return [float("nan")] * count if self.form == "nan" else losses

    def step(self):
        self.steps += 1
        if self.form == "fails" and self.steps > 2:
            raise RuntimeError("it broke")
        return super().step()
'''


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "fake_side.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    monkeypatch.setattr(bench, "check_forms", lambda forms, on_gpu, precision: None)
    return "fake_side:Fake"


def run(net: str | NetSpec = "lenet", batch: int = 4, **arguments: Any) -> dict[str, Any]:
    return bench.step(net, devices=["cpu:0"], batch=batch, **{"steps": 2, "warmup": 1, **arguments})


# ---- without PyTorch -------------------------------------------------------------------------------------


def test_sides_that_agree_are_timed_in_turn(fake: str) -> None:
    so_far: list[dict[str, Any]] = []
    result = run(
        peer=fake,
        forms=["nchw", "nchw+lrn_by_hand"],
        found=lambda r: so_far.append(json.loads(json.dumps(r))),
    )
    ours, *others = result["rows"]
    assert [row["side"] for row in result["rows"]] == ["cconvnet", "PyTorch", "PyTorch"]
    assert ours["first_losses"] == others[0]["first_losses"] and len(set(ours["first_losses"])) == 3
    for row in result["rows"]:
        assert row["calls"] == 2
        assert 0 < row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
        assert row["images_per_second"] == pytest.approx(4 / row["seconds"])
        assert row["peak_rss_bytes"] > 10_000_000
    for row in others:
        assert row["times_as_fast"] == pytest.approx(row["seconds"] / ours["seconds"])
        assert row["times_the_memory"] == pytest.approx(ours["peak_rss_bytes"] / row["peak_rss_bytes"])
    assert result["fastest"]["library"]["form"] == "nchw"
    assert result["fastest"]["any"]["times_as_fast"] == min(row["times_as_fast"] for row in others)
    # After each round of timed steps there is a whole result.
    assert [len(part["steps_seconds"]) for part in so_far] == [1, 2]
    assert so_far[-1] == json.loads(json.dumps(result))
    assert len(bench.table(result)[1]) == 3 and len(bench.verdict(result)) == 3


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("other_weight", "the loss of step 1"),
        ("other_rate", "the loss of step 2"),
        ("nan", "the loss of step 1 is nan there"),
    ],
)
def test_sides_that_disagree_are_not_timed(fake: str, mistake: str, words: str) -> None:
    with pytest.raises(Disagreement, match=f"PyTorch {mistake} does not compute what cconvnet does: {words}"):
        run(peer=fake, forms=[mistake], stepped=lambda done: pytest.fail("a step was timed"))


def test_sides_are_compared_at_a_rate_at_which_the_network_does_not_leap(tmp_path: Path) -> None:
    side = OurStep(spec_to_dict(nets.build("lenet")), 4, ["cpu:0"], "fp32", str(tmp_path))
    before = side.network.state()
    assert side.gentle_rate(1e-6) == 1e-6
    rate = side.gentle_rate(10.0)
    assert all(np.array_equal(value, before[name]) for name, value in side.network.state().items())
    first, second, _ = side.first_steps(3, rate)
    # By the gradient alone the loss falls by 5%.
    assert 0.94 * first < second < 0.97 * first
    side.network.load_state(before)
    first, second, _ = side.first_steps(3, 100 * rate)
    assert not 0.5 * first < second < 1.5 * first


def test_a_disagreement_is_an_error_of_the_command(
    fake: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cconvnet import cli

    arguments = ["--net", "lenet", "--batch", "4", "--device", "cpu:0", "--forms", "other_weight"]
    monkeypatch.setattr(sys, "argv", ["cconvnet", "bench", "step", *arguments])
    monkeypatch.setattr(bench, "PYTORCH", fake)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert "does not compute what cconvnet does" in capsys.readouterr().err


def test_velocities_that_differ_are_named(tmp_path: Path) -> None:
    """Losses may not show the effect of a step yet."""
    right = {"conv1.weight.velocity": np.ones((3, 2)), "conv1.bias.velocity": np.zeros(3)}
    for name, factor in (("a", 1.0), ("b", 1.01), ("c", math.nan)):
        np.savez(tmp_path / name, **{key: value * np.float64(factor) for key, value in right.items()})
    files = {name: tmp_path / f"{name}.npz" for name in "abc"}
    tolerance = bench.Tolerance(1e-5, 0.02)
    apart = bench.compare(tolerance, "other", [2.0], [2.00001], files["a"], files["b"])
    assert apart == pytest.approx({"loss 1": 5e-6, "conv1.weight.velocity": 0.01, "conv1.bias.velocity": 0})
    for file, allowed in (("b", 0.005), ("c", 0.02)):
        with pytest.raises(Disagreement, match=r"after 1 steps conv1\.weight\.velocity"):
            bench.compare(bench.Tolerance(1e-5, allowed), "other", [2.0], [2.0], files["a"], files[file])
    # A later step may be farther apart.
    losses = [1.0, 1.0], [1.0, 1.000015]
    bench.compare(tolerance, "other", *losses, files["a"], files["a"])
    with pytest.raises(Disagreement, match="the loss of step 1"):
        bench.compare(tolerance, "other", losses[0][1:], losses[1][1:], files["a"], files["a"])


def test_forms_of_another_precision_are_compared_apart(fake: str) -> None:
    result = run(peer=fake, precision="bf16", forms=["nchw", "nchw+lrn_by_hand", "nchw+fp32"])
    assert [row["precision"] for row in result["rows"]] == ["bf16", "bf16", "bf16", "fp32"]
    forms = {kind: best["form"] for kind, best in result["fastest"].items()}
    assert set(forms) == {"library", "any", "library fp32", "any fp32"}
    assert (forms["library"], forms["any fp32"]) == ("nchw", "nchw+fp32")
    assert any(
        "fastest form of all in fp32 is nchw+fp32: ours, in bf16, is" in t for t in bench.verdict(result)
    )


def test_a_form_that_fails_leaves_the_others_running(fake: str) -> None:
    result = run(peer=fake, forms=["refused", "fails", "nchw"])
    assert [row["form"] for row in result["rows"]] == ["", "nchw"]
    failed = result["peers"]["pytorch"]["failed"]
    assert failed["refused"] == "ValueError: there is no such form" and "it broke" in failed["fails"]


def test_missing_pytorch_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    told: list[str] = []
    result = run(say=told.append)
    assert "pip install torch" in result["peers"]["pytorch"]["missing"]
    assert any("pip install torch" in line for line in told)
    assert [row["side"] for row in result["rows"]] == ["cconvnet"] and result["fastest"] == {}


def test_ours_alone() -> None:
    result = run(peer=None)
    assert result["peers"] == {} and len(result["rows"]) == 1 and bench.verdict(result) == []
    header, rows = bench.table(result)
    assert header[-1] == "peak memory" and len(rows[0]) == len(header)


def test_forms_that_are_tried() -> None:
    assert forms.default_forms(nets.build("lenet"), on_gpu=False) == ["nchw", "channels_last"]
    alexnet = nets.build("alexnet")
    by_hand = ["nchw+lrn_by_hand", "channels_last+lrn_by_hand"]
    assert forms.default_forms(alexnet, on_gpu=False) == ["nchw", "channels_last", *by_hand]
    assert "channels_last+compiled+graph+lrn_by_hand" in forms.default_forms(alexnet, on_gpu=True)
    tried = forms.default_forms(alexnet, on_gpu=False, precision="bf16")
    own = ["nchw", "channels_last", *by_hand, "channels_last+lrn_by_hand+bf16_model"]
    assert tried == [*own, *(f"{form}+fp32" for form in own[:-1])]
    # PyTorch has no fp32x3: its fp32 is as accurate.
    assert forms.default_forms(alexnet, False, "fp32x3") == forms.default_forms(alexnet, False)
    assert forms.form_precision("nchw", "fp32x3") == "fp32"
    for net, on_gpu, precision in itertools.product(("lenet", "alexnet"), (False, True), PRECISIONS):
        found = forms.default_forms(nets.build(net), on_gpu, precision)
        forms.check_forms(found, on_gpu, precision)
        assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("nhwc", "must be one of .*, not 'nhwc'"),
        ("compiled", "one of nchw"),
        ("nchw+graph", "on a GPU only"),
        ("nchw+fp32+bf16", "one of fp32, tf32, bf16"),
        ("nchw+bf16_model", "in bf16 only"),
    ],
)
def test_forms_that_make_no_sense(form: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(forms=[form])


def test_the_picture_shows_every_side(fake: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from cconvnet.bench import charts

    result = run(peer=fake, forms=["nchw"])
    charts.step_bars(json.loads(json.dumps(result)), tmp_path / "bars.svg")
    assert (tmp_path / "bars.svg").stat().st_size > 5000


# ---- with PyTorch ----------------------------------------------------------------------------------------


def distances(net: NetSpec, batch: int, *forms: str) -> dict[str, float]:
    """The largest distances of the forms from ours, by what is compared."""
    pytest.importorskip("torch")
    found: dict[str, float] = {}
    compare = bench.compare

    def keep(tolerance: bench.Tolerance, *arguments: Any) -> dict[str, float]:
        apart = compare(tolerance, *arguments)
        found.update({name: max(value, found.get(name, 0.0)) for name, value in apart.items()})
        return apart

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "compare", keep)
        result = run(net, batch, forms=forms, steps=1, warmup=0)
    assert [row["form"] for row in result["rows"]] == ["", *forms], result["peers"]
    return found


def tiny_alexnet() -> NetSpec:
    return scaled(nets.build("alexnet"), 0.125, (80, 80), 10)


# Weight decay is a part of the velocities, so that 1e-5 also says that it is the same.
@pytest.mark.parametrize(
    ("net", "forms"),
    [
        (nets.build("lenet"), ["nchw"]),
        # In channels_last, PyTorch's rounding makes two values of a window equal.
        (nets.build("cifar-quick"), ["nchw"]),
        (nets.build("cifar-18pct"), ["channels_last"]),
        (tiny_alexnet(), ["nchw"]),
    ],
    ids=lambda value: value.name if isinstance(value, NetSpec) else ",".join(value),
)
def test_pytorch_computes_the_same(net: NetSpec, forms: list[str]) -> None:
    apart = distances(net, 8, *forms)
    assert len(apart) > 10
    assert max(apart.values()) < 1e-5


def test_pytorch_agrees_in_bf16_whatever_it_is_computed_in() -> None:
    pytest.importorskip("torch")
    forms = ["nchw", "channels_last", "channels_last+bf16_model", "channels_last+fp32"]
    result = run(nets.build("lenet"), 8, precision="bf16", forms=forms, steps=1, warmup=0)
    assert [row["form"] for row in result["rows"]] == ["", *forms], result["peers"]
    ours, *others = (np.array(row["first_losses"]) for row in result["rows"])
    assert max(np.abs(theirs - ours).max() for theirs in others) < 2e-3
    # The form in fp32 is the one that rounds nothing.
    *rounded, exact = others
    assert all((losses != exact).all() for losses in rounded)


def odd() -> NetSpec:
    """Build a network of what ours lack: windows, sums, neurons, a bias for each position, dropped pixels."""
    from cconvnet.nets import (
        ConvSpec,
        DropoutSpec,
        FcSpec,
        LrnSpec,
        Neuron,
        NeuronSpec,
        PoolSpec,
        SoftmaxCostSpec,
        SumSpec,
        chain,
    )

    conv: dict[str, Any] = {"filters": 8, "window": (3, 4), "stride": (2, 3), "rounding": "ceil"}
    layers = chain(
        ConvSpec(name="a", padding=(1, 0), bias=0.1, neuron=Neuron("tanh", 1.7, 0.6), **conv),
        ConvSpec(
            name="b", inputs=("data",), padding=(1, 0), shared_bias=False, bias_weight_decay=0.1, **conv
        ),
        SumSpec(name="sum", inputs=("a", "b"), coeffs=(0.5, 2.0)),
        LrnSpec(name="lrn", size=4, alpha=0.1, groups=2),
        DropoutSpec(name="drop", keep=0.75, inverted=True),
        PoolSpec(name="avg", pool="avg", window=(3, 2), stride=(2, 1), padding=(-1, 1), outputs=(2, 5)),
        NeuronSpec(name="soft", neuron=Neuron("softrelu")),
        NeuronSpec(name="silu", neuron=Neuron("silu")),
        FcSpec(name="two", inputs=("silu", "avg"), outputs=12, momentum=0.5, lr_scale=0.3, weight_decay=0.2),
        PoolSpec(name="max", inputs=("b",), window=(2, 2), stride=(3, 3), padding=(-1, 0), outputs=(2, 2)),
        FcSpec(name="out", inputs=("two", "max"), outputs=10),
        SoftmaxCostSpec(name="cost", coeff=0.5),
    )
    base = nets.build("lenet", (12, 15, 3), 10)
    return dataclasses.replace(base, name="odd", layers=layers)


def test_every_geometry_and_neuron_is_the_same() -> None:
    apart = distances(odd(), 8, "nchw", "channels_last+lrn_by_hand")
    assert max(apart.values()) < 1e-5 and "two.weight.1.velocity" in apart


def test_padding_of_one_side_dilation_and_counted_padding_are_the_same() -> None:
    x = cc.image(11, 10, 2).conv(4, 3, pad=((2, 3), 2), dilation=(2, 1)).tanh()
    x = x.avgpool(3, 1, ((1, 0), 1), count_padding=True)
    x = x.avgpool(3, 2, 1, rounding="ceil", count_padding=True)
    x = x.conv(4, 2, 2, pad=(0, (1, 0)), groups=2, rounding="ceil").maxpool(2, 1, ((0, 1), 0))
    apart = distances(x.fc(3).softmax(), 8, "nchw", "channels_last")
    assert max(apart.values()) < 1e-5 and "conv2.weight.velocity" in apart


def test_transposed_convolutions_are_the_same() -> None:
    x = cc.image(5, 4, 2).conv(4, 3, pad=1).relu()
    y = x.deconv(6, (4, 3), 2, pad=((1, 0), 1), groups=2, size=(11, 8)).relu()
    y = y.deconv(5, 3, 2, pad=1, size=(22, 15), bias=None)
    z = x.deconv(5, 5, 4, pad=(0, 1), size=(22, 15), neuron="tanh", weight_decay=0.1)
    apart = distances((y + z).mean().fc(3).softmax(), 8, "nchw", "channels_last")
    assert max(apart.values()) < 1e-5 and {"deconv1.weight.velocity", "deconv3.bias.velocity"} <= set(apart)


def test_unpoolings_are_the_same() -> None:
    x = cc.image(13, 12, 2).conv(4, 3, pad=1).relu()
    pool = x.maxpool((3, 2), pad=(1, 0))
    y = pool.conv(4, 3, pad=1).relu().unpool(pool).conv(3, 3)
    apart = distances(y.mean().fc(3).softmax(), 8, "nchw", "channels_last")
    assert max(apart.values()) < 1e-5 and "conv1.weight.velocity" in apart


def test_branches_are_the_same() -> None:
    """Windows of the first pooling overlap, so that the same value often occurs twice in the second's."""
    x = cc.image(21, 21, 2).conv(8, 3, pad=1, name="stem").relu().maxpool(3, 2, rounding="ceil")
    joined = cc.concat(
        x.conv(4, 1, name="ones").relu(),
        x.maxpool(3, 1, 1).conv(6, 3, pad=1, name="pooled").relu(),
        x.select([7, 0, 0, 3]),
    )
    y = joined.avgpool(3, 2, 1, count_padding=True).conv(10, 3, name="scores").relu().dropout(0.5)
    apart = distances(y.mean().fc(3).softmax(), 8, "nchw", "channels_last")
    assert max(apart.values()) < 1e-5 and {"stem.weight.velocity", "scores.bias.velocity"} <= set(apart)


def test_heads_are_the_same() -> None:
    x = cc.image(11, 10, 2).conv(4, 3).relu()
    first = x.mean().fc(3).head(0.3)
    x = x.conv(4, 3).relu()
    heads = [first, x.maxpool(2).fc(3).head(0.5, name="second")]
    net = x.fc(3, name="last").softmax(coeff=0.7, heads=heads)
    apart = distances(net, 8, "nchw", "channels_last")
    assert max(apart.values()) < 1e-5 and {"fc1.weight.velocity", "fc2.bias.velocity"} <= apart.keys()


def test_a_planted_mistake_is_found_in_pytorch_too(tmp_path: Path) -> None:
    """The rate given to PyTorch is 1% higher than ours."""
    pytest.importorskip("torch")
    spec = spec_to_dict(tiny_alexnet())
    common = {"spec": spec, "batch": 8, "precision": "fp32", "folder": str(tmp_path)}
    other = {**common, "ordinal": None, "form": "nchw"}
    with Worker(bench.OURS, {**common, "devices": ["cpu:0"]}) as ours:
        mine = ours.ask("first_steps", count=3, lr=0.01)
        with Worker(bench.PYTORCH, other) as theirs:
            their = theirs.ask("first_steps", count=3, lr=0.0101)
            with pytest.raises(Disagreement, match="the loss of step 2"):
                bench.compare(
                    bench.TOLERANCES["fp32"],
                    "PyTorch",
                    mine,
                    their,
                    tmp_path / END,
                    tmp_path / f"nchw-{END}",
                )


def test_what_pytorch_does_not_have_is_named() -> None:
    pytest.importorskip("torch")
    result = run(nets.build("cifar-13pct"), batch=2, steps=1, warmup=0)
    assert "local3" in result["peers"]["pytorch"]["missing"] and len(result["rows"]) == 1
