"""The report of a run: its content, its safety, and its notes where something is missing."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cconvnet import nets, report, runs
from cconvnet.console import Silent
from cconvnet.devices import get_device
from cconvnet.evaluate import Answers, evaluate_runs, load_trained
from cconvnet.plots import analysis
from cconvnet.report import results
from cconvnet.report.markup import Markup, document, tag
from cconvnet.runs import RunError, overview
from cconvnet.training.options import Options
from cconvnet.training.session import train

SECTIONS = [
    "curves",
    "confusion",
    "classes",
    "mistakes",
    "predictions",
    "neighbours",
    "filters",
    "activations",
    "seen",
    "timeline",
    "layers",
    "log",
    "settings",
    "checkpoints",
    "skipped",
    "environment",
]
# These need the network and the data.
OF_THE_DATA = ("confusion", "classes", "mistakes", "predictions", "neighbours", "activations")
HOSTILE = ["<script>alert(1)<", '"><img src=x onerror=alert(2)>', "a&amp;b' $x_{}"]


class Page(HTMLParser):
    """Content of a page as a browser finds it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.section = ""
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self._open

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))
        if name == "section":
            self.section = dict(attributes)["id"] or ""
        if name not in ("meta", "img"):
            self._open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self._open.pop() == name
        if name == "section":
            self.section = ""

    def handle_data(self, text: str) -> None:
        self.texts.setdefault(self.section, []).append(text)

    def text(self, section: str) -> str:
        return " ".join(self.texts[section])

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.tags if found == name]


def written(run: Path, out: Path, **options: Any) -> Page:
    report.write(run, out, devices=["cpu:0"], **options)
    return Page(out)


