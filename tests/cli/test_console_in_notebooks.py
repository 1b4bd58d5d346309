"""Progress in a notebook: one output that is updated, without widgets."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from cconvnet import console
from cconvnet.console import Cell, Silent


class Output:
    """The output of a cell as a notebook's display function makes it."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def update(self, content: dict[str, str], raw: bool) -> None:
        assert raw
        self.shown.append(content)


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[Output]:
    made: list[Output] = []

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Output:
        assert raw and display_id
        made.append(Output())
        made[-1].shown.append(content)
        return made[-1]

    module: Any = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return made


def notebook_stream() -> Any:
    kind = type("OutStream", (), {"__module__": "ipykernel.iostream", "isatty": lambda self: False})
    return kind()


def test_a_kernels_output_has_a_cell() -> None:
    assert type(console.reporter(notebook_stream())) is Cell
    assert type(console.reporter(notebook_stream(), quiet=True)) is Silent
    assert type(console.reporter(sys.__stdout__)) is not Cell


def test_one_output_contains_all(outputs: list[Output]) -> None:
    with console.reporter(notebook_stream()) as report:
        report.say("device: <cpu:0>")
        report.begin("epoch 1/2", 100)
        report.step(50, "epoch 1/2", lambda: "loss 1.5  30 images/s", lambda: 65.0)
        report.say("epoch 1/2: done")
    (output,) = outputs
    during = output.shown[-2]
    assert during["text/plain"] == (
        "device: <cpu:0>\nepoch 1/2: done\nepoch 1/2: loss 1.5  30 images/s  1:05 left"
    )
    assert '<progress value="50" max="100">' in during["text/html"]
    assert "device: &lt;cpu:0&gt;\nepoch 1/2: done</pre>" in during["text/html"]
    last = output.shown[-1]
    assert last["text/plain"] == "device: <cpu:0>\nepoch 1/2: done" and "progress" not in last["text/html"]


def test_a_thousand_steps_and_lines_are_few_updates(outputs: list[Output]) -> None:
    with console.reporter(notebook_stream()) as report:
        report.begin("training", 10000)
        for step in range(10000):
            report.step(step, "training", "loss 1")
            if step % 10 == 0:
                report.say(f"line {step}")
    (output,) = outputs
    assert len(output.shown) < 100
    lines = output.shown[-1]["text/plain"].splitlines()
    assert len(lines) == 201 and lines[0] == "line 0" and lines[-1] == "line 9990"
    assert lines[20] == "... 800 lines ..."


def test_nothing_to_say_is_no_output(outputs: list[Output]) -> None:
    with console.reporter(notebook_stream()):
        pass
    assert outputs == []


def test_a_task_of_a_moment_that_says_nothing_is_no_output(outputs: list[Output]) -> None:
    with console.reporter(notebook_stream()) as report:
        report.begin("evaluating", 2)
        report.step(1, "evaluating", "1/2")
    assert outputs == []


def test_a_longer_task_that_says_nothing_has_a_bar(
    outputs: list[Output], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("cconvnet.console.time.monotonic", lambda: now)
    with console.reporter(notebook_stream()) as report:
        report.begin("evaluating", 2)
        now = 1.0
        report.step(1, "evaluating", "1/2")
        assert '<progress value="1" max="2">' in outputs[0].shown[-1]["text/html"]
    assert "progress" not in outputs[0].shown[-1]["text/html"]


def test_a_real_kernel_shows_one_output(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel")
    pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel")
    train = "cc.train(epochs=2, devices='cpu:0')"
    cells = ["import cconvnet as cc", f"run = {train}", "run", "run.curve()", "result = run.evaluate()"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    nbclient.NotebookClient(book, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (shown,) = book.cells[1].outputs
    assert shown.output_type == "display_data" and "<progress" not in shown.data["text/html"]
    assert "epoch 2/2: test error" in shown.data["text/plain"] and len(shown.data["text/plain"]) < 1000
    assert book.cells[2].outputs[0].data["text/html"].startswith("<table>")
    assert "image/png" in book.cells[3].outputs[0].data
    assert not any(output.data.get("text/plain") == "" for output in book.cells[4].outputs)
