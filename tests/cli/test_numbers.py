"""Every number out of range is refused by name, in every command and every function."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from cconvnet import checks, cli, nets, ops
from cconvnet.checks import MAX_FLOAT32, NumberError, real, whole
from cconvnet.nets.transform import scaled
from cconvnet.network import Network
from cconvnet.training.option_values import parse_lr_plateau, parse_lr_scale, parse_lr_steps
from cconvnet.training.options import Options
from cconvnet.training.schedule import StepSchedule
from cconvnet.training.session import check_options

# ---- the checker ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "bounds", "words"),
    [
        (0, (1, 9), "x must be at least 1, not 0"),
        (10, (1, 9), "x must be at most 9, not 10"),
        (10**400, (1, 9), "x must be at most 9"),
        (-1, (), "x must be at least 0, not -1"),
    ],
)
def test_whole_numbers(value: int, bounds: tuple[int, ...], words: str) -> None:
    with pytest.raises(NumberError, match=words):
        whole("x", value, *bounds)
    assert whole("x", np.int64(5), 1, 9) == 5


@pytest.mark.parametrize("value", [1.0, "1", True, None])
def test_what_is_no_whole_number(value: object) -> None:
    with pytest.raises(TypeError, match="x must be an integer"):
        whole("x", value)


@pytest.mark.parametrize(
    ("value", "bounds", "words"),
    [
        (float("nan"), {}, "x must be a finite number, not nan"),
        (float("nan"), {"above": 0}, "x must be above 0, not nan"),
        (np.float32("nan"), {"low": 0}, "x must be a finite number"),
        (float("inf"), {}, "x must be a finite number, not inf"),
        (-float("inf"), {"low": 0}, "x must be a finite number, not -inf"),
        (1e39, {}, "x must be a finite number, not 1e"),
        (10**400, {}, "x must be a finite number"),
        (0, {"above": 0}, "x must be above 0, not 0"),
        (-0.5, {"low": 0}, "x must be at least 0, not -0.5"),
        (2.0, {"high": 1.5}, "x must be at most 1.5, not 2.0"),
        (float("inf"), {"high": 1.5}, "x must be at most 1.5, not inf"),
    ],
)
def test_real_numbers(value: float, bounds: dict[str, float], words: str) -> None:
    with pytest.raises(NumberError, match=words):
        real("x", value, **bounds)
    assert real("x", MAX_FLOAT32) == MAX_FLOAT32 and real("x", 1) == 1.0


@pytest.mark.parametrize(
    ("text", "is_one"), [("7", True), ("²", False), ("٣", False), ("-1", False), ("", False)]
)
def test_digits(text: str, is_one: bool) -> None:
    assert checks.is_number(text) == is_one


# ---- the command line -----------------------------------------------------------------------------------


def commands(
    app: typer.Typer, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Callable[..., Any]]]:
    for command in app.registered_commands:
        assert command.callback is not None
        yield (*path, command.name or command.callback.__name__), command.callback
    for group in app.registered_groups:
        assert group.typer_instance is not None and group.name is not None
        yield from commands(group.typer_instance, (*path, group.name))


def numeric_options() -> Iterator[tuple[tuple[str, ...], str, type]]:
    for path, function in commands(cli.app):
        hints = typing.get_type_hints(function, include_extras=True)
        for name in inspect.signature(function).parameters:
            if hints[name] is typer.Context:
                continue
            base, about = typing.get_args(hints[name])[:2]
            kind = {base, *typing.get_args(base)} & {int, float}
            if kind and hasattr(about, "param_decls"):
                option = (about.param_decls or (f"--{name.replace('_', '-')}",))[0]
                yield path, option, kind.pop()


NUMERIC = list(numeric_options())
# Built once: typer builds all commands anew for each command line.
COMMANDS = typer.main.get_command(cli.app)

# What a command needs to be read at all; none of it exists, so that no work is begun.
NEEDED = {
    ("evaluate",): ("--run", "nowhere"),
    ("predict",): ("--run", "nowhere", "nowhere.png"),
    ("import",): ("nowhere", "--data", "nowhere"),
    ("export",): ("--out", "nowhere"),
    ("augment",): ("--out", "nowhere.png"),
    ("data", "prepare"): ("nowhere", "shards"),
    ("data", "verify"): ("nowhere",),
    ("plot", "curve"): ("nowhere",),
    ("plot", "predictions"): ("nowhere",),
}

# A 0 that means something.
ZERO_IS_LEGITIMATE = {
    *("--seed", "--workers", "--warmup", "--warmup-from", "--color-noise", "--pad", "--momentum"),
    *("--weight-decay", "--label-smoothing", "--lars", "--older-than"),
}

HUGE = "1" + 30 * "0"


def test_the_walk_finds_the_options() -> None:
    assert len(NUMERIC) >= 60
    assert (("train",), "--lr", float) in NUMERIC and (("bench", "scaling"), "--batch-max", int) in NUMERIC


@pytest.mark.parametrize(("path", "option", "kind"), NUMERIC, ids=lambda value: str(value))
def test_every_numeric_option(
    path: tuple[str, ...],
    option: str,
    kind: type,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.commands, "app", COMMANDS)
    texts = ["nan", "inf", "-inf", "-1", "0", "1e999", "²", "", HUGE, "1" + 400 * "0", "x"]
    for text in texts:
        if text == "0" and option in ZERO_IS_LEGITIMATE:
            continue
        if option in ("--lr", "--tanh-lr", "--color-noise", "--weight-decay") and text == HUGE:
            continue  # a float32, if a foolish one
        monkeypatch.setattr(sys, "argv", ["cconvnet", *path, *NEEDED.get(path, ()), f"{option}={text}"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr().err
        assert ended.value.code == 2, (text, said)
        assert option in said and "Traceback" not in said, (text, said)
        assert "CCONVNET_DEBUG" not in said, (text, said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("describe", "--place", "conv1=²"), "--place"),
        (("describe", "--place", "conv1=-1"), "--place"),
        (("describe", "--place", "conv1=cpu:²"), "--place"),
        (("train", "--lr-steps", "nan"), "--lr-steps"),
        (("train", "--lr-steps", "0,1"), "--lr-steps"),
        (("train", "--lr-steps", "1,1e999"), "--lr-steps"),
        (("train", "--lr-plateau", "²"), "--lr-plateau"),
        (("train", "--lr-plateau", "0"), "--lr-plateau"),
        (("train", "--lr-plateau", HUGE), "--lr-plateau"),
        (("train", "--lr-scale", "conv1=nan"), "--lr-scale"),
        (("train", "--lr-scale", "conv1=1e39"), "--lr-scale"),
        (("train", "--lr-scale", "conv1=²"), "--lr-scale"),
        (("bench", "scaling", "--sizes", "28,²"), "--sizes"),
        (("bench", "scaling", "--sizes", "0"), "--sizes"),
        (("bench", "scaling", "--sizes", HUGE), "--sizes"),
        (("describe", "--device", "cpu:²"), "device"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_numbers_within_texts(
    arguments: tuple[str, ...],
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cconvnet", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and option in said.partition("\n")[0], said
    assert not list(tmp_path.iterdir())


# ---- Python ---------------------------------------------------------------------------------------------


def float_parameters() -> Iterator[tuple[str, str]]:
    for name, function in inspect.getmembers(ops, inspect.isfunction):
        if name in ops.__all__:
            for parameter, hint in typing.get_type_hints(function).items():
                if parameter != "return" and float in {hint, *typing.get_args(hint)}:
                    yield name, parameter


FLOATS = list(float_parameters())


def arguments_for(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the required arguments of a function of ops, and `size` if it has one."""
    image = np.ones((1, 4, 4, 4), np.float32)
    known: dict[str, Any] = {
        "probabilities": np.full((2, 3), 1 / 3, np.float32),
        "logits": np.ones((2, 3), np.float32),
        "labels": np.zeros(2, np.int32),
        "images": np.ones((1, 4, 4, 3), np.uint8),
        "top": np.zeros(1, np.int32),
        "left": np.zeros(1, np.int32),
        "mirror": np.zeros(1, np.uint8),
        "size": 3,
        "neuron": "linear",
        **{name: np.ones(4, np.float32) for name in ("mean", "variance", "gamma", "beta")},
        "keep": 0.5,
        "seed": 1,
        "lr": 0.1,
        "limit": 1.0,
        "merges": [0],
        "rates": np.ones(2, np.float32),
        "eta": 0.001,
    }
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            found[name] = known[name] if name in known else image.copy()
    if "target" in found:
        found |= {"x": np.ones((2, 3), np.float32), "target": np.zeros((2, 3), np.float32)}
    if "dy" in found and "window" in inspect.signature(function).parameters:
        found["dy"] = found["y"] = np.ones((1, 1, 1, 4), np.float32)
    if "merges" in found:
        found["x"] = np.ones((1, 4), np.float32)
    return found


