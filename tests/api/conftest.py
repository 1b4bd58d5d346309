"""Short trainings: their curves are drawn only where a test looks at them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def curves() -> Iterator[pytest.MonkeyPatch]:
    """Leave out the training curve at the end of each training, which takes as long as the training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cconvnet.plots.into_run", lambda run, say: None)
        yield patch