@pytest.fixture(scope="module")
def page(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    pytest.importorskip("matplotlib")
    return written(small_run, tmp_path_factory.mktemp("report") / "report.html")


def part_of(page: Page, section: str) -> str:
    (part,) = re.findall(rf'<section id="{section}">.*?</section>', page.source, re.S)
    assert isinstance(part, str)
    return part


def rows(page: Page, section: str) -> list[list[str]]:
    """Return the cells of a section's table by row, without its head."""
    body = re.findall(r"<tbody>(.*?)</tbody>", part_of(page, section), re.S)[0]
    return [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]


# ---- what it says ----------------------------------------------------------------------------------------


def test_all_parts_are_there_and_whole(page: Page) -> None:
    assert [one["id"] for one in page.all("section")] == SECTIONS
    assert [one["href"] for one in page.all("a")] == [f"#{name}" for name in SECTIONS]
    assert "Not shown" not in page.source
    assert len(page.source) < 2e6


def test_the_head_says_how_the_run_went(page: Page, small_run: Path) -> None:
    head = page.text("")
    about = overview.read_overview(small_run)
    assert about.best_error is not None
    summary = json.loads((small_run / "summary.json").read_text())
    for text in (
        "lenet on digits",
        "complete",
        f"{100 * about.best_error:.2f}%",
        f"after epoch {about.best_epoch}",
        f"{summary['parameters']:,}",
        "88 steps of 64",
        "cpu:0",
    ):
        assert text in head


def test_the_log_and_the_settings_are_there(page: Page, small_run: Path) -> None:
    lines = [line for line in runs.read_log(small_run) if "test_loss" in line]
    best = min(range(4), key=lambda n: lines[n]["test_error_top1"])
    assert [row[0] for row in rows(page, "log")] == ["1", "2", "3", "4"]
    for number, (row, line) in enumerate(zip(rows(page, "log"), lines, strict=True)):
        assert row[3] == f"{line['test_loss']:.4f}"
        assert row[5] == f"{100 * line['test_error_top1']:.2f}%"
        assert row[7] == ("best" if number == best else "")
    assert "Learning rate 0.05, 0.005 from epoch 2." in page.text("log")
    settings = runs.read_config(small_run)["settings"]
    shown = dict(rows(page, "settings"))
    assert set(shown) == {key.replace("_", " ") for key in settings}
    assert (shown["lr"], shown["lr steps"], shown["crop"]) == ("0.05", "times 0.1 from epoch 2", "no")
    files = sorted(file.name for file in (small_run / "checkpoints").iterdir())
    assert [row[0] for row in rows(page, "checkpoints")] == files
    assert rows(page, "checkpoints")[-1][4].startswith("sound")


def test_predictions_are_the_networks(page: Page, small_run: Path) -> None:
    trained = load_trained(small_run, devices=["cpu:0"])
    look = analysis.look(trained, analysis.open_test(trained, None), among=1000)
    expected = [
        (look.class_names[number], f"{100 * p:.0f}%", f"{100 * p:.1f}%")
        for one in look.seen
        for number, p in zip(one.classes, one.probabilities, strict=True)
    ]
    answers = part_of(page, "predictions")
    bars = re.findall(r'<rect width="(.*?)".*?<span>(.*?)</span><span>(.*?)</span>', answers)
    assert [(name, percent, width) for width, name, percent in bars] == expected
    assert page.source.count('<li class="right">') == sum(one.label in one.classes for one in look.seen)
    assert "fc1" in page.text("neighbours") and "1,000" in page.text("neighbours")


def test_every_picture_can_be_decoded(page: Page) -> None:
    images = page.all("img")
    # Two curves, a sheet of filters, eight answers, eight rows of seven, a query and its two layers.
    mistakes = part_of(page, "mistakes").count("<img")
    assert len(images) == 2 + 1 + 8 + 8 * 7 + 3 + mistakes
    for image in images:
        assert image["alt"]
        kind, content = re.fullmatch(r"data:image/(.*?);base64,(.*)", image["src"] or "").groups()  # type: ignore[union-attr]
        data = base64.b64decode(content)
        if kind == "svg+xml":
            assert data.startswith(b"<?xml") and b"<script" not in data
        else:
            Image.open(io.BytesIO(data)).load()


# ---- safe to open ----------------------------------------------------------------------------------------


def test_nothing_is_loaded_or_run(page: Page) -> None:
    allowed = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "div",
        "header",
        "h1",
        "h2",
        "p",
        "span",
        "dl",
    }
    allowed |= {"dt", "dd", "small", "nav", "a", "main", "section", "figure", "figcaption", "img", "ol", "li"}
    allowed |= {"svg", "rect", "table", "thead", "tbody", "tr", "th", "td", "code", "footer"}
    assert {name for name, _ in page.tags} <= allowed
    for name, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on") and key not in ("style", "srcset")
            if key == "src":
                assert (value or "").startswith("data:image/"), name
            if key == "href":
                assert (value or "").startswith("#"), name
    (policy,) = [one["content"] for one in page.all("meta") if "http-equiv" in one]
    (style,) = re.findall(r"<style>(.*?)</style>", page.source, re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert (policy or "").startswith("default-src 'none'")
    assert f"style-src 'sha256-{digest}'" in (policy or "")
    assert "unsafe" not in (policy or "") and "url(" not in style and "@import" not in style


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run whose classes, data, folder, command and versions look like markup."""
    root = tmp_path_factory.mktemp("hostile")
    data, run = root / "<title><script>x", root / "<b onclick=y>run"
    for part, count in (("train", 8), ("test", 4)):
        for label, name in enumerate(HOSTILE):
            (data / part / name).mkdir(parents=True)
            for number in range(count):
                file = os.fsdecode(b"<i>\xe9.png") if number == 0 else f"<i>{number}.png"
                Image.new("L", (8, 8), 80 * label + number).save(data / part / name / file)
    options = Options(devices=["cpu:0"], data=str(data), batch=8, epochs=1, log_every=1, out=run)
    train(options, Silent(io.StringIO()))
    config = json.loads((run / "config.json").read_text())
    config["command"] = "<script>alert(3)</script>"
    config["versions"]["<script>"] = "</td><script>"
    config["device"] = "<svg onload=z>"
    (run / "config.json").write_text(json.dumps(config))
    return run


def test_text_is_never_markup(hostile_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = written(hostile_run, tmp_path / "report.html")
    test_nothing_is_loaded_or_run(page)
    assert "Not shown" not in page.source
    for name in HOSTILE:
        for section in ("confusion", "classes", "predictions", "neighbours", "settings"):
            assert name in page.text(section)
    assert hostile_run.name in page.text("")
    assert "%DCE9.png" in page.source  # a name that is no text
    assert "<script>alert(3)</script>" in page.text("environment")
    assert "<svg onload=z>" in page.text("")


def test_elements_escape_what_is_no_markup() -> None:
    inner = tag("b", "<i>", title='"')
    assert inner == '<b title="&quot;">&lt;i&gt;</b>'
    assert tag("p", inner, None, "&", hidden=None) == f"<p>{inner}&amp;</p>"
    assert isinstance(inner, Markup)
    assert "<title>&lt;/title&gt;</title>" in document("</title>", "p {}")


# ---- what may be missing ---------------------------------------------------------------------------------


def copied(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    return to


def test_without_matplotlib_all_but_the_curves_are_there(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = written(small_run, tmp_path / "report.html")
    assert "Not shown: pictures need matplotlib" in page.text("curves")
    assert page.source.count("Not shown") == 1
    assert len(page.all("img")) == 1 + 8 + 8 * 7 + 3 + part_of(page, "mistakes").count("<img")


def test_without_the_data_the_rest_is_there(small_run: Path, tmp_path: Path) -> None:
    page = written(small_run, tmp_path / "report.html", data=str(tmp_path / "gone"))
    for section in OF_THE_DATA:
        assert "Not shown: there is no" in page.text(section)
    assert page.source.count("Not shown") == len(OF_THE_DATA)
    assert [one["id"] for one in page.all("section")] == SECTIONS


def test_a_precision_the_device_has_not_leaves_the_rest(small_run: Path, tmp_path: Path) -> None:
    page = written(small_run, tmp_path / "report.html", precision="tf32")
    for section in OF_THE_DATA:
        assert "Not shown: " in page.text(section) and "tf32" in page.text(section)
    assert page.source.count("Not shown") == len(OF_THE_DATA)
    if get_device("cpu:0").serves("bf16"):
        assert "Not shown" not in written(small_run, tmp_path / "report.html", precision="bf16").source


def test_a_run_that_has_just_begun(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(small_run / "config.json", run)
    page = written(run, tmp_path / "report.html")
    for section in ("curves", "filters", *OF_THE_DATA):
        assert "Not shown: " in page.text(section)
    assert "has no lines to draw" in page.text("curves")
    assert "no sound checkpoint" in page.text("filters")
    assert "No epoch has ended yet" in page.text("log")
    assert "There is no checkpoint yet" in page.text("checkpoints")
    assert "killed" in page.text("")


def test_damaged_checkpoints_are_told(small_run: Path, tmp_path: Path) -> None:
    run = copied(small_run, tmp_path / "run")
    newest = max((run / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-9])
    page = written(run, tmp_path / "report.html")
    assert f"{newest} is damaged" in page.text("skipped")
    sound = [row[0] for row in rows(page, "checkpoints") if row[4]]
    assert sound == [max(file.name for file in (run / "checkpoints").iterdir() if file != newest)]


def test_broken_images_are_told(hostile_run: Path, tmp_path: Path) -> None:
    run = copied(hostile_run, tmp_path / "run")
    data = copied(hostile_run.parent / "<title><script>x", tmp_path / "data")
    broken = data / "train" / HOSTILE[1] / "<i>3.png"
    broken.write_bytes(b"no picture")
    page = written(run, tmp_path / "report.html", data=str(data))
    assert "1 unreadable image found" in page.text("skipped")
    assert str(broken) in page.text("skipped")


def test_pictures_of_the_run_are_shown_if_there_are_some(small_run: Path, tmp_path: Path) -> None:
    run = copied(small_run, tmp_path / "run")
    page = written(run, tmp_path / "report.html")
    assert f"cconvnet plot timeline {run}" in page.text("timeline")
    for command in (f"why {run} PICTURE", f"features {run} --layer NAME", f"map {run}"):
        assert f"cconvnet plot {command}" in page.text("seen")
    for name in ("timeline", "why", "map"):
        Image.new("RGB", (9, len(name))).save(run / f"{name}.png")
    page = written(run, tmp_path / "report.html")
    assert "Not drawn" not in page.text("timeline")
    assert page.text("seen").count("Not drawn") == 1
    for name in ("timeline", "why", "map"):
        assert base64.b64encode((run / f"{name}.png").read_bytes()).decode() in page.source


def test_the_waits_of_ranks_are_shown_if_there_are_several(
    page: Page, small_run: Path, tmp_path: Path
) -> None:
    assert "ranks" not in page.texts
    run = copied(small_run, tmp_path / "run")
    step = max(one["step"] for one in runs.read_log(run) if "loss" in one)
    images = runs.read_config(run)["settings"]["batch"]
    # Ten steps of half a second.
    line = {"step": step + 10, "epoch": 9, "loss": 1.0, "images_per_second": 2.0 * images}
    line |= {"ranks": 2, "wait_seconds": [2.0, 0.5], "slowest_rank": 1, "sent_bytes": [3e7, 2e7]}
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    found = written(run, tmp_path / "report.html")
    text = found.text("ranks")
    assert "The 2 ranks waited 25.0% of the time of the steps, mostly for rank 1, which waited least." in text
    assert "0 40.0% 200.00 ms 3.00 MB 6.0 MB/s" in text
    assert "1 10.0% 50.00 ms 2.00 MB 4.0 MB/s slowest" in text
    assert "waiting 25%; slowest: rank 1" in found.source
    assert f"mpiexec -n 2 cconvnet plot timeline {run}" in found.text("timeline")


def test_many_epochs_are_shown_in_part(small_run: Path, tmp_path: Path) -> None:
    run = copied(small_run, tmp_path / "run")
    (line,) = [one for one in runs.read_log(run) if one.get("epoch") == 4 and "test_loss" in one]
    with (run / "log.jsonl").open("a") as log:
        for epoch in range(5, 301):
            error = 0.001 if epoch == 140 else line["test_error_top1"]
            log.write(
                json.dumps({**line, "step": 22 * epoch, "epoch": epoch, "test_error_top1": error}) + "\n"
            )
    page = written(run, tmp_path / "report.html")
    shown = [int(row[0]) for row in rows(page, "log")]
    assert shown[0] == 1 and shown[-1] == 300 and 140 in shown
    assert f"{len(shown)} of 300 epochs" in page.text("log") and len(shown) <= 41


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        report.write(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (3.71, "3.7 s"),
        (74.2, "1 min 14 s"),
        (3600, "1 h 0 min"),
        (18185, "5 h 3 min"),
        (527000, "6 d 2 h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert report.duration(seconds) == text


# ---- the result of the test ------------------------------------------------------------------------------


def test_the_matrix_and_the_classes_are_those_of_an_evaluation(page: Page, small_run: Path) -> None:
    found = evaluate_runs([small_run], devices=["cpu:0"])
    names = found.classes
    part = part_of(page, "confusion")
    shown = [
        [int(cell.replace(",", "") or 0) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", part)[1:]
    ]
    assert shown == found.confusion.tolist()
    assert "355 test images" in page.text("confusion")
    assert f"{100 * found.error_top1:.2f}% of them wrong" in page.text("confusion")
    assert [row[0] for row in rows(page, "classes")] == [one.name for one in found.per_class]
    for row, one in zip(rows(page, "classes"), found.per_class, strict=True):
        assert (int(row[1]), int(row[2])) == (one.images, one.wrong)
        assert one.error is not None and f'<rect width="{100 * one.error:.1f}%"' in row[3]
    assert set(re.findall(r'class="(?:right|wrong)\d"', part)) >= {'class="right4"', 'class="wrong2"'}
    assert all(name in page.text("confusion") for name in names)


def test_mistakes_are_shown_with_both_classes(page: Page, small_run: Path) -> None:
    worst = evaluate_runs([small_run], devices=["cpu:0"]).worst(24)
    assert worst
    part = part_of(page, "mistakes")
    captions = re.findall(r"<span>(.*?)</span><span>(.*?)</span>", part)
    assert captions == [
        (one.name, f"taken for {one.predicted}, {100 * one.probability:.2f}%") for one in worst
    ]
    alts = re.findall(r'alt="(.*?)"', part)
    assert alts == [f"{Path(one.file).name}, {one.name} taken for {one.predicted}" for one in worst]


def test_the_layers_are_there(page: Page, small_run: Path) -> None:
    net = nets.spec_from_dict(runs.read_config(small_run)["spec"])
    head, cells = net.table().cells()
    assert rows(page, "layers") == cells[:-1]
    assert all(name in page.text("layers") for name in (*head, f"{net.table().multiply_adds:,}"))


def test_part_of_the_test_images_may_be_enough(small_run: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    page = written(
        small_run, tmp_path / "report.html", images=100, stepped=lambda *counts: seen.append(counts)
    )
    assert "100 of 355 test images" in page.text("confusion")
    assert sum(int(row[1]) for row in rows(page, "classes")) == 100
    # First the test, then the predictions and the training images beside them.
    assert seen[0] == (64, 100) and (100, 100) in seen and seen[-1][0] == seen[-1][1] > 1000


def test_a_thousand_classes_fit_on_a_page() -> None:
    names = [f"class {number}" for number in range(1000)]
    labels = np.arange(5000, dtype=np.int32) % 1000
    answers = Answers(labels, names)
    probabilities = np.zeros((5000, 1000), np.float32)
    predicted = np.where(labels < 100, labels // 2, labels)  # of the even ones of these, other classes
    probabilities[np.arange(5000), predicted] = 1
    answers.add(np.arange(5000), probabilities, (predicted != labels).astype(np.int32))
    found = results.Tested(answers, 5000, 50_000, 0.1)
    confused, classes = results.confusion(found), results.classes(found)
    assert "5,000 of 50,000 test images" in confused
    assert confused.count("<tr>") == 41 and classes.count("<tr>") == 41
    assert len(confused) + len(classes) < 30_000
    assert "class 1</td><td>class 0</td><td>5</td><td>100.00%" in confused
    assert "Shown are the first 32 and the last 8." in classes
    assert "class 1</td><td>5</td><td>5</td>" in classes and "class 999</td><td>5</td><td>0</td>" in classes


def test_a_network_without_mistakes_has_none_to_show() -> None:
    answers = Answers(np.zeros(3, np.int32), ["a", "b"])
    answers.add(np.arange(3), np.array([[1.0, 0.0]] * 3), np.zeros(3, np.int32))
    found = results.Tested(answers, 3, 3, 0.0)
    assert "None: 3 test images, 0.00% of them wrong" in results.mistakes(found, None)  # type: ignore[arg-type]
    assert "Confused most often" not in results.confusion(found)
    assert "1 have no test image" in results.classes(found)