def test_the_walk_finds_the_arguments() -> None:
    assert len(FLOATS) >= 25
    assert {("sgd_update", "lr"), ("lrn_forward", "beta"), ("limit_norm", "limit")} <= set(FLOATS)


@pytest.mark.parametrize(("function", "parameter"), FLOATS)
def test_every_float_of_ops(function: str, parameter: str) -> None:
    call = getattr(ops, function)
    call(**arguments_for(call))  # so that nothing else is wrong below
    for value in (np.nan, np.inf, -np.inf, 1e39, np.float32(np.nan), 10**400):
        arguments = {**arguments_for(call), parameter: value}
        before = {name: array.copy() for name, array in arguments.items() if isinstance(array, np.ndarray)}
        with pytest.raises(ValueError, match=rf"\b{parameter}\b"):
            call(**arguments)
        for name, array in before.items():
            assert np.array_equal(arguments[name], array), name
    with pytest.raises(TypeError, match=rf"\b{parameter}\b"):
        call(**{**arguments_for(call), parameter: "1"})


NUMBERS = [
    field.name
    for field in dataclasses.fields(Options)
    if str(field.type).partition(" |")[0] in ("int", "float")
]


@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "workers"])
def test_every_number_of_options(name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    for value in (float("nan"), float("inf"), -1, 10**40):
        with pytest.raises((ValueError, TypeError), match=flag):
            check_options(Options(**{name: value}))
    check_options(Options())


def test_factors_of_options() -> None:
    for factor in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match="--lr-scale of conv1"):
            check_options(Options(lr_scale={"conv1": factor}))
    for parse in (parse_lr_steps, parse_lr_plateau):
        with pytest.raises(ValueError, match="must be"):
            parse("nan")
    with pytest.raises(ValueError, match="--lr-scale"):
        parse_lr_scale("conv1=inf")


