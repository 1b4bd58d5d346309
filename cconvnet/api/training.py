"""The functions of training from Python: ``train`` and ``load``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from cconvnet.api.conversion import errors_in_python, lists_keywords
from cconvnet.api.keywords import TrainingKeywords
from cconvnet.api.run import Run, ended
from cconvnet.api.session import arrays_of, run_session
from cconvnet.data.datasets import Arrays
from cconvnet.formats.netfiles import resolve
from cconvnet.nets import NetSpec
from cconvnet.training import option_files
from cconvnet.training.imported import Reading, checkpoint_of, is_run, weights_of, write_run
from cconvnet.training.option_values import parse_except


@lists_keywords
def train(
    net: NetSpec | str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | Arrays | Sequence[Any] | None = None,
    *,
    test: float | None = None,
    test_seed: int = 0,
    classes: Sequence[str] | None = None,
    keep_data: bool | None = None,
    resume: Run | str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    **options: Unpack[TrainingKeywords],
) -> Run:
    """Train a network, or resume its training, as ``cconvnet train`` does.

    The folder of the run, with its log and checkpoints, is in ``runs/`` unless `out` names another. Ctrl-C,
    or a notebook's interrupt, ends training after the present step and saves a checkpoint. Where somebody
    types, in a notebook or at a prompt, the stopped run is returned. A script ends: KeyboardInterrupt is
    raised, and its attribute ``run`` is the run. A second Ctrl-C stops at once. After SIGTERM and SIGHUP,
    such as those of a cluster, a checkpoint is saved too, and the signal then does what it would have done.
    Signals come only to the main thread: a training in another thread goes on to its end.

    Example:
        >>> run = cc.train("lenet", (x, y), test=0.1, epochs=5, lr=0.05)   # x uint8[n,H,W,C], y int[n]
        >>> run = cc.train("alexnet", "data/flowers", epochs=30, devices="cuda:0,cuda:1")
        >>> run = cc.train(resume="runs/first", epochs=60)
        >>> run = cc.train("vgg16", "data/flowers", weights="vgg16.pth", except_layers="fc8", lr=0.001)

    Args:
        net: A NetSpec, the name of a built-in network, or a file: .py, .json, .onnx, .prototxt; lenet if not
            given.
        data: A folder, an .npz file or "digits", as the command takes it; or arrays, ``(x, y)`` or ``((x, y),
            (x_test, y_test))``, of NumPy, CuPy or PyTorch. Images are whole numbers from 0 to 255, [n,H,W] or
            [n,H,W,C] with C of 1 or 3; floats are refused with the line that converts them. Labels are whole
            numbers from 0 on, or names; or those of pixels, [n,H,W], of which 255 is ignored. The embedded
            digits if not given.
        test: Of ``(x, y)``, the share of the images of each class that are for testing; 0: none, and the
            training images serve for testing too. If not given, every fifth image of each class.
        test_seed: Seed of the random choice of test images.
        classes: Names of the classes of arrays, in the order of their numbers. If not given, the labels' own
            names, sorted, or their numbers.
        keep_data: Whether the run's folder keeps the arrays. If not given, a new run does up to 64 MiB, and a
            resumed one as before. A run that does not keep them needs them again to be resumed, evaluated or
            reported.
        resume: The run to resume: a Run, its folder or one of its checkpoints; "auto": as the command's. It
            needs neither network nor data, unless the data were arrays that it does not keep.
        config: A file of options in TOML, or the folder of a run to repeat, as the command takes them. The
            other arguments override it.
        quiet: Show nothing.
        **options: The options of a training; None, or leaving one out, leaves the choice to the network's
            recipe or to the resumed run. A value may be the text that the command line takes.

    Returns:
        The run.

    Raises:
        ValueError, TypeError: An argument, the data, the run's folder or a checkpoint cannot be used; the
            text names it.
        DeviceUnavailable: A device cannot be used.
        TrainingStopped: A value is not finite, the disk cannot be written, or the data can no longer be read.
        KeyboardInterrupt: See above.
    """
    with errors_in_python():
        arrays = arrays_of(data, test=test, test_seed=test_seed, classes=classes)
        given = option_files.read(Path(config)) if config is not None else {}
        given |= {name: value for name, value in {**options, "net": net}.items() if value is not None}
        if arrays is None and data is not None:
            given["data"] = os.fspath(data)  # type: ignore[arg-type]
        if isinstance(resume, Run):
            arrays = resume.arrays if data is None else arrays
            resume = resume.source
        if resume is not None:
            given["resume"] = resume
        outcome = run_session(given, arrays, keep_data, quiet)
    return ended(outcome, Run(outcome.path, arrays))


def load(
    path: str | os.PathLike[str],
    net: NetSpec | str | os.PathLike[str] | None = None,
    *,
    classes: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    except_layers: str | Sequence[str] = (),
    mean: Sequence[float] | None = None,
    deviation: Sequence[float] | None = None,
    bgr: bool | None = None,
) -> Run:
    """Open a run of the disk, however it was trained; or make one of another program's file of weights.

    Example:
        >>> cc.load("runs/first").predict("photo.jpg")
        >>> cc.load("resnet50.pth", net="resnet50", classes=names).predict("photo.jpg")

    Args:
        path: The run's folder, or one of its checkpoints, whose network is then used instead of the newest;
            or a file of weights, .pth or .safetensors. The other arguments are for such a file.
        net: The network of the weights: a NetSpec, the name of a built-in one, or a file: .py, .json, .onnx,
            .prototxt.
        classes: The names of its classes; numbers if not given.
        out: The folder of the run that is made; one in ``runs/`` if not given.
        except_layers: Layers that stay at their random first values, such as "fc8" or "fc*"; "auto" for those
            of other shapes.
        mean: Of each channel of the pixels that the weights were trained on, from 0 to 255, red first. If
            not given: that of the names in the file, or the network's own.
        deviation: By which they were divided, likewise.
        bgr: Whether the first layer reads blue, green, red in the file. If not given: as usual for its names.

    Raises:
        RunError: There is no run.
        CheckpointError, DataError: The file of weights is damaged, or does not fit the network.
        ValueError: The network of a file of weights is not given.
    """
    file = Path(path)
    if not file.is_file() or is_run(file):
        return Run(path)
    with errors_in_python():
        reading = Reading(
            parse_except(except_layers) if except_layers else (),
            None if mean is None else tuple(map(float, mean)),
            None if deviation is None else tuple(map(float, deviation)),
            bgr,
        )
        chosen = None if net is None else resolve(Path(net) if isinstance(net, os.PathLike) else net)
        checkpoint, notes = checkpoint_of(weights_of(file), chosen, reading, classes)
        run = Run(write_run(checkpoint, None if out is None else Path(out)))
    for note in notes:
        print(f"weights: {note}")
    return run
