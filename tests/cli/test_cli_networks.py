"""The commands that examine networks, by name or in cuda-convnet's files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import pictures, refuse, run, succeed
from PIL import Image

from cconvnet import cli


def test_describe_as_a_table_and_as_json() -> None:
    text = succeed("describe", "--net", "lenet", "--device", "cpu:0")
    assert "131,080 parameters" in text
    done = run("describe", "--net", "lenet", "--device", "cpu:0", "--batch", 3, "--json", "-")
    description = json.loads(done.stdout)
    assert description["parameters"] == 131_080
    assert description["layers"][0]["output_shape"] == [3, 8, 8, 20]


def test_gradcheck() -> None:
    text = succeed("gradcheck", "--net", "lenet", "--device", "cpu:0")
    assert "conv1.weight" in text
    assert "WRONG" not in text


def test_gradcheck_fails_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command finds a gradient that is made wrong."""
    from cconvnet.network import Network

    backward = Network.backward

    def wrong(network: Network) -> None:
        backward(network)
        parameter = network.parameters["fc1.bias"]
        parameter.pieces[0].gradient[...] *= 1.01

    monkeypatch.setattr(Network, "backward", wrong)
    monkeypatch.setattr(sys, "argv", ["cconvnet", "gradcheck", "--device", "cpu:0"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 1
    assert "error: fc1.bias is off by" in capsys.readouterr().err


def test_augment_draws_a_sheet(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data", "train/cat", "train/dog", count=3)
    sheet = tmp_path / "sheet.png"
    arguments = ("--net", "cifar-quick", "--data", root, "--out", sheet, "--images", 4, "--epochs", 2)
    shown = succeed("augment", *arguments)
    assert shown.endswith(f"{sheet}\n")
    with Image.open(sheet) as picture:
        assert picture.size == (3 * 100 + 4, 4 * 100 + 4)
    padded = succeed("augment", *arguments, "--pad", 4, "--mirror", "--crop", 24)
    assert "random crops of 24x24 of 32x32 padded by 4, mirror images, no colour noise" in padded
    assert padded.splitlines()[-2].endswith("no colour noise, distortion: none")
    assert "--images must be at most 6" in refuse("augment", *arguments, "--images", 7)


def test_augment_draws_random_resized_crops(tmp_path: Path) -> None:
    root, sheet = pictures(tmp_path / "data", "train/cat", "train/dog", count=3), tmp_path / "sheet.png"
    arguments = ("augment", "--net", "cifar-quick", "--data", root, "--out", sheet, "--images", 2)
    shown = succeed(*arguments, "--random-resized-crop")
    assert "random-resized crops (0.08 to 1 of the area) of 32x32 of 32x32, no mirror" in shown
    assert "(0.25 to 0.5 of the area)" in succeed(*arguments, "--area", "0.25,0.5")
    assert "--area must be at least 0.5" in refuse(*arguments, "--area", "0.5,0.25")
    assert "leave out --random-crop and --pad" in refuse(*arguments, "--area", "0.5,1", "--pad", 2)


def test_augment_draws_distorted_digits(tmp_path: Path) -> None:
    plain, distorted = tmp_path / "plain.png", tmp_path / "distorted.png"
    arguments = ("augment", "--net", "lenet", "--images", 2, "--epochs", 2, "--out")
    succeed(*arguments, plain)
    shown = succeed(*arguments, distorted, "--distort", "rotation=20,alpha=8,sigma=3")
    assert "distortion: rotation 20, scaling 0, translation 0, alpha 8, sigma 3" in shown
    with Image.open(plain) as before, Image.open(distorted) as after:
        one, other = np.asarray(before), np.asarray(after)
    # The stored images are in the first column, of 96 pixels between margins of 4.
    assert np.array_equal(one[:, :104], other[:, :104])
    assert not np.array_equal(other[:, 104:200], one[:, 104:200])
    assert not np.array_equal(other[:, 104:200], other[:, 204:300])


@pytest.fixture
def files(tmp_path: Path) -> list[object]:
    """Options that name a small network for digits in two files."""
    (tmp_path / "layers.cfg").write_text(
        "[data]\ntype=data\ndataIdx=0\n[labels]\ntype=data\ndataIdx=1\n"
        "[conv1]\ntype=conv\ninputs=data\nchannels=1\nfilters=8\nfilterSize=3\ninitW=0.1\nneuron=relu\n"
        "partialSum=1\n[fc]\ntype=fc\ninputs=conv1\noutputs=10\ninitW=0.1\n"
        "[probs]\ntype=softmax\ninputs=fc\n[cost]\ntype=cost.logreg\ninputs=labels,probs\n"
    )
    rates = "epsW=0.002\nepsB=0.002\nmomW=0.9\nmomB=0.9\n"
    (tmp_path / "params.cfg").write_text(f"[conv1]\n{rates}[fc]\n{rates}[cost]\ncoeff=1\n")
    return ["--layer-def", tmp_path / "layers.cfg", "--layer-params", tmp_path / "params.cfg"]


NOTE = "partialSum changes no result and is not used: conv1"


def test_a_network_in_files_trains_and_goes_on_without_them(files: list[object], tmp_path: Path) -> None:
    path = tmp_path / "run"
    text = succeed("train", *files, "--crop", 6, "--device", "cpu:0", "--steps", 3, "--out", path)
    assert f"{files[1]}: {NOTE}" in text
    config = json.loads((path / "config.json").read_text())
    assert config["settings"]["lr"] == 0.002
    assert config["settings"]["crop"] is True
    assert (config["spec"]["stored"], config["spec"]["input"]["height"]) == ([8, 8], 6)
    for name in ("layers.cfg", "params.cfg"):
        (tmp_path / name).unlink()
    assert "resuming" in succeed("train", "--resume", path, "--device", "cpu:0", "--steps", 5)
    assert "top-1 error" in succeed("evaluate", "--run", path, "--device", "cpu:0")
    text = refuse("train", "--resume", path, *files)
    assert text.startswith("error: --resume keeps the run's own network; leave out --layer-def")
    # What was trained can be written again.
    succeed("export", "--run", path, "--out", tmp_path / "again")
    assert "filters=8\n" in (tmp_path / "again" / "layers.cfg").read_text()


def test_networks_in_files_are_described_checked_and_timed(files: list[object], tmp_path: Path) -> None:
    text = succeed("describe", *files, "--size", 8, "--device", "cpu:0")
    assert f"{NOTE}\n" in text and "2,970 parameters" in text
    described = json.loads(succeed("describe", *files, "--size", 8, "--device", "cpu:0", "--json", "-"))
    assert [layer["name"] for layer in described["layers"]] == ["conv1", "fc", "cost"]
    options = ("--size", 8, "--device", "cpu:0", "--json", "-")
    report = json.loads(succeed("gradcheck", *files, "--width", 0.5, *options))
    assert report["ok"] and {"conv1", "fc", "cost"} <= {check["name"] for check in report["checks"]}
    out = tmp_path / "step.json"
    timing = ("--no-peer", "--steps", 1, "--warmup", 0, "--batch", 2)
    succeed("bench", "step", *files, *timing, *options[:-1], out)
    timed = json.loads(out.read_text())
    assert timed["image"] == [8, 8, 1]


def test_options_of_networks_in_files_that_do_not_go_together(files: list[object], tmp_path: Path) -> None:
    assert "--layer-def goes with --layer-params" in refuse("describe", *files[:2], "--size", 8)
    assert "--layer-params goes with --layer-def" in refuse("describe", *files[2:])
    assert "--crop goes with --layer-def" in refuse("train", "--crop", 6)
    assert "--net and --layer-def are two networks" in refuse("train", "--net", "lenet", *files)
    assert f"--size is needed: {files[1]} does not say how large the images are" in refuse("describe", *files)
    assert "--size must be at least 1, not 0" in refuse("describe", *files, "--size", 0)
    assert "crop must be from 1 to 8, the images' side, not 9" in refuse("train", *files, "--crop", 9)
    assert "nowhere.cfg: No such file" in refuse("train", "--layer-def", "nowhere.cfg", *files[2:], code=1)
    (tmp_path / "layers.cfg").write_text("[conv1]\ntype=cnv\n")
    text = refuse("train", *files)
    assert text.startswith(f"error: {files[1]}:2: layer conv1: type must be one of")
    assert text.endswith("did you mean 'conv'?\n")


def test_gradcheck_at_another_size() -> None:
    options = ("--device", "cpu:0", "--json", "-")
    report = json.loads(succeed("gradcheck", "--net", "cifar-quick", "--size", 16, "--width", 0.1, *options))
    assert report["ok"]
    assert "width must be above 0" in refuse("gradcheck", "--width", 0)


def test_export_writes_files_that_train_reads(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    text = succeed("export", "--net", "cifar-18pct", "--out", out)
    assert text == f"{out}/layers.cfg\n{out}/layer-params.cfg\n"
    again = ("--layer-def", out / "layers.cfg", "--layer-params", out / "layer-params.cfg", "--size", 32)
    assert "89,578 parameters" in succeed("describe", *again, "--device", "cpu:0")
    assert f"{out}/layers.cfg already exists" in refuse("export", "--net", "cifar-18pct", "--out", out)
    succeed("export", *again, "--out", tmp_path / "copy")
    for name in ("layers.cfg", "layer-params.cfg"):
        texts = [(folder / name).read_text().split("\n\n", 1)[1] for folder in (out, tmp_path / "copy")]
        assert texts[0] == texts[1]  # but for the comment at the top, which says the network's name
    other = tmp_path / "other"
    one_tower = ("export", "--net", "alexnet", "--towers", 1, "--out", other)
    assert "layer lrn1: groups=2: the files' norms know no groups" in refuse(*one_tower)
    assert "--format must be one of cuda-convnet, " in refuse(
        "export", "--net", "lenet", "--format", "x", "--out", other
    )
    for options in ((), ("--net", "cifar-18pct", "--run", tmp_path)):
        assert "one network is needed: --net, --layer-def or --run" in refuse(
            "export", *options, "--out", other
        )
    assert not other.exists()