def layer_types() -> list[type]:
    return sorted(set(nets.LAYER_TYPES.values()), key=lambda kind: kind.__name__)


@pytest.mark.parametrize(
    "kind",
    [*layer_types(), nets.Init, nets.Neuron, nets.RateCurve, nets.InputSpec, nets.TrainRecipe],
)
def test_every_float_of_a_network(kind: type) -> None:
    """The constructor of a spec refuses a value that is not finite, by name."""
    needed: dict[str, Any] = {"name": "layer", "filters": 4, "window": 3, "outputs": 4, "size": 5}
    needed |= {"height": 8, "width": 8, "channels": 3, "batch": 2, "epochs": 1, "lr": 0.1}
    fields = dataclasses.fields(kind)
    required = {
        field.name: needed[field.name]
        for field in fields
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name in needed
    }
    required |= {
        nets.BlurSpec: {"stdev": 1.5},
        nets.SelectSpec: {"channels": (0, 1)},
        nets.RbfSpec: {"codes": ("+-",)},
        nets.RateCurve: {"kind": "exp", "factor": 2.0},
    }.get(kind, {})
    kind(**required)
    for field in fields:
        if "float" in str(field.type):
            for value in (float("nan"), float("inf")):
                with pytest.raises(ValueError, match=rf"\b{field.name}\b"):
                    kind(**{**required, field.name: value})


def test_rates_of_a_step() -> None:
    network = Network(nets.build("lenet"), batch=2, devices="cpu:0")
    before = {name: parameter.host() for name, parameter in network.parameters.items()}
    for lr, momentum in ((np.nan, 0.0), (np.inf, 0.0), (0.1, np.nan), (dict.fromkeys(before, np.nan), 0.0)):
        with pytest.raises(ValueError, match=r"lr|momentum"):
            network.update(lr, momentum)
    for name, parameter in network.parameters.items():
        assert np.array_equal(parameter.host(), before[name])


def test_rates_and_widths() -> None:
    for lr in (float("nan"), float("inf"), -1.0, 1e39):
        with pytest.raises(ValueError, match="lr must be"):
            StepSchedule(lr)
    for width in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="width must be"):
            scaled(nets.build("lenet"), width)
