"""PyTorch itself, set up for a peer. Where it is missing, importing this module tells how to install it."""

from __future__ import annotations

from cconvnet.bench.processes import PeerMissing
from cconvnet.system.installation import pip_install

try:
    import torch
except ImportError as error:
    raise PeerMissing(f"PyTorch cannot be used ({error}): {pip_install('torch')}") from None


def set_up(ordinal: int | None, precision: str) -> torch.device:
    """Return the device to compute on, with the settings of a precision.

    `ordinal` is the GPU's number in the driver; None is the CPU.

    Raises:
        PeerMissing: This PyTorch cannot use a GPU.
    """
    # Both are set: PyTorch's own defaults differ between convolutions and matrix products.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    if ordinal is None:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise PeerMissing(
            f"PyTorch {torch.__version__} cannot use this GPU: "
            + pip_install("torch", "--index-url", "https://download.pytorch.org/whl/cu130")
        )
    device = torch.device("cuda", ordinal)
    torch.cuda.set_device(device)
    return device
