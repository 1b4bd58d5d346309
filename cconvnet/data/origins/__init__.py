"""The kinds of data that can be read, a file for each: what they hold is found here, decoded elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cconvnet.data.extents import Extents, Raw
from cconvnet.data.images import Pixels

Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Pictures:
    """One split of an origin, n pictures in a fixed order.

    names: what each is called in a message and a report; unique.
    labels: int32[n], from 0 to classes - 1.
    extents: where stored pictures lie, or None where they are arrays already:
    pixels: uint8[n,H,W,C], C of 1 or 3.
    raw: of stored pictures that need no decoding, what their bytes are.
    """

    names: Sequence[str]
    labels: Labels
    extents: Extents | None = None
    pixels: Pixels | None = None
    raw: Raw | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Origin:
    """What a folder or file of data holds, before anything is decoded.

    kind: "pictures", "imagenet tars", "webdataset", "shards", "mnist", "cifar10", "batches", "digits".
    name: what results call it.
    classes: the labels' names (of ImageNet the WordNet ids); titles: the same in words, where there are any.
    train, test: test is None where the data has no test pictures of its own.
    notes: what a reader of a result should know.
    mean: float32[H,W,C] and colors: float32[C,C], where the data's files hold them.
    size: the side that pictures are brought to where none is asked for; None: their own.
    """

    kind: str
    name: str
    classes: list[str]
    train: Pictures
    test: Pictures | None
    notes: list[str] = field(default_factory=list)
    titles: list[str] | None = None
    mean: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    colors: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    size: int | None = None
