"""Removal of what runs no longer need: spare checkpoints, set-aside checkpoints, abandoned runs.

Only files that this program writes are removed. A run in training is left alone, and none can begin while
files are removed, because the run's lock is held. Links are never followed: folders are opened without
following them, and files are removed relative to the opened folders. So nothing is removed elsewhere, even if
a folder is exchanged for a link meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from cconvnet.runs import overview
from cconvnet.runs.checkpoint import Folder
from cconvnet.runs.folder import LOCK
from cconvnet.runs.reading import RunError, read_config
from cconvnet.system.locks import try_lock

RULES = ("checkpoints", "set-aside", "empty", "failed", "incomplete")
DEFAULT_RULES = ("checkpoints", "set-aside")

_SECONDS_PER_DAY = 24 * 3600.0
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_UNFINISHED = re.compile(r"\.step-\d{8,}\.safetensors\.partial")


@dataclasses.dataclass(frozen=True)
class Removal:
    """A file or a folder that a rule removes.

    Attributes:
        path: The file or folder.
        rule: One of RULES.
        bytes: The size of its files.
        reason: The reason why it is not needed.
    """

    path: Path
    rule: str
    bytes: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Kept:
    """A run, or a folder in it, that stays although a rule was meant for it.

    Attributes:
        path: The run or folder.
        reason: The reason.
    """

    path: Path
    reason: str


class _NotOurs(Exception):
    """A folder contains something that this program did not write, or a link; the text names it."""


@dataclasses.dataclass(frozen=True)
class _Kind:
    """The files and folders that this program writes to a folder, as patterns of their whole names."""

    files: str
    folders: dict[str, _Kind] = dataclasses.field(default_factory=dict)

    def owns_file(self, name: str) -> bool:
        # A killed process may leave any of them under a temporary name.
        return re.fullmatch(rf"(?:{self.files})|\.(?:{self.files})\.partial", name) is not None

    def of_folder(self, name: str) -> _Kind | None:
        return next((kind for form, kind in self.folders.items() if re.fullmatch(form, name)), None)


_STEP = r"step-\d{8,}\.safetensors"
_ASIDE = _Kind(rf"{_STEP}|(config|summary)\.json|log\.jsonl")
_CHECKPOINTS = _Kind(_STEP, {r"set-aside-\d+": _ASIDE})
_RUN = _Kind(
    r"(config|data|state|summary)\.json|log\.jsonl|run\.toml|arrays\.npz|lock"
    r"|(curve|timeline)\.(png|svg|pdf)|report\.html",
    {"checkpoints": _CHECKPOINTS, "tensorboard": _Kind(r"events\.out\.tfevents\..*")},
)
# A removal that is killed must leave what is still a run, so these files go last, in this order.
_LAST = ("log.jsonl", "state.json", "config.json", LOCK)


def prune(
    run: Path,
    rules: Collection[str] = DEFAULT_RULES,
    *,
    days: float = 7.0,
    remove: bool = False,
    now: float | None = None,
) -> tuple[list[Removal], list[Kept]]:
    """Find what rules remove of a run, and remove it if asked to.

    The rules are:

    - ``checkpoints``: all but the newest sound checkpoint and the best one.
    - ``set-aside``: checkpoints that were set aside when the run was resumed from an earlier one.
    - ``empty``: a whole run without a checkpoint.
    - ``failed``: a whole run that ended with an error.
    - ``incomplete``: a whole run that was stopped or killed before its last epoch.

    Complete runs stay, and so do imported ones, damaged ones, and runs with files of other programs.

    Args:
        run: The run's folder.
        rules: Some of RULES.
        days: The age of a run that is removed as a whole: nothing was written to it for so many days.
        remove: Remove what is found. Otherwise nothing changes.
        now: The time in seconds since 1970; the present one if not given.

    Returns:
        What is removed, and what stays although a rule was meant for it.

    Raises:
        OSError: A file cannot be read or removed.
    """
    if run.is_symlink():
        return [], [Kept(run, "it is a link")]
    about = overview.read_overview(run)
    if about.state == "training":
        return [], [Kept(run, "it is in training")]
    with contextlib.ExitStack() as stack:
        folder = _opened(stack, run)
        if remove:
            lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=folder)
            stack.callback(os.close, lock)
            if not try_lock(lock):
                return [], [Kept(run, "it is in training")]
        found, kept = _whole(run, folder, about, rules, days, time.time() if now is None else now)
        if found:
            try:
                if remove:
                    _clear(folder, _RUN, run)
                    run.rmdir()
            except _NotOurs as error:  # a file that came meanwhile
                return [], [Kept(run, f"{error} is not of a run")]
            return found, kept
        try:
            checkpoints = _opened(stack, "checkpoints", folder)
        except FileNotFoundError:
            return [], kept
        except OSError:  # ELOOP or ENOTDIR
            return [], [*kept, Kept(run / "checkpoints", "it is a link or no folder")]
        if "checkpoints" in rules:
            spare, more = _spare(run / "checkpoints", checkpoints)
            found, kept = found + spare, kept + more
            for one in spare if remove else ():
                _unlink(one.path.name, checkpoints)
        if "set-aside" in rules:
            aside, more = _set_aside(run / "checkpoints", checkpoints)
            found, kept = found + aside, kept + more
            for one in aside if remove else ():
                _clear_folder(one.path.name, checkpoints, _ASIDE, one.path)
        return found, kept


# ---- rules -----------------------------------------------------------------------------------------------


def _whole(
    run: Path, folder: int, about: overview.Overview, rules: Collection[str], days: float, now: float
) -> tuple[list[Removal], list[Kept]]:
    """Return the removal of a whole run if a rule demands it."""
    wanted = [rule for rule in ("empty", "failed", "incomplete") if rule in rules]
    if not wanted or about.state == "complete":
        return [], []
    if about.state == "damaged":
        return [], [Kept(run, about.reason or "it is damaged")]
    has_checkpoint = any((run / "checkpoints").glob("**/step-*"))
    reasons = {
        "empty": "it has no checkpoint" if not has_checkpoint else None,
        "failed": f"it failed: {(about.reason or '').partition('. ')[0]}"
        if about.state == "failed"
        else None,
        "incomplete": f"it was {about.state} after {about.epochs} of {about.of_epochs} epochs"
        if about.state in ("stopped", "killed") and has_checkpoint
        else None,
    }
    rule = next((rule for rule in wanted if reasons[rule] is not None), None)
    if rule is None:
        return [], []
    if str(read_config(run).get("command", "")).split()[1:2] == ["import"]:
        return [], [Kept(run, "it was imported")]
    try:
        size, written = _measured(folder, _RUN, run)
    except _NotOurs as error:
        return [], [Kept(run, f"{error} is not of a run")]
    if (age := (now - written) / _SECONDS_PER_DAY) < days:
        return [], [Kept(run, f"it was written {age:.1f} days ago, less than {days:g}")]
    return [Removal(run, rule, size, f"{reasons[rule]}, {age:.0f} days ago")], []


def _spare(path: Path, folder: int) -> tuple[list[Removal], list[Kept]]:
    """Return the checkpoints that are neither the newest sound one nor the best, and unfinished files."""
    sizes = {name: info.st_size for name, info in _entries(folder) if stat.S_ISREG(info.st_mode)}
    found = [
        Removal(path / name, "checkpoints", sizes[name], "a killed process left it unfinished")
        for name in sorted(sizes)
        if _UNFINISHED.fullmatch(name)
    ]
    files = Folder(path).files()
    if len(files) < 2:
        return found, []
    newest, content, damaged = Folder(path).newest()
    if newest is None or content is None:
        return found, [Kept(path, f"no checkpoint is sound; {damaged[0]}")]
    best = {(content.progress.get("best") or {}).get("step")}
    with contextlib.suppress(RunError, AttributeError):
        best.add((overview.read_json(path.parent / "summary.json").get("best") or {}).get("step"))
    stay = {newest.name, *(Folder(path).file(step).name for step in best if isinstance(step, int))}
    older = itertools.takewhile(lambda file: file != newest, files)
    return [
        *found,
        *(
            Removal(file, "checkpoints", sizes[file.name], f"{newest.name} is newer, and it is not the best")
            for file in older
            if file.name not in stay and file.name in sizes
        ),
    ], []


def _set_aside(path: Path, folder: int) -> tuple[list[Removal], list[Kept]]:
    """Return the folders of checkpoints that were set aside."""
    found, kept = [], []
    for name, info in _entries(folder):
        if _CHECKPOINTS.of_folder(name) is None:
            continue
        if not stat.S_ISDIR(info.st_mode):
            kept.append(Kept(path / name, "it is a link or no folder"))
            continue
        try:
            with contextlib.ExitStack() as stack:
                size, _ = _measured(_opened(stack, name, folder), _ASIDE, path / name)
        except _NotOurs as error:
            kept.append(Kept(path / name, f"{error} is not of a run"))
            continue
        found.append(Removal(path / name, "set-aside", size, "the run was resumed from an earlier step"))
    return found, kept


# ---- folders without links -------------------------------------------------------------------------------


def _opened(stack: contextlib.ExitStack, path: Path | str, within: int | None = None) -> int:
    """Return the descriptor of a folder that is no link, to be closed with the stack.

    Raises:
        OSError: There is none.
    """
    descriptor = os.open(path, _OPEN_FOLDER, dir_fd=within)
    stack.callback(os.close, descriptor)
    return descriptor


def _entries(folder: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the names in a folder in order, and what each is; links are not followed."""
    for name in sorted(os.listdir(folder)):
        with contextlib.suppress(FileNotFoundError):
            yield name, os.stat(name, dir_fd=folder, follow_symlinks=False)


