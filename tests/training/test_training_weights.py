"""Trainings that begin with trained weights, of a run or of another program's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import Listener
from helpers.training import SETTINGS, run_training

from cconvnet import runs
from cconvnet.data.datasets import Arrays
from cconvnet.errors import CheckpointError
from cconvnet.formats.weights import write_weights
from cconvnet.training import option_files
from cconvnet.training.imported import weights_of
from cconvnet.training.option_values import parse_except
from cconvnet.training.options import AUTO, Options
from cconvnet.training.session import train

Array = np.ndarray[Any, Any]


def tensors_of(path: Path) -> dict[str, Array]:
    tensors = runs.find_checkpoint(path)[1].tensors
    return {name: one for name, one in tensors.items() if "velocity" not in name and "data." not in name}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of LeNet on the digits, and its weights in a file of PyTorch's beside it."""
    path = tmp_path_factory.mktemp("trained") / "run"
    run_training(out=path, epochs=1)
    weights = weights_of(path)
    assert weights.spec is not None
    write_weights(path.with_name("a.pth"), "torch", weights.spec, weights.tensors)
    return path


def begun(path: Path, arrays: Arrays | None = None, **options: Any) -> tuple[dict[str, Array], list[str]]:
    """Return the parameters of a run's first checkpoint, and what was said."""
    listener = Listener()
    train(Options(**{**SETTINGS, "out": path, "steps": 1, "keep": 9, **options}), listener, arrays=arrays)
    return tensors_of(path / "checkpoints" / "step-00000000.safetensors"), listener.lines


def assert_same(found: dict[str, Array], wanted: dict[str, Array]) -> None:
    assert set(found) == set(wanted)
    assert all(np.array_equal(found[name], value) for name, value in wanted.items())


def test_training_begins_with_the_weights(trained: Path, tmp_path: Path) -> None:
    first, file = tensors_of(trained), trained.with_name("a.pth")
    for name, source, options in (
        ("of a file", file, {"net": "lenet"}),
        ("of a run", trained, {"net": "lenet"}),
        ("of a run, with its network", trained, {}),
        ("of a checkpoint", runs.find_checkpoint(trained)[0], {}),
        ("as nothing is resumed", file, {"net": "lenet", "resume": AUTO}),
    ):
        found, said = begun(tmp_path / name, weights=source, **options)
        assert_same(found, first)
        assert f"weights: {file if source == file else runs.find_checkpoint(trained)[0]}" in said
        state = runs.find_checkpoint(tmp_path / name / "checkpoints" / "step-00000000.safetensors")[1].tensors
        assert not any(value.any() for tensor, value in state.items() if "velocity" in tensor)
    # The options of a run are kept, so that it can be repeated from any folder.
    kept = option_files.read(tmp_path / "of a file")
    assert kept["weights"] == file.absolute()
    found, _ = begun(tmp_path / "repeated", **{**kept, "devices": ["cpu:0"], "out": tmp_path / "repeated"})
    assert_same(found, first)


def test_layers_for_other_classes_are_left_out(trained: Path, tmp_path: Path) -> None:
    """The error names the layer; one that is left out begins as it would without weights."""
    arrays = Arrays.of((np.arange(80 * 64).astype(np.uint8).reshape(80, 8, 8), np.arange(80) % 4), test=0.2)
    first, options = tensors_of(trained), {"net": "lenet", "size": None}
    random, _ = begun(tmp_path / "random", arrays, **options)
    for source in (trained, trained.with_name("a.pth")):
        with pytest.raises(
            CheckpointError,
            match=r"fc2\.weight is 10x500 there and 4x500 here; --except fc2 leaves the layer",
        ):
            begun(tmp_path / "none", arrays, weights=source, **options)
        assert not (tmp_path / "none").exists()
        path = tmp_path / source.name
        found, said = begun(path, arrays, weights=source, except_layers=("fc*",), **options)
        assert "weights: at their first values: fc1, fc2" in said
        assert_same(found, {name: (random if "fc" in name else first)[name] for name in found})
    with pytest.raises(ValueError, match=r"--except: a layer must be one of .*fc2, not 'fc9'"):
        begun(tmp_path / "none", weights=trained, except_layers=("fc9",))


def test_layers_of_other_shapes_are_left_out_if_that_is_asked_for(trained: Path, tmp_path: Path) -> None:
    arrays = Arrays.of((np.arange(80 * 64).astype(np.uint8).reshape(80, 8, 8), np.arange(80) % 4), test=0.2)
    first, options = tensors_of(trained), {"net": "lenet", "size": None, "except_layers": ("auto",)}
    random, _ = begun(tmp_path / "random", arrays, net="lenet", size=None)
    for source in (trained, trained.with_name("a.pth")):
        found, said = begun(tmp_path / source.name, arrays, weights=source, **options)
        assert "weights: fc2 is left out: 10x500 there and 4x500 here" in said
        assert "weights: at their first values: fc2" in said
        assert not any("trained ones" in line for line in said)
        assert_same(found, {name: (random if "fc2" in name else first)[name] for name in found})
    found, said = begun(
        tmp_path / "same", weights=trained, net="lenet", except_layers=("auto", "fc1"), lr=None
    )
    assert "lr: 0.02, the recipe's for random weights; trained ones may want a lower --lr" in said
    assert "weights: --except auto leaves out nothing: all shapes are those of the network" in said
    assert "weights: at their first values: fc1" in said
    with pytest.raises(CheckpointError, match=r"no layer of cifar-quick has weights of these shapes there"):
        begun(
            tmp_path / "none", weights=trained.with_name("a.pth"), net="cifar-quick", except_layers=("auto",)
        )
    assert not (tmp_path / "none").exists()


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="--weights begins a new run; leave out --resume"):
        Options(weights=Path("a.pth"), resume=Path("run")).check()
    with pytest.raises(ValueError, match="--except goes with --weights"):
        Options(except_layers=("fc8",)).check()
    with pytest.raises(ValueError, match="--except must be layers"):
        parse_except("fc8,,")


def test_a_resumed_run_keeps_its_own_weights(trained: Path, tmp_path: Path) -> None:
    """A command that is given again and again names its weights each time."""
    path = tmp_path / "run"
    begun(path, weights=trained, resume=AUTO)
    train(Options(**{**SETTINGS, "out": path, "steps": 2, "weights": trained, "resume": AUTO}), Listener())
    assert runs.find_checkpoint(path)[1].step == 2
