"""Network and data that the sections of a page share, opened on first use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cconvnet.data import Source, WorkerError
from cconvnet.data.datasets import Where
from cconvnet.devices import CudaError, DeviceUnavailable
from cconvnet.evaluate import Trained
from cconvnet.plots import analysis

# Errors of one section that must not prevent the others.
FAILURES = (ValueError, OSError, DeviceUnavailable, CudaError, WorkerError, MemoryError)


class Opened:
    """Trained network and its data, each opened once on first use; a failure is raised again at each use."""

    def __init__(self, load: Callable[[], Trained], where: Where) -> None:
        self._load, self._where = load, where
        self._trained: Trained | Exception | None = None
        self._source: Source | Exception | None = None

    def trained(self) -> Trained:
        """Return the network, or raise the error of loading it."""
        if self._trained is None:
            self._trained = attempt(self._load)
        if isinstance(self._trained, Exception):
            raise self._trained
        return self._trained

    def source(self) -> Source:
        """Return the data, or raise the error of opening it."""
        if self._source is None:
            self._source = attempt(lambda: analysis.open_test(self.trained(), self._where))
        if isinstance(self._source, Exception):
            raise self._source
        return self._source

    def source_if_open(self) -> Source | None:
        """Return the data if it was opened, otherwise None."""
        return self._source if isinstance(self._source, Source) else None

    def skipped_checkpoints(self) -> list[str]:
        """Return a line for each damaged checkpoint that was skipped."""
        return self._trained.skipped if isinstance(self._trained, Trained) else []


def attempt(make: Callable[[], Any]) -> Any:
    """Return the result of a function, or its error if that is one of FAILURES."""
    try:
        return make()
    except FAILURES as error:
        return error
