"""The preparation of a dataset as shards, parallel, interruptible at any moment and resumable.

Before the work begins, the pictures are divided into shards, which depends only on their order and number.
The process and the time do not change a shard. So the result is byte-identical for any number of workers and
interruptions.

A shard is written under another name, synced and renamed. Then a record is written to the folder's journal in
the same way. It contains the shard's contents and the pictures left out. A shard with a record is finished.
At the end, all this is written to dataset.json, and the journal is removed. A shard that is lost later can be
made again without the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import queue
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.checks import NumberError
from cconvnet.console import Reporter
from cconvnet.data.color_noise import color_components
from cconvnet.data.dataset import Dataset
from cconvnet.data.fingerprint import fingerprints
from cconvnet.data.images import describe_decoder
from cconvnet.data.inspection import sized
from cconvnet.data.label_images import refuse_pixels
from cconvnet.data.loader import mean_image
from cconvnet.data.preprocessing import UNRECORDED
from cconvnet.data.shards.encoding import Recipe, Survey, describe
from cconvnet.data.shards.format import (
    COLORS,
    DOCUMENT,
    JOURNAL,
    MEAN,
    RECORD,
    SKIPPED,
    File,
    Names,
    Records,
    ShardSet,
    index_name,
    is_file,
    matches,
    names_name,
    read_document,
    read_shard_set,
    shard_name,
    write_document,
)
from cconvnet.data.shards.journal import (
    PLAN,
    Part,
    begun_with,
    fingerprint,
    locked,
    record_file,
    write_record,
)
from cconvnet.data.shards.reader import open_split
from cconvnet.data.shards.writer import Shard, packed_array, write_file
from cconvnet.data.shards.writer_pool import LocalMaker, ProcessMaker, Report, ShardMaker
from cconvnet.data.splits import Progress, broken_allowed
from cconvnet.data.workers import MAX_WORKERS, surplus, usable_cores, worker_limit
from cconvnet.errors import DataError
from cconvnet.system.outputs import check_folder

SHARD_BYTES = 256 * 2**20
# Even few small pictures make many shards. So all workers have work, and little is lost by an interruption.
MAX_PER_SHARD = 4096


# ---- doing it ------------------------------------------------------------------------------------------


class Preparation:
    """The preparation of shards of `dataset` in the folder `root`, where some may already exist.

    Args:
        shard_bytes: The approximate limit of a shard's length.
        progress: Called with the number of files examined so far and their total.

    Raises:
        DataError: The folder contains anything else.
        OSError: A file cannot be read.
    """

    def __init__(
        self,
        dataset: Dataset,
        root: Path,
        recipe: Recipe,
        survey: Survey,
        shard_bytes: int = SHARD_BYTES,
        progress: Progress | None = None,
    ) -> None:
        refuse_pixels(dataset.train.labels, "data prepare")
        if shard_bytes < 1:
            raise NumberError(f"--shard-mb must be above 0, not {shard_bytes / 2**20:g}")
        if dataset.folder is not None and root.resolve().is_relative_to(dataset.folder.resolve()):
            raise DataError(f"{root} is inside {dataset.folder}, the source; give another folder")
        if root.exists() and not root.is_dir():
            raise DataError(f"{root} is no folder")
        if root.is_dir() and any(root.iterdir()):
            names = {entry.name for entry in root.iterdir()}
            if not matches(names):
                raise DataError(f"{root} is not empty and contains no shards; give a new folder")
        check_folder(root)
        self.dataset, self.root, self.survey = dataset, root, survey
        self.recipe = dataclasses.replace(recipe, preprocessing=begun_with(root) or recipe.preprocessing)
        self.per_shard = max(1, min(MAX_PER_SHARD, int(shard_bytes / survey.bytes[recipe.encoding])))
        self.splits = dataset.splits
        self.total = sum(map(len, self.splits.values()))
        self.source = fingerprint(dataset, progress)
        self._broken: dict[str, dict[int, str]] = {split: {} for split in self.splits}

    def describe(self) -> list[str]:
        """Return a few lines that describe the source and the result."""
        return describe(self.dataset, self.root, self.recipe, self.survey)

    def complete(self) -> ShardSet | None:
        """Return the set of shards if it already exists and equals what this preparation would make.

        Raises:
            DataError: The shards were begun with other data or options.
        """
        shard_set = self._compare()
        if shard_set is None:
            return None
        files = ((self.root / name, file) for name, file in shard_set.files.items())
        whole = all(path.is_file() and path.stat().st_size == file.bytes for path, file in files)
        return shard_set if whole else None

    def run(self, report: Reporter, workers: int | None = None) -> ShardSet:
        """Make the shards that do not exist yet.

        Raises:
            DataError: The data cannot be read, or too many pictures are broken.
            WorkerError: A worker process died or failed.
            OSError: A file cannot be read or written.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(self.root) as lock:
            made = self.complete()
            if made is not None:  # by another process, while this one waited
                self._end_journal()
                return made
            self._begin()
            todo = [part for part in self._parts() if not self._is_done(part)]
            for split in self.splits:
                self._check_broken(split)
            done = self.total - sum(part.count for part in todo)
            if done and todo:
                report.say(f"resuming: {done:,} of {self.total:,} pictures are done already")
            self._check_room(sum(part.count for part in todo))
            try:
                report.begin("preparing", self.total, done)
                self._make(todo, done, report, workers, lock)
                report.end()
                return self._finish(report, workers)
            except KeyboardInterrupt:
                kept = sum(part.count for part in self._parts() if self._is_done(part))
                report.end()
                report.say(
                    f"stopped: {kept:,} of {self.total:,} pictures are kept in {self.root}; the same command "
                    "resumes"
                )
                raise

    def _short(self, name: str) -> str:
        """Return a picture's name relative to the source's folder."""
        return name.removeprefix(f"{self.dataset.folder}{os.sep}")

    # -- the state of the folder

    def _plan(self) -> dict[str, Any]:
        """Return the values that must be equal for resuming; dataset.json contains them too."""
        recipe, is_jpeg = self.recipe, self.recipe.encoding == "jpeg"
        return {
            "size": recipe.size,
            "whole": recipe.whole,
            "encoding": recipe.encoding,
            "quality": recipe.quality if is_jpeg else None,
            "unchanged": is_jpeg and recipe.unchanged,
            "encoder": describe_decoder(recipe.codec) if is_jpeg else "",
            "decoder": describe_decoder(recipe.codec) if self.dataset.train.ranges is not None else "",
            "preprocessing": recipe.preprocessing.record(),
            "per_shard": self.per_shard,
            "source": self.source,
        }

    def _begin(self) -> None:
        self._clean()
        shard_set = self._compare()
        journal = self.root / JOURNAL
        if shard_set is not None:
            self._remember(shard_set)
        if not (journal / PLAN).is_file():
            write_document(journal / PLAN, self._plan())
        with contextlib.suppress(FileNotFoundError):  # from here on the folder is unfinished
            (self.root / DOCUMENT).unlink()

    def _clean(self) -> None:
        """Remove the files that a killed process left, which take space until they are overwritten."""
        for folder in (self.root, self.root / JOURNAL):
            for litter in folder.glob(".*.partial"):
                name = litter.name.removeprefix(".").removesuffix(".partial")
                if folder != self.root or name == DOCUMENT or is_file(name):
                    litter.unlink()

    def _compare(self) -> ShardSet | None:
        """Return the finished set of shards, if there is one.

        Raises:
            DataError: It was begun with other data or options.
        """
        path, shard_set = self.root / JOURNAL / PLAN, None
        with contextlib.suppress(DataError):  # if it is missing or damaged, it is made again
            shard_set = read_shard_set(self.root)
        if shard_set is not None:
            there = {**vars(shard_set), "preprocessing": shard_set.preprocessing.record()}
        else:
            try:
                there = read_document(path)
            except FileNotFoundError:
                return None
            except DataError as error:
                raise DataError(f"{error}; remove {self.root} and begin again") from error
        here = self._plan()
        again = f"remove {self.root} to begin again, or give another folder"
        if there["source"] != here["source"]:
            raise DataError(
                f"{self.root} was begun with other data, or a file of {self.dataset.name} has changed; "
                f"{again}"
            )
        there.setdefault("preprocessing", UNRECORDED.record())
        for name, value in here.items():
            if there[name] != value:
                what = {"per_shard": "--shard-mb that gave pictures per shard of"}.get(name, name)
                raise DataError(f"{self.root} was begun with {what} {there[name]}, not {value}; {again}")
        return shard_set

    def _remember(self, shard_set: ShardSet) -> None:
        """Restore the journal, as far as the finished set of shards allows."""
        try:
            reasons = {(line["split"], line["name"]): line["reason"] for line in shard_set.left_out()}
            indices = {
                split: (shard_set.records(split), set(shard_set.names(split))) for split in self.splits
            }
        except DataError:
            return  # everything is made again
        for part in self._parts():
            records, kept = indices[part.split]
            names = self.splits[part.split].names
            numbers = range(part.first, part.first + part.count)
            skipped = [
                (number, reasons[part.split, name])
                for number, name in ((number, self._short(names[number])) for number in numbers)
                if name not in kept
            ]
            of_shard = records[records["file"] == part.first // self.per_shard]
            shard = Shard(
                shard_set.files[part.name], of_shard[["length", "height", "width", "crc32"]].tolist()
            )
            write_record(self.root, part, shard, skipped)

    def _parts(self) -> Iterator[Part]:
        for split, pictures in self.splits.items():
            for number, first in enumerate(range(0, len(pictures), self.per_shard)):
                count = min(self.per_shard, len(pictures) - first)
                yield Part(shard_name(split, number), split, first, count)

    def _is_done(self, part: Part) -> bool:
        record = self._recorded(part)
        if record is None:
            return False
        self._broken[part.split].update(record["skipped"])
        return True

    def _recorded(self, part: Part) -> dict[str, Any] | None:
        try:
            record = read_document(record_file(self.root, part.name))
            length = (self.root / part.name).stat().st_size
        except (FileNotFoundError, DataError):
            return None
        return record if length == record["file"]["bytes"] and part.count == record["count"] else None

    def _check_broken(self, split: str) -> None:
        broken, pictures = self._broken[split], self.splits[split]
        allowed = broken_allowed(len(pictures))
        if len(broken) + len(pictures.left_out) <= allowed:
            return
        lines = [f"  {pictures.names[number]}: {broken[number]}" for number in sorted(broken)]
        lines += [f"  {name}: {reason}" for name, reason in pictures.left_out]
        write_file(self.root / SKIPPED, self._skipped())
        raise DataError(
            f"more than {allowed} of the {len(pictures):,} {split} pictures are broken; remove or replace "
            f"them, remove {self.root} and begin again (all that were found: {self.root / SKIPPED}):\n"
            + "\n".join(lines[:10])
        )

    def _check_room(self, count: int) -> None:
        needed = int(self.survey.bytes[self.recipe.encoding] * count)
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise OSError(
                errno.ENOSPC, f"about {sized(needed)} are needed, {sized(free)} are free", str(self.root)
            )

    # -- making

    def _make(self, todo: list[Part], before: int, report: Reporter, workers: int | None, lock: int) -> None:
        asked = min(usable_cores(), MAX_WORKERS) if workers is None else workers
        limit = min(len(todo), worker_limit(self.total)) if self.dataset.train.ranges is not None else 0
        if workers is not None and 0 < limit < workers:
            shards_left = f"workers: {limit} instead of {workers}: {len(todo):,} shards are to be made"
            report.say(shards_left if limit == len(todo) else surplus(workers, self.total))
        workers = min(asked, limit)
        parts: queue.SimpleQueue[Part] = queue.SimpleQueue()
        for part in todo:
            parts.put(part)
        events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        makers: list[ShardMaker] = []
        threads: list[threading.Thread] = []
        began, done = time.monotonic(), {"": before}
        try:
            if not workers:
                makers.append(LocalMaker(self.root, self.splits, self.recipe))
            for _ in range(workers):
                makers.append(ProcessMaker(self.root, self.splits, self.recipe, lock))
            for maker in makers:
                # A second Ctrl-C may come before they are closed. The exit of Python must not wait for them.
                threads.append(threading.Thread(target=self._drive, args=(maker, parts, events), daemon=True))
                threads[-1].start()
            at_work = len(threads)
            while at_work:
                event = events.get()
                if isinstance(event, _Ended):
                    at_work -= 1
                    if event.error is not None:
                        raise event.error
                    continue
                done[event.part.name] = event.done
                if event.broken:
                    self._broken[event.part.split].update(event.broken)
                    self._check_broken(event.part.split)
                sofar = sum(done.values())
                rate = (sofar - before) / max(time.monotonic() - began, 1e-9)
                report.step(sofar, "preparing", f"{rate:,.0f} pictures/s")
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            left = self.total - sum(part.count for part in self._parts() if self._is_done(part))
            more = f"about {sized(self.survey.bytes[self.recipe.encoding] * left)} more are needed"
            text = f"{error.strerror}: {more}; then the same command resumes"
            raise OSError(error.errno, text, str(self.root)) from error
        finally:
            for maker in makers:
                maker.close()
            for thread in threads:
                thread.join()
            self._clean()

    def _drive(
        self, maker: ShardMaker, parts: queue.SimpleQueue[Part], events: queue.SimpleQueue[_Event]
    ) -> None:
        """Run a thread's loop, in which its maker makes one shard after another."""

        def reporting(part: Part) -> Report:
            return lambda done, broken: events.put(_Progressed(part, done, dict(broken)))

        try:
            while True:
                part = parts.get_nowait()
                maker.make(part, reporting(part))
        except queue.Empty:
            events.put(_Ended(None))
        except Exception as error:
            events.put(_Ended(error))

    # -- the end

    def _finish(self, report: Reporter, workers: int | None) -> ShardSet:
        """Write the index, the statistics and finally dataset.json."""
        files: dict[str, File] = {}

        def write(name: str, data: bytes) -> None:
            files[name] = write_file(self.root / name, data)

        kept: dict[str, int] = {}
        for split, pictures in self.splits.items():
            records = self._rows(split, files)
            kept[split] = len(records)
            broken = self._broken[split]
            names = (self._short(name) for i, name in enumerate(pictures.names) if i not in broken)
            write(index_name(split), packed_array(records))
            write(names_name(split), Names.packed(names))
        write(SKIPPED, self._skipped())
        recipe = self.recipe
        train = self.dataset.train
        known = fingerprints(self.dataset)
        shard_set = ShardSet(
            root=self.root,
            name=self.dataset.name,
            origin=self.dataset.kind,
            classes=self.dataset.classes,
            titles=self.dataset.titles,
            **{**self._plan(), "preprocessing": recipe.preprocessing},
            channels=3 if recipe.encoding == "jpeg" else train.channels,
            notes=self.dataset.notes,
            pictures=kept,
            skipped={
                split: len(self._broken[split]) + len(pictures.left_out)
                for split, pictures in self.splits.items()
            },
            files=files,
            account=self._account(),
            fingerprints={name: known[name] for name in kept},
        )
        for name, array in self._statistics(shard_set, report, workers).items():
            write(name, packed_array(array))
        shard_set.write()
        self._end_journal()
        return shard_set

    def _account(self) -> dict[str, Any]:
        """Return the account of the source, with unreadable pictures counted as not used."""
        root = "" if self.dataset.folder is None else f"{self.dataset.folder}{os.sep}"
        unreadable = {
            split: [pictures.names[number].removeprefix(root) for number in sorted(self._broken[split])]
            for split, pictures in self.splits.items()
        }
        return self.dataset.account().without(unreadable).as_json()

    def _end_journal(self) -> None:
        # A process that begins now may put its lock into the folder, which then remains. That does no harm.
        shutil.rmtree(self.root / JOURNAL, ignore_errors=True)

    def _rows(self, split: str, files: dict[str, File]) -> Records:
        """Build the index of a split from its shards' records, and add the shards to `files`."""
        labels, found = self.splits[split].labels, []
        for number, part in enumerate(part for part in self._parts() if part.split == split):
            record = self._recorded(part)
            if record is None:
                raise DataError(
                    f"{self.root / part.name} was changed while the others were made; begin again"
                )
            files[part.name] = File(**record["file"])
            broken = {number for number, _ in record["skipped"]}
            of_shard = [i for i in range(part.first, part.first + part.count) if i not in broken]
            lengths, heights, widths, sums = np.array(record["pictures"], np.int64).reshape(-1, 4).T
            records = np.zeros(len(of_shard), RECORD)
            records["file"] = number
            records["offset"] = np.cumsum(lengths) - lengths
            records["length"], records["height"], records["width"] = lengths, heights, widths
            records["label"], records["crc32"] = labels[of_shard], sums
            found.append(records)
        return np.concatenate(found)

    def _skipped(self) -> bytes:
        """Return the contents of skipped.jsonl."""
        lines = []
        for split, pictures in self.splits.items():
            broken = sorted(self._broken[split].items())
            for name, reason in [
                *((pictures.names[number], reason) for number, reason in broken), *pictures.left_out
            ]:  # fmt: skip
                lines.append(json.dumps({"split": split, "name": self._short(name), "reason": reason}))
        return "".join(f"{line}\n" for line in lines).encode()

    def _statistics(
        self, shard_set: ShardSet, report: Reporter, workers: int | None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Compute the statistics of the stored pictures, but keep a mean that comes with the data."""
        split = open_split(shard_set, "train", self.recipe.codec)
        given = self.dataset.mean is not None and self.dataset.mean.shape == split.image_shape

        def progress(what: str) -> Progress:
            report.begin(what, len(split))
            return lambda done, total: report.step(done, what, f"{done:,}/{total:,}")

        mean = self.dataset.mean if given else mean_image(split, progress("mean image"), workers)
        colors = self.dataset.colors if given else None
        if colors is None:
            colors = color_components(split, progress("colours"))
        report.end()
        for number, reason in split.skipped.items():
            raise DataError(
                f"{self.root}: {split.file(number)} cannot be read back: {reason}; is the disk sound?"
            )
        assert mean is not None
        return {MEAN: mean, COLORS: colors}


@dataclass(frozen=True)
class _Progressed:
    part: Part
    done: int
    broken: dict[int, str]


@dataclass(frozen=True)
class _Ended:
    error: Exception | None


_Event = _Progressed | _Ended
