"""Options of a training: each is written once, and its flag, its check and its setting follow from that."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest

from cconvnet.cli.train import train as command
from cconvnet.nets import AREA, CONSTANT, NO_DISTORTION, Distortion, LrStep
from cconvnet.nets.recipe import TrainRecipe
from cconvnet.training.option_values import parse_area, parse_distort, parse_lr_schedule, plain
from cconvnet.training.options import DESCRIPTIONS, Options
from cconvnet.training.settings import Settings

KEPT = [name for name, option in DESCRIPTIONS.items() if option.on_resume is not None]


def test_each_option_has_a_flag_of_its_type() -> None:
    parameters = inspect.signature(command).parameters
    assert [*DESCRIPTIONS, "config", "context", "quiet"] == list(parameters)
    hints = get_type_hints(Options)
    for name, option in DESCRIPTIONS.items():
        kind, flag = get_args(parameters[name].annotation)
        assert kind == (str | None if option.parse else hints[name]), name
        assert (flag.default, flag.help, flag.metavar) == (option.flag, option.help, option.metavar)
        assert flag.rich_help_panel == option.panel
        assert parameters[name].default == getattr(Options(), name)


def test_the_command_turns_texts_into_values(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Options] = []

    def stopped(options: Options, *rest: object, **more: object) -> None:
        seen.append(options)
        raise ValueError("stopped")

    monkeypatch.setattr("cconvnet.training.session.train", stopped)
    texts = {name: getattr(Options(), name) for name in DESCRIPTIONS}
    texts |= {"devices": "cpu:0, cpu:1", "place": "conv2=1", "lr_steps": "2,3", "lr_plateau": "none"}
    texts |= {"lr_scale": "conv1=0.5", "freeze": "fc1,fc2", "resume": Path("auto"), "seed": 7}
    with pytest.raises(ValueError, match="stopped"):
        command(**texts, quiet=True)
    assert seen == [
        Options(
            devices=["cpu:0", "cpu:1"],
            place={"conv2": 1},
            lr_steps=(LrStep(2.0, 0.1), LrStep(3.0, 0.1)),
            lr_plateau=0,
            lr_scale={"conv1": 0.5},
            freeze=("fc1", "fc2"),
            resume=Path("auto"),
            seed=7,
        )
    ]


@pytest.mark.parametrize("name", KEPT)
def test_options_that_a_run_keeps_are_settings(name: str) -> None:
    kind, setting = get_type_hints(Options)[name], get_type_hints(Settings)[DESCRIPTIONS[name].setting]
    assert setting == kind or setting in get_args(kind) or get_origin(setting) is tuple


def test_a_recipe_gives_what_is_not_asked_for() -> None:
    recipe = TrainRecipe(batch=7, epochs=3, lr=0.2, plateau=4, color_noise=0.1)
    values = Options(lr=0.5).settings(recipe)
    assert list(values) == [DESCRIPTIONS[name].setting for name in KEPT]
    assert (values["lr"], values["batch"], values["epochs"], values["lr_plateau"]) == (0.5, 7, 3, 4)
    assert (values["seed"], values["towers"], values["precision"], values["size"]) == (0, 1, "fp32", None)
    for name, value in zip(KEPT, values.values(), strict=True):
        if DESCRIPTIONS[name].recipe is not None and name != "lr":
            assert value == getattr(recipe, str(DESCRIPTIONS[name].recipe)), name


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("none", NO_DISTORTION),
        ("rotation=15", Distortion(rotation=15)),
        ("rotation=15, scaling=10,translation=5,alpha=36,sigma=4.5", Distortion(15, 10, 5, 36, 4.5)),
    ],
)
def test_distortions_are_read_as_they_are_written(text: str, limits: Distortion) -> None:
    assert parse_distort(text) == parse_distort(limits) == parse_distort(plain(limits)) == limits
    assert (
        Options(distort=limits).settings(TrainRecipe(7, 3, 0.2, distort=Distortion(1)))["distort"] == limits
    )
    assert Options().settings(TrainRecipe(7, 3, 0.2, distort=limits))["distort"] == limits


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("rotate=3", "--distort: a limit must be one of .*not 'rotate'; did you mean 'rotation'"),
        ("rotation", "--distort must be like rotation=15,alpha=36, or none, not 'rotation'"),
        ("rotation=-1", "--distort: rotation must be at least 0"),
        ("scaling=100", "--distort: scaling must be at most 90"),
        ("sigma=0", "--distort: sigma must be at least 0.1"),
        ("", "--distort: a limit must be one of"),
    ],
)
def test_distortions_that_make_no_sense(wrong: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        parse_distort(wrong)


def test_options_imply_others() -> None:
    recipe = TrainRecipe(batch=7, epochs=3, lr=0.2, steps=(LrStep(2, 0.1),), plateau=4)
    cosine = parse_lr_schedule("cosine")

    def chosen(**given: object) -> list[object]:
        values = Options(**given).settings(recipe)
        assert values.items() >= Options(**given).given("take").items()
        return [values[name] for name in ("lr_schedule", "lr_steps", "lr_plateau", "crop")]

    assert chosen() == chosen(lr_schedule=CONSTANT) == [CONSTANT, recipe.steps, 4, False]
    assert chosen(lr_schedule=cosine) == [cosine, (), 0, False]
    assert chosen(lr_schedule=cosine, lr_steps=recipe.steps, lr_plateau=1) == [cosine, recipe.steps, 1, False]
    assert chosen(pad=4)[-1] and not chosen(pad=0)[-1]
    assert Options().settings(TrainRecipe(batch=7, epochs=3, lr=0.2, pad=2))["crop"]
    with pytest.raises(ValueError, match="--pad is for random crops; leave out --no-random-crop"):
        Options(pad=4, random_crop=False).check()


def test_random_resized_crops_take_the_place_of_random_crops() -> None:
    names = ("random_resized_crop", "area", "crop", "pad")
    recipe = TrainRecipe(batch=7, epochs=3, lr=0.2, crop=True, pad=2)
    resized = dataclasses.replace(recipe, random_resized_crop=True, area=(0.3, 0.9))

    def chosen(recipe: TrainRecipe, **given: object) -> list[object]:
        options = Options(**given)
        options.check()
        values = options.settings(recipe)
        assert values.items() >= options.given("take").items()
        return [values[name] for name in names]

    assert chosen(recipe) == [False, AREA, True, 2]
    assert chosen(recipe, random_resized_crop=True) == [True, AREA, False, 0]
    assert chosen(recipe, area=(0.5, 1.0)) == [True, (0.5, 1.0), False, 0]
    assert chosen(resized) == [True, (0.3, 0.9), False, 0]
    assert chosen(resized, random_crop=True) == [False, (0.3, 0.9), True, 2]
    assert chosen(resized, random_resized_crop=False) == [False, (0.3, 0.9), True, 2]
    for given in ({"random_resized_crop": True, "pad": 1}, {"area": AREA, "random_crop": True}):
        with pytest.raises(ValueError, match="--random-resized-crop takes the place of random crops; leave"):
            chosen(recipe, **given)
    assert chosen(recipe, random_resized_crop=False, area=(0.5, 1.0)) == [False, (0.5, 1.0), True, 2]


def test_areas_are_read_as_they_are_written() -> None:
    assert parse_area("0.08, 1") == parse_area([0.08, 1]) == parse_area(plain(AREA)) == AREA
    for wrong in ("0.5", "a,b", "0.1,0.2,0.3", "", [0.5]):
        with pytest.raises(ValueError, match=r"--area must be like 0\.08,1, not"):
            parse_area(wrong)
    for wrong in ("0,1", "0.5,0.25", "0.5,1.5", "-1,1"):
        with pytest.raises(ValueError, match="--area must be"):
            parse_area(wrong)


def test_options_that_were_given_are_told_from_those_that_were_not() -> None:
    options = Options(epochs=2, seed=0, color_noise=0.0, steps=9)
    assert options.given("take") == {"epochs": 2, "color_noise": 0.0}
    assert options.given("refuse") == {"seed": 0}
    assert dataclasses.replace(options, seed=None).given("refuse") == {}
