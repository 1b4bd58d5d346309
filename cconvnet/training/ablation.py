"""Ablations: a network trained as it is, and without each of its parts, one run after the other."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cconvnet import nets, plots
from cconvnet.console import Reporter
from cconvnet.formats.netfiles import resolve
from cconvnet.nets import NetSpec, place
from cconvnet.nets.ablation import Ablation, chosen
from cconvnet.runs.ablation import FULL, TANH, markdown, results
from cconvnet.runs.folder import new_folder
from cconvnet.runs.overview import read_overview
from cconvnet.runs.reading import RunError, data_name, read_config
from cconvnet.system.outputs import check_folder, write_output
from cconvnet.training import option_files
from cconvnet.training.option import IMAGES
from cconvnet.training.options import DESCRIPTIONS, Options
from cconvnet.training.preparation import absolute_data, check_options, chosen_net
from cconvnet.training.session import train
from cconvnet.training.settings import Settings
from cconvnet.training.stopping import Interrupts, TrainingStopped

TABLE, PICTURE = "ablation.md", "ablation.png"  # in the folder of the runs

# Options of one session, which may differ when an ablation goes on.
_SESSION = (
    *("workers", "devices", "checkpoint_every", "keep"),
    *("log_every", "tensorboard", "detect_anomaly"),
)
# Options that choose the network, which is compared as a whole.
_OF_NET = ("net", "layer_def", "layer_params", "crop", "place")


@dataclasses.dataclass(frozen=True)
class AblationOutcome:
    """The end of an ablation.

    Attributes:
        folder: The folder that contains the runs.
        signal: The signal that stopped it, if any.
        failed: The runs that could not go on.
    """

    folder: Path
    signal: int | None = None
    failed: tuple[str, ...] = ()


def ablate(
    options: Options, words: Sequence[str] | None, reporter: Reporter, tanh_lr: float | None = None
) -> AblationOutcome:
    """Train a network, and the same without each of its parts, with one recipe and one seed.

    The runs are in ``full``, ``no-lrn`` and so on in the folder ``options.out``. Those that are complete are
    not repeated, others are resumed. Then a table and a picture of all runs are written there.

    Args:
        options: Of all runs; ``resume`` and ``steps`` are not used.
        words: The parts, by :data:`cconvnet.nets.ablation.ABLATIONS`; None: all that the network has.
        reporter: Shows progress and messages.
        tanh_lr: The rate of the run with tanh; None: that of all.

    Raises:
        ValueError: An option, the data or the folder cannot be used, or the network lacks a part.
        DeviceUnavailable: A device cannot be used.
        TrainingStopped: The full network cannot be trained. Others may fail.
        Terminated: SIGTERM or SIGHUP came before the first step of a run.
    """
    options = dataclasses.replace(options, resume=None, steps=None)
    check_options(options)
    if options.weights is not None:
        raise ValueError("--weights is not for ablations, whose runs begin with random weights")
    if options.out is not None and (options.out / FULL / "config.json").exists():
        spec = _begun_with(options.out / FULL, options)
    else:
        spec = _planned(options)
    ablations = chosen(words, spec)
    for ablation in ablations:
        ablation.apply(spec)  # refuses what the network lacks, before anything is trained
    if tanh_lr is not None:
        _check_tanh_lr(tanh_lr, ablations, options.out)
    folder = _folder(options, spec)
    session = {name: getattr(options, name) for name in _SESSION if _is_given(options, name)}
    failed: list[str] = []
    for number, left_out in enumerate([None, *ablations]):
        path = folder / (FULL if left_out is None else left_out.variant)
        reporter.say(f"{path.name}, {number + 1} of {len(ablations) + 1}")
        if left_out is None:
            own = dataclasses.replace(options, out=path)
        else:
            own = _variant(left_out, folder / FULL, path, session)
        if path.name == TANH and tanh_lr is not None:
            own = dataclasses.replace(own, lr=tanh_lr)
        try:
            signal = _run(own, path, session, reporter)
        except TrainingStopped as error:
            if left_out is None:
                raise
            reporter.say(f"{path.name} failed: {error}")
            failed.append(path.name)
            continue
        if signal is not None:
            return AblationOutcome(folder, signal, tuple(failed))
    _write(folder, reporter.say)
    return AblationOutcome(folder, failed=tuple(failed))


def _is_given(options: Options, name: str) -> bool:
    return bool(getattr(options, name) != getattr(Options, name))


# ---- before anything is trained ---------------------------------------------------------------------------


def _planned(options: Options) -> NetSpec:
    """Return the network before its run begins: in the size it was made for, with the options' recipe."""
    net = chosen_net(options) or resolve("lenet")
    spec, _ = net.build_sized(options.size)
    settings = options.settings(spec.recipe)
    recipe = {option.recipe: settings[option.setting] for option in DESCRIPTIONS.values() if option.recipe}
    return dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, **recipe))


