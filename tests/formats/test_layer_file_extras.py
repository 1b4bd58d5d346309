"""Comments of the configuration files that keep what cuda-convnet's format cannot say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import Listener, succeed
from helpers.small_networks import assert_equal, train
from helpers.training import assert_same_run, colored_pictures

from cconvnet import nets, runs
from cconvnet.formats import netfiles
from cconvnet.formats.cuda_convnet import ConfigError, read
from cconvnet.formats.cuda_convnet_extras import Extras, read_extras
from cconvnet.formats.cuda_convnet_writer import write
from cconvnet.nets import Distortion, InputSpec, LrStep, NetSpec, RateCurve, TrainRecipe
from cconvnet.nets.transform import scaled, towers
from cconvnet.network import Network
from cconvnet.training.options import Options
from cconvnet.training.session import train as train_run

TOWERS = {"alexnet": 2, "alexnet-2012": 2}


def small(name: str) -> NetSpec:
    """A network known by name, with few filters, that reads small images and has its own recipe."""
    spec = nets.build(name)
    return scaled(spec, 0.25, (80, 80) if name in TOWERS else None, 3)


def files_of(spec: NetSpec, folder: Path) -> tuple[Path, Path]:
    paths = folder / "layers.cfg", folder / "layer-params.cfg"
    write(spec, *paths, towers=TOWERS.get(spec.name, 1))
    return paths


@pytest.mark.parametrize(
    "name",
    ["lenet", "cifar-quick", "cifar-18pct", "cifar-13pct", "cifar-11pct", "mcdnn-mnist", *TOWERS],
)
def test_a_network_known_by_name_comes_back_with_its_recipe_and_bits(name: str, tmp_path: Path) -> None:
    spec = small(name)
    got, _ = read(*files_of(spec, tmp_path), image_shape=spec.stored_shape)
    spec = towers(spec, TOWERS.get(name, 1))
    # In files a layer scales the pixels.
    unscaled = dataclasses.replace(spec.input, scale=1.0)
    assert (got.name, got.input, got.stored, got.classes) == (spec.name, unscaled, spec.stored, 3)
    assert got.recipe == spec.recipe
    devices = ["cpu:0", "cpu:1"][: TOWERS.get(name, 1)]
    one, two = (Network(net, batch=2, devices=devices, seed=3) for net in (spec, got))
    assert train(one, 2) == train(two, 2)
    assert_equal(one.state(), two.state())


def test_training_from_exported_files_is_training_by_name(tmp_path: Path) -> None:
    """Neither the crop nor the size nor the length of the run has to be said again."""
    pictures = colored_pictures(tmp_path / "pictures", 12, 30)
    spec = nets.build("cifar-13pct", classes=3)
    recipe = dataclasses.replace(spec.recipe, epochs=2, batch=4, steps=(LrStep(1, 0.5, (), "bias"),))
    spec = dataclasses.replace(spec, recipe=dataclasses.replace(recipe, color_noise=0.1))
    layer_def, layer_params = files_of(spec, tmp_path)
    options: dict[str, Any] = {"devices": ["cpu:0"], "data": str(pictures), "seed": 5, "workers": 0}
    by_file = tmp_path / "by-file"
    train_run(Options(layer_def=layer_def, layer_params=layer_params, out=by_file, **options), Listener())
    by_name = tmp_path / "by-name"
    rates: dict[str, Any] = {
        "epochs": 2, "batch": 4, "lr_steps": spec.recipe.steps, "color_noise": 0.1, "net": "cifar-13pct",
    }  # fmt: skip
    train_run(Options(out=by_name, **rates, **options), Listener())
    assert_same_run(by_file, by_name)
    one, two = (runs.read_config(path)["spec"] for path in (by_file, by_name))
    assert one["recipe"]["epochs"] == 2 and two.pop("recipe") != one.pop("recipe")
    assert one == two


def test_an_exported_run_can_be_repeated(tmp_path: Path) -> None:
    """The files contain the options that it was trained with, not the recipe of its network."""
    options: dict[str, Any] = {
        "devices": ["cpu:0"], "data": str(colored_pictures(tmp_path / "pictures", 12, 30)), "seed": 5,
        "workers": 0,
    }  # fmt: skip
    chosen: dict[str, Any] = {
        "net": "cifar-13pct", "epochs": 2, "batch": 4, "lr": 0.002, "momentum": 0.75, "mirror": False,
        "pad": 2, "lr_schedule": RateCurve("cosine", 10.0), "warmup": 1.0, "weight_decay": 0.001,
    }  # fmt: skip
    first, again = tmp_path / "first", tmp_path / "again"
    options["lr_scale"] = {"conv1": 2.0}
    train_run(Options(out=first, **chosen, **options), Listener())
    said = succeed("export", "--run", first, "--out", tmp_path / "files")
    assert "conv1: the files do not contain --lr-scale conv1=2" in said
    layer_def, layer_params = tmp_path / "files/layers.cfg", tmp_path / "files/layer-params.cfg"
    train_run(Options(out=again, layer_def=layer_def, layer_params=layer_params, **options), Listener())
    assert_same_run(first, again)


def test_an_edited_rate_counts(tmp_path: Path) -> None:
    """Rates and momentum are said in the files' own words alone."""
    layer_def, layer_params = files_of(nets.build("cifar-quick"), tmp_path)
    text = layer_params.read_text()
    assert "cconvnet: lr" not in text and "cconvnet: momentum" not in text
    layer_params.write_text(text.replace("epsW=0.001", "epsW=0.5").replace("batch=128", "batch=7"))
    got, _ = read(layer_def, layer_params, image_shape=(32, 32))
    assert (got.recipe.lr, got.recipe.batch) == (0.5, 7)


