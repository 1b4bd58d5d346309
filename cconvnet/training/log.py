"""The lines of a training's log, and the summary at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cconvnet.data import Source
from cconvnet.network import Network
from cconvnet.runs.folder import Run
from cconvnet.training.settings import Progress, Settings
from cconvnet.training.stopping import Failures
from cconvnet.training.team import Team


class Log:
    """The log of a run in training: a line for each window of steps, each epoch and each checkpoint."""

    def __init__(
        self,
        run: Run,
        network: Network,
        progress: Progress,
        steps_per_epoch: int,
        failures: Failures,
        team: Team,
    ) -> None:
        self._team = team
        self._run, self._network, self._progress = run, network, progress
        self._steps_per_epoch, self._failures = steps_per_epoch, failures
        # Seconds and images of training when the last line was written.
        self._seconds_before, self._images_before = 0.0, 0
        # The network's own counts of copies when these were last read.
        self._bytes_before, self._copy_seconds_before = 0, 0.0

    def begin_epoch(self) -> None:
        """Begin a window; the time and the copies of tests are left out."""
        self._seconds_before, self._images_before = self._progress.seconds, self._progress.images
        self._bytes_before = self._network.copied_bytes
        self._copy_seconds_before = self._network.copy_seconds

    def count_copies(self) -> None:
        """Add to the progress what training has copied between devices since the last call."""
        progress, network = self._progress, self._network
        copied = network.copied_bytes - self._bytes_before
        seconds = network.copy_seconds - self._copy_seconds_before
        progress.window_bytes += copied
        progress.window_seconds += seconds
        progress.copied_bytes += copied
        progress.copy_seconds += seconds
        self._bytes_before += copied
        self._copy_seconds_before = network.copy_seconds

    def write_window(self, lr: float, rates: Mapping[str, float]) -> None:
        """Write the line of the steps since the last line, and begin a new window.

        Args:
            lr: The general rate of the last step.
            rates: The rate of each parameter in it; those that differ are in the line too.
        """
        progress = self._progress
        self.count_copies()
        other = {name: rate for name, rate in rates.items() if rate != lr}
        heads = progress.window.mean_head_losses
        self._write(
            {
                "step": progress.step,
                "epoch": self.epoch_at(progress.step),
                "loss": progress.window.mean_loss,
                **({"head_losses": heads} if heads else {}),
                "train_error_top1": progress.window.error_top1,
                "lr": lr,
                **({"lr_other": other} if other else {}),
                "images_per_second": round(self._images_per_second(), 1),
                "copied_bytes": progress.window_bytes,
                "copy_seconds": round(progress.window_seconds, 6),
                **self._waits(),
            }
        )
        progress.window.clear()
        progress.window_bytes, progress.window_seconds = 0, 0.0
        self._seconds_before, self._images_before = progress.seconds, progress.images

    def write_epoch(self, images_per_second: float) -> None:
        """Write the line of an epoch, with the errors of its steps and of its test, and their times."""
        progress = self._progress
        test = {key: value for key, value in (progress.last_test or {}).items() if key != "step"}
        times = {"images_per_second": round(images_per_second, 1)}
        if progress.test_seconds is not None:
            times["test_seconds"] = round(progress.test_seconds, 6)
        self._write(
            {
                "step": progress.step,
                "epoch": progress.epoch,
                **(progress.last_train or {}),
                **test,
                **times,
            }
        )

    def write_checkpoint(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the line of a checkpoint that was saved after `step`."""
        self._write({"step": step, "epoch": self.epoch_at(step), **values})

    def epoch_at(self, step: int) -> float:
        """Return the number of epochs that `step` steps are."""
        return round(step / self._steps_per_epoch, 4)

    def _images_per_second(self) -> float:
        """Return the speed since the last line."""
        return self._per_second(self._progress.images - self._images_before)

    def _per_second(self, count: float) -> float:
        """Return how many these are in a second, if they were counted since the last line."""
        seconds = self._progress.seconds - self._seconds_before
        return count / seconds if seconds > 0 else 0.0

    def _waits(self) -> dict[str, Any]:
        """Return what the ranks waited and sent since the last line; empty if there is one."""
        waits = self._team.take_waits()
        if waits:
            waits["sent_bytes_per_second"] = [round(self._per_second(sent)) for sent in waits["sent_bytes"]]
        return waits

    def _write(self, line: dict[str, Any]) -> None:
        with self._failures.of_disk():
            self._run.log(line)


def summary(
    run: Run, settings: Settings, progress: Progress, network: Network, source: Source, checkpoint: int
) -> dict[str, Any]:
    """Return the content of ``summary.json``.

    Args:
        run: The folder, to which the names of checkpoints are relative.
        settings: The run's settings.
        progress: How far the run is.
        network: The network.
        source: The data, with the images that were found unreadable.
        checkpoint: The step of the newest checkpoint.
    """

    def file(step: int) -> str:
        return str(run.checkpoints.file(step).relative_to(run.path))

    description, test, best = network.describe(), progress.last_test or {}, progress.best
    return {
        "net": settings.net,
        "data": source.name,
        "device": description["device"],
        "precision": settings.precision,
        "complete": progress.epoch >= settings.epochs,
        "batch": settings.batch,
        "accumulate": settings.accumulate,
        "epochs": progress.epoch,
        "steps": progress.step,
        "seconds": round(progress.seconds, 3),
        "images_per_second": round(progress.images / max(progress.seconds, 1e-9), 1),
        "test_error_top1": test.get("test_error_top1"),
        "test_error_top5": test.get("test_error_top5"),
        "test_loss": test.get("test_loss"),
        **(progress.last_train or progress.train_errors()),
        "parameters": description["parameters"],
        "copied_bytes": progress.copied_bytes,
        "copy_seconds": round(progress.copy_seconds, 3),
        "checkpoint": file(checkpoint),
        "best": best and {**best, "checkpoint": file(best["step"])},
        "skipped_images": len(source.report()),
    }
