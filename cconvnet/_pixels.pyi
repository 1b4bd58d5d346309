from typing import Any

from numpy.typing import NDArray

def resize_into(pixels: NDArray[Any], box: tuple[float, float, float, float], out: NDArray[Any]) -> None: ...