def test_arguments_count_before_comments(tmp_path: Path) -> None:
    paths = files_of(nets.build("cifar-13pct"), tmp_path)
    recipe = TrainRecipe(batch=3, epochs=1, lr=0.5)
    got, _ = read(*paths, image_shape=(40, 40), crop=16, name="mine", recipe=recipe)
    assert (got.name, got.input, got.recipe.batch) == ("mine", InputSpec(16, 16, 3, center_mean=True), 3)
    got, _ = read(*paths, image_shape=(40, 40))
    assert (got.stored, got.input.height) == ((40, 40), 24)
    with pytest.raises(ValueError, match="is for crops of 24x24, larger than the images, 20x20: give a crop"):
        read(*paths, image_shape=(20, 20))
    assert read(*paths, image_shape=(20, 20), crop=20)[0].input.height == 20


def test_the_size_of_stored_images(tmp_path: Path) -> None:
    files = netfiles.NetFiles(*files_of(nets.build("cifar-13pct"), tmp_path))
    assert files.stored_size == 32
    assert files.build_sized(None)[0].stored == (32, 32)
    for path in (files.layer_def, files.layer_params):
        lines = [line for line in path.read_text().splitlines() if "cconvnet:" not in line]
        path.write_text("\n".join(lines))
    assert files.stored_size is None
    assert read_extras(files.layer_def, files.layer_params) == Extras()
    # As the files of other programs: named like their folder, with the recipe of none.
    got, _ = read(files.layer_def, files.layer_params, image_shape=(32, 32))
    assert (got.name, got.input) == (tmp_path.name, InputSpec(32, 32, 3))
    assert (got.recipe.batch, got.recipe.epochs, got.recipe.crop) == (128, 90, False)


@pytest.mark.parametrize(
    ("of", "line", "message"),
    [
        ("layer-params.cfg", "# cconvnet: batches=3", r"layer-params\.cfg:\d+: .*batches.*batch"),
        ("layer-params.cfg", "# cconvnet: lr=3", "lr"),
        ("layer-params.cfg", "; cconvnet: epochs=many", r"epochs must be a value of JSON, not many"),
        ("layer-params.cfg", "# cconvnet: epochs=0", r"layer-params\.cfg.*epochs must be at least 1, not 0"),
        ("layer-params.cfg", '# cconvnet: steps=[{"epoch": 1}]', "steps: the key 'factor' is missing"),
        ("layers.cfg", "# cconvnet: stored=[32]", r"stored must be \[height, width\], not \[32\]"),
        ("layers.cfg", '# cconvnet: height="tall"', r'cfg:\d+: height must be a whole number, not "tall"'),
        ("layers.cfg", "# cconvnet: height=true", "height must be a whole number, not true"),
        ("layers.cfg", "# cconvnet: name=7", "name must be a text, not 7"),
        ("layer-params.cfg", "# cconvnet: color_noise_epochs=[]", r"must be a number or null, not \[\]"),
        ("layer-params.cfg", "# cconvnet: mirror=1", "mirror must be true or false, not 1"),
    ],
)  # fmt: skip
def test_comments_that_cannot_be_used_are_named(of: str, line: str, message: str, tmp_path: Path) -> None:
    paths = files_of(nets.build("cifar-quick"), tmp_path)
    path = tmp_path / of
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(ConfigError, match=message):
        read(*paths, image_shape=(32, 32))


def test_every_field_of_a_recipe_is_kept(tmp_path: Path) -> None:
    spec = nets.build("cifar-quick")
    whole = dataclasses.replace(
        spec.recipe, batch=3, epochs=2, steps=(LrStep(0.5, 0.25, ("conv1",), "bias"),), plateau=4, crop=True,
        mirror=True, color_noise=0.25, color_noise_epochs=1.5, color_noise_shrinks=True, pad=4, warmup=0.5,
        warmup_from=0.25, schedule=RateCurve("cosine", 100.0), distort=Distortion(rotation=5),
        nesterov=True, random_resized_crop=True, area=(0.25, 0.5),
    )  # fmt: skip
    plain = TrainRecipe(batch=1, epochs=1, lr=0.5)
    same = [f.name for f in dataclasses.fields(plain) if getattr(whole, f.name) == getattr(plain, f.name)]
    assert same == ["momentum"], "a new field needs a value of its own here"
    paths = files_of(dataclasses.replace(spec, recipe=whole), tmp_path)
    assert read(*paths, image_shape=(32, 32))[0].recipe == whole
    kept = [line.split("=")[0] for line in paths[1].read_text().splitlines() if "cconvnet:" in line]
    fields = {field.name for field in dataclasses.fields(TrainRecipe)} - {"lr", "momentum"}
    assert {line.split(": ")[1] for line in kept} == fields


def test_the_mean_and_the_deviation_of_channels_are_kept(tmp_path: Path) -> None:
    spec = small("lenet")
    values = dataclasses.replace(spec.input, mean=(120.5,), deviation=(60.25,))
    got, _ = read(*files_of(dataclasses.replace(spec, input=values), tmp_path), image_shape=spec.stored_shape)
    assert (got.input.mean, got.input.deviation) == ((120.5,), (60.25,))
