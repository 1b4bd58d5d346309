"""The rules by which a picture file becomes a stored image, recorded by runs and by shards.

Training, testing, predicting, preparing shards and plotting read pictures by the same rules. So a file gives
the same pixels in each of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Preprocessing:
    """The rules by which a picture file becomes pixels, apart from the size.

    Attributes:
        orientation: "exif": pictures are turned and mirrored according to their EXIF data. "stored": they
            stay as they are stored.
        jpeg: "full": JPEGs are decoded at their full resolution before they are resized. "reduced": they are
            decoded at 1/2, 1/4 or 1/8 of it if that is no smaller than the result. Reduced decoding is
            faster, but single pixels differ by up to 140 of 255 levels.
        resize: "antialiased": bilinear with a filter that widens with the reduction. The shorter side is
            resized to the size, and the centre square is kept.
    """

    orientation: str = "exif"
    jpeg: str = "full"
    resize: str = "antialiased"

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} of pictures must be one of {', '.join(known)}, not {value!r}")

    @classmethod
    def recorded(cls, values: Mapping[str, Any] | None) -> Preprocessing:
        """Read the rules from the record of a run or of shards; None stands for a record without rules.

        Raises:
            ValueError: the record has entries or values that this version does not know.
        """
        if values is None:
            return UNRECORDED
        unknown = sorted(values.keys() - _KNOWN.keys())
        if unknown:
            raise ValueError(f"the preprocessing of pictures has an unknown entry {unknown[0]!r}")
        return cls(**values)

    def record(self) -> dict[str, str]:
        """Return the rules as JSON values."""
        return dataclasses.asdict(self)

    def describe(self) -> str:
        """Return the rules in words."""
        turned = "turned upright by EXIF" if self.orientation == "exif" else "not turned by EXIF"
        jpegs = "JPEGs decoded in full" if self.jpeg == "full" else "large JPEGs decoded at reduced scale"
        return f"{turned}, {jpegs}"


_KNOWN: Final = {
    "orientation": ("exif", "stored"),
    "jpeg": ("full", "reduced"),
    "resize": ("antialiased",),
}

CURRENT: Final = Preprocessing()
# The rules of runs and shards that were made before rules were recorded.
UNRECORDED: Final = Preprocessing(orientation="stored", jpeg="reduced")