def _owned(folder: int, kind: _Kind, path: Path) -> Iterator[tuple[str, os.stat_result, _Kind | None]]:
    """Yield the name, the state and the kind, of folders, of everything in a folder.

    Raises:
        _NotOurs: It is not this program's.
    """
    for name, info in _entries(folder):
        below = kind.of_folder(name) if stat.S_ISDIR(info.st_mode) else None
        if below is None and not (stat.S_ISREG(info.st_mode) and kind.owns_file(name)):
            raise _NotOurs(path / name)
        yield name, info, below


def _measured(folder: int, kind: _Kind, path: Path) -> tuple[int, float]:
    """Return the bytes of the files in a folder, and when one was written last.

    Raises:
        _NotOurs: It contains something that is not this program's.
    """
    size, written = 0, 0.0
    for name, info, below in _owned(folder, kind, path):
        if below is None:
            # The lock is empty, and merely opening it does not change it.
            size, written = size + info.st_size, max(written, info.st_mtime if name != LOCK else 0.0)
            continue
        with contextlib.ExitStack() as stack:
            more, last = _measured(_opened(stack, name, folder), below, path / name)
        size, written = size + more, max(written, last)
    return size, written


def _clear(folder: int, kind: _Kind, path: Path) -> None:
    """Remove everything in a folder.

    Raises:
        _NotOurs: It contains something that is not this program's.
    """
    entries = list(_owned(folder, kind, path))
    for name, _, below in sorted(entries, key=lambda one: _LAST.index(one[0]) if one[0] in _LAST else -1):
        if below is None:
            _unlink(name, folder)
        else:
            _clear_folder(name, folder, below, path / name)


def _clear_folder(name: str, within: int, kind: _Kind, path: Path) -> None:
    with contextlib.ExitStack() as stack:
        _clear(_opened(stack, name, within), kind, path)
    os.rmdir(name, dir_fd=within)


def _unlink(name: str, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):  # somebody else removed it
        os.unlink(name, dir_fd=folder)
