"""Read the files of a run: its configuration, its log and its checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

from cconvnet.errors import CheckpointError
from cconvnet.nets import AREA, CONSTANT, NO_DISTORTION
from cconvnet.runs import checkpoint
from cconvnet.runs.checkpoint import Checkpoint, Folder

# The keys of a configuration that describe the machine, beside "versions".
# The settings that later versions added, with the values that a run had before.
_OLDER: dict[str, Any] = {
    "lr_schedule": dataclasses.asdict(CONSTANT),
    "distort": dataclasses.asdict(NO_DISTORTION),
    **{"warmup": 0.0, "warmup_from": 0.1, "pad": 0},
    **{"weight_decay": None, "label_smoothing": None, "nesterov": False},
    **{"random_resized_crop": False, "area": list(AREA), "accumulate": 1},
}
MACHINE = ("commit", "module", "chip", "cores", "host", "system")


class RunError(ValueError):
    """A run's folder cannot be used; the text names it and contains what to do."""


def data_name(data: str | None) -> str:
    """Return the name of a run's data for a title."""
    # The name of the embedded data, datasets.EMBEDDED, whose import would take longer than a list of runs.
    return "digits" if data is None else Path(data).name or data


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration of the run in a folder.

    Raises:
        RunError: The folder contains no readable configuration.
    """
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} is not a run: {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RunError(f"{file} is damaged: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("settings"), dict):
        raise RunError(f"{file} is not the configuration of a run: it has no settings")
    return config


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run, with those that did not exist yet when an older version began it."""
    return {**_OLDER, **config["settings"]}


def surroundings(config: dict[str, Any]) -> dict[str, str]:
    """Return the machine and the versions of programs of a run, by name.

    Where a resumed run went on with others, the text contains them too, and from which step on.
    """
    found: dict[str, str] = {}
    before: dict[str, str] = {}
    for session in (config, *config.get("resumed", [])):
        now = {name: str(session[name]) for name in MACHINE if name in session}
        now |= {f"version of {name}": str(text) for name, text in session.get("versions", {}).items()}
        for name in dict.fromkeys([*before, *now]):
            text = now.get(name, "none")
            if session is config:
                found[name] = text
            elif text != before.get(name, "none"):
                found[name] = f"{found.get(name, 'none')}, from step {session['step']:,} on {text}"
        before = now
    return found


def arithmetic(config: dict[str, Any], step: int | None = None) -> str:
    """Return the kind of device and the software that decide the bits of a run's last session.

    The number of CPU threads is left out, because results do not depend on it.

    Args:
        config: The run's configuration.
        step: Only sessions that began before this step count; None: all.
    """
    sessions = [one for one in config.get("resumed", []) if step is None or one["step"] < step]
    module = str((sessions[-1] if sessions else config).get("module", "another device"))
    return re.sub(r", \d+ threads?\b.*| \(not a GPU: .*", "", module)


def read_log(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    """Read the lines of a run's log; a last line that a kill cut short is left out.

    Args:
        path: The run's folder.
        most: The number of bytes from which on only a part is read: the lines of epochs, the last line, and
            of the others each second, third, ..., so that about `most` bytes remain. None: all is read.
    """
    lines: list[dict[str, Any]] = []
    left_out = b""
    with contextlib.suppress(FileNotFoundError), (path / "log.jsonl").open("rb") as log:
        every = 1 if most is None else 1 + os.fstat(log.fileno()).st_size // most
        for number, text in enumerate(log):
            if number % every and b'"test_loss"' not in text:
                left_out = text if text.endswith(b"\n") else left_out
                continue
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
            left_out = b""
    with contextlib.suppress(ValueError):
        lines += [json.loads(left_out)]
    return lines


def unfinished(folder: Path) -> Path:
    """Return the run in `folder` that was trained last, of those that have not done all their epochs.

    Raises:
        RunError: There is none.
    """
    found = []
    for config in folder.glob("*/config.json"):
        path = config.parent
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            epochs = read_config(path)["settings"]["epochs"]
            summary = path / "summary.json"
            if summary.exists():
                done = json.loads(summary.read_text(encoding="utf-8"))
                # A complete run that was then resumed with more epochs is no longer complete.
                if done["complete"] and done["epochs"] >= epochs:
                    continue
            log = path / "log.jsonl"
            found.append(((log if log.exists() else config).stat().st_mtime, path))
    if not found:
        raise RunError(
            f"{folder}/ contains no run to resume; --resume RUN names one, --out FOLDER begins one"
        )
    return max(found)[1]


def folder_of(path: Path) -> Path:
    """Return the folder of a run, given it, one of its checkpoints or a folder of them, set aside or not."""
    if path.is_file() or path.suffix == checkpoint.SUFFIX:
        path = path.parent
    if checkpoint.is_aside(path):
        path = path.parent
    return path.parent if path.name == "checkpoints" else path


def find_checkpoint(path: Path, best: bool = False) -> tuple[Path, Checkpoint, list[str]]:
    """Read the checkpoint that a user means.

    Args:
        path: A run's folder, for its newest sound checkpoint, or the file of a checkpoint.
        best: Of a run, take the checkpoint with the lowest test error instead.

    Returns:
        Its file, its content, and a line for each newer one that is damaged and was skipped.

    Raises:
        CheckpointError: There is none, or it is damaged.
        RunError: There is no such run.
    """
    if path.is_file() or path.suffix == checkpoint.SUFFIX:
        return path, checkpoint.load_offering_previous(path), []
    if not path.exists():
        raise RunError(f"there is no run {path}")
    folder = Folder(folder_of(path) / "checkpoints")
    file, content, skipped = folder.newest()
    if file is None or content is None:
        what = f"; {skipped[0]}" if skipped else ""
        raise CheckpointError(f"{path} contains no sound checkpoint{what}")
    if best and content.progress.get("best") is not None:
        file = folder.file(content.progress["best"]["step"])
        content = checkpoint.load(file)
    return file, content, skipped