def _trained(path: Path) -> tuple[NetSpec, Settings]:
    """Return the network of a run, with the recipe by which it is trained, and the run's settings."""
    config = read_config(path)
    settings = Settings.from_dict(config["settings"])
    spec = nets.spec_from_dict(config["spec"])
    return dataclasses.replace(spec, recipe=settings.recipe(spec.recipe)), settings


def _begun_with(full: Path, options: Options) -> NetSpec:
    """Return the network of the full run, after a check that the options are those it began with.

    Raises:
        RunError: One of them differs.
    """
    there = option_files.read(full)
    given = {name: getattr(options, name) for name in DESCRIPTIONS if _is_given(options, name)}
    if "data" in given:
        given["data"] = absolute_data(options.data)
    if given.pop("freeze", None):  # the run's file has its factors of 0
        given["lr_scale"] = options.lr_factors()
    for name, value in given.items():
        if name not in (*_SESSION, "out", *_OF_NET) and value != there.get(name):
            flag = DESCRIPTIONS[name].name
            raise RunError(f"{flag} differs from that of {full}; leave it out, or choose another --out")
    (spec, settings), net = _trained(full), chosen_net(options)
    if net is not None:
        height, width, channels = settings.image_shape
        same = False
        with contextlib.suppress(ValueError):  # a network that cannot be made for the images is another one
            other, _ = net.build((height, width, channels), len(settings.classes))
            same = settings.applied_to(place(other, options.place or {})).layers == spec.layers
        if not same:
            raise RunError(
                f"{full} trains {settings.net}, not {net}; leave out --net, or choose another --out"
            )
    return spec


def _check_tanh_lr(rate: float, ablations: Sequence[Ablation], folder: Path | None) -> None:
    """Refuse a rate that the run with tanh cannot have.

    Raises:
        ValueError: There is no such run, or it has begun with another rate.
    """
    if TANH not in [ablation.variant for ablation in ablations]:
        raise ValueError("--tanh-lr goes with --what relu")
    if folder is not None and (folder / TANH / "config.json").exists():
        _, settings = _trained(folder / TANH)
        if settings.lr != rate:
            raise RunError(f"--tanh-lr {rate:g} differs from the rate of {folder / TANH}, {settings.lr:g}")


def _folder(options: Options, spec: NetSpec) -> Path:
    """Return the folder of the runs; a new one in runs/ if the options name none.

    Raises:
        RunError: It contains something else.
        OSError: It cannot be made or written.
    """
    folder = options.out
    if folder is None:
        check_folder(Path("runs"))
        return new_folder(f"ablation-{spec.name}", data_name(options.data))
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FULL).is_dir():
        raise RunError(f"{folder} is not empty, and contains no ablation; choose another --out")
    check_folder(folder)
    return folder


# ---- runs -------------------------------------------------------------------------------------------------


def _variant(ablation: Ablation, full: Path, path: Path, session: dict[str, Any]) -> Options:
    """Return the options of a run without one part: those of the full run, but for the network.

    The network is that of the full run, for the same images. Its recipe has the augmentation.
    """
    given = option_files.read(full) | dict.fromkeys(_OF_NET)
    given |= {name: None for name, option in DESCRIPTIONS.items() if option.panel == IMAGES}
    spec, _ = _trained(full)
    return Options(**given | session | {"net": ablation.apply(spec), "out": path})


def _run(options: Options, path: Path, session: dict[str, Any], reporter: Reporter) -> int | None:
    """Train a run to its end, or resume it; return the signal that stopped it."""
    if (path / "config.json").exists():
        if read_overview(path).state == "complete":
            reporter.say(f"{path} is complete")
            return None
        options = Options(resume=path, **session)
    with Interrupts(ends_process=True) as stop:
        outcome = train(options, reporter, stop)
    if outcome.signal is None:
        plots.into_run(path, reporter.say)
    return outcome.signal


def _write(folder: Path, say: Callable[[str], None]) -> None:
    """Write the table and the picture, or report why there is no picture."""
    write_output(folder / TABLE, [markdown(results(folder)).encode()])
    try:
        plots.ablation(folder, folder / PICTURE)
    except (plots.PlotError, OSError) as error:
        say(f"{PICTURE} was not drawn: {error}")
