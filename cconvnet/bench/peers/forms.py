"""Forms in which a PyTorch user could write a training step."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet.errors import nearest
from cconvnet.nets import LrnSpec, NetSpec

# Those of PyTorch.
PEER_PRECISIONS = ("fp32", "tf32", "bf16")

# Words of the forms of PyTorch's step, which are joined by +.
WORDS = {
    "nchw": "images, activations and filters in memory as [N,C,H,W]",
    "channels_last": "images, activations and filters in memory as [N,H,W,C]",
    "lrn_by_hand": "LRN written in elementwise operations, not the library's own",
    "compiled": "torch.compile",
    "graph": "the whole step is captured in a CUDA graph",
    "bf16_model": "in bf16, not autocast but weights in bfloat16, rounded from the floats that SGD moves",
    **{name: f"computed in {name}, whatever the precision of ours" for name in PEER_PRECISIONS},
}


def default_forms(spec: NetSpec, on_gpu: bool, precision: str = "fp32") -> list[str]:
    """Return the forms of PyTorch's step that are tried if none are requested; see PyTorchStep.

    In precisions other than fp32 they include those of fp32, PyTorch's default.
    """
    forms = ["channels_last", "channels_last+graph", "channels_last+compiled+graph"]
    if not on_gpu:
        forms = ["nchw", "channels_last"]
    normalises = any(isinstance(layer, LrnSpec) for layer in spec.layers)
    if normalises:
        forms += [f"{form}+lrn_by_hand" for form in forms]
    others = [] if peer_precision(precision) == "fp32" else [f"{form}+fp32" for form in forms]
    if precision == "bf16":
        forms.append(f"{forms[-1]}+bf16_model")
    return forms + others


def form_precision(form: str, precision: str) -> str:
    """Return the precision in which a form computes where ours computes in `precision`."""
    return next((word for word in form.split("+") if word in PEER_PRECISIONS), peer_precision(precision))


def peer_precision(precision: str) -> str:
    """Return the precision of PyTorch that is as accurate as one of ours."""
    return "fp32" if precision == "fp32x3" else precision


def check_forms(forms: Sequence[str], on_gpu: bool, precision: str = "fp32") -> None:
    """Raise ValueError for a form that is impossible where ours computes in `precision`."""
    for form in forms:
        words = form.split("+")
        for word in words:
            if word not in WORDS:
                raise ValueError(nearest("--forms: a word", word, WORDS))
        if ("nchw" in words) == ("channels_last" in words):
            raise ValueError(f"--forms must each have one of nchw and channels_last, not {form!r}")
        if "graph" in words and not on_gpu:
            raise ValueError(f"--forms may have graph on a GPU only, not {form!r}")
        if sum(word in PEER_PRECISIONS for word in words) > 1:
            raise ValueError(f"--forms may each have one of {', '.join(PEER_PRECISIONS)}, not {form!r}")
        if "bf16_model" in words and form_precision(form, precision) != "bf16":
            raise ValueError(f"--forms may have bf16_model in bf16 only, not {form!r}")
