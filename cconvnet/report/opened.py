"""What a page is made from: the trained network and its data, opened when they are wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cconvnet.data import Source, WorkerError
from cconvnet.devices import CudaError, DeviceUnavailable
from cconvnet.evaluate import Trained
from cconvnet.plots import analysis

# What may go wrong with a part without the others having to suffer.
FAILURES = (ValueError, OSError, DeviceUnavailable, CudaError, WorkerError, MemoryError)


class Opened:
    """The trained network and its data, opened once and when they are wanted; what failed fails again."""

    def __init__(self, load: Callable[[], Trained], where: str | None) -> None:
        self._load, self._where = load, where
        self._trained: Trained | Exception | None = None
        self._source: Source | Exception | None = None

    def trained(self) -> Trained:
        if self._trained is None:
            self._trained = attempt(self._load)
        if isinstance(self._trained, Exception):
            raise self._trained
        return self._trained

    def source(self) -> Source:
        if self._source is None:
            self._source = attempt(lambda: analysis.open_test(self.trained(), self._where))
        if isinstance(self._source, Exception):
            raise self._source
        return self._source

    def seen_of_source(self) -> Source | None:
        """The data as far as it was looked at; None where it could not be opened."""
        return self._source if isinstance(self._source, Source) else None

    def passed_over(self) -> list[str]:
        """A line for each damaged checkpoint that was passed over."""
        return self._trained.skipped if isinstance(self._trained, Trained) else []


def attempt(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except FAILURES as error:
        return error
