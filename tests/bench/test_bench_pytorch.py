"""PyTorch's side of a comparison of kernels."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import cconvnet as cc
from cconvnet.bench.cases import Case, cases, find

# Activation functions, and layers of which PyTorch's side knows nothing.
_TANH = cc.image(9, 8, 2).conv(4, 3).tanh(1.7159, 2 / 3).fc(6).logistic().fc(3).softmax("tanh")
# Only operations that PyTorch computes otherwise than the rows of cifar-quick show.
_HARD = [
    ("alexnet", "conv1", "conv_fprop"),
    ("alexnet", "conv1", "conv_wgrad"),
    ("alexnet", "conv4", "conv_dgrad"),
    ("alexnet", "lrn2", "lrn_forward"),
    ("alexnet", "lrn2", "lrn_backward"),
    ("cifar-18pct", "rnorm1", "lrn_forward"),
    ("cifar-18pct", "rnorm1", "lrn_backward"),
    ("alexnet", "lrn1+pool1", "lrn_maxpool_forward"),
    ("alexnet", "lrn1+pool1", "lrn_maxpool_backward"),
    ("alexnet", "dropout7", "dropout"),
    ("resnet50", "layer2_0_conv2", "conv_dgrad"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "case",
    [*cases("cifar-quick", 2), *cases(_TANH, 2), *(find(network, 1, *rest) for network, *rest in _HARD)],
    ids=lambda case: f"{case.network} {case.name}",
)
def test_pytorch_is_right(case: Case, precision: str) -> None:
    pytest.importorskip("torch")
    from cconvnet.bench.peers.pytorch_kernels import PyTorch

    side = PyTorch("cpu:0", precision)
    answer = side.prepare(**case.key)
    assert (answer["wrong"], answer["failed"]) == ({}, {})
    assert len(side.time("plan", 2)) == 2


@pytest.fixture
def torch_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """PyTorch on a GPU that is none: its CPU, and as much of torch.cuda as the side uses; its notes."""
    torch = pytest.importorskip("torch")
    from cconvnet.bench.peers import pytorch_kernels

    notes: list[str] = []

    class Graph:
        def replay(self) -> None:
            notes.append("replay")

    @contextlib.contextmanager
    def graph(captured: Graph, stream: Any) -> Iterator[None]:
        assert stream == "stream" and isinstance(captured, Graph)
        notes.append("capture")
        yield

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = time.perf_counter()

        def elapsed_time(self, end: Event) -> float:
            return 1e3 * (end.at - self.at)

    properties = SimpleNamespace(L2_cache_size=1 << 10)
    fakes = {"CUDAGraph": Graph, "graph": graph, "Event": Event, "Stream": lambda device: "stream"}
    fakes |= {"set_stream": notes.append, "synchronize": lambda: None}
    fakes |= {"get_device_properties": lambda device: properties}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(pytorch_kernels, "gpu", lambda name: SimpleNamespace(ordinal=0))
    monkeypatch.setattr(pytorch_kernels, "set_up", lambda ordinal, precision: torch.device("cpu"))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    return notes


def test_pytorch_times_graphs_on_a_gpu(torch_gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from cconvnet.bench.peers import pytorch_kernels

    side = pytorch_kernels.PyTorch("cuda:0", "fp32")
    assert side.verify == "finite" and torch_gpu == ["stream"]
    for layer, operation in (("conv3", "conv_wgrad"), ("fc10", "fc_dgrad"), ("pool3", "avgpool_backward")):
        del torch_gpu[:]
        answer = side.prepare("cifar-quick", 1, layer, operation)
        assert answer["wrong"] == answer["failed"] == {}
        (plan,) = answer["plans"].values()
        assert plan["how"] == "graph" and plan["launch_seconds"] > 0 and plan["called_seconds"] > 0
        assert torch_gpu == ["capture", *["replay"] * 3]  # once to try it, twice for a first time
        side.time("plan", 4)
        assert torch_gpu.count("replay") == 7

    @contextlib.contextmanager
    def refused(graph: Any, stream: Any) -> Iterator[None]:
        yield
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr("torch.cuda.graph", refused)
    (plan,) = side.prepare("cifar-quick", 1, "fc10", "fc_fprop")["plans"].values()
    assert plan["how"] == "not captured: operation not permitted when stream is capturing"
