"""The commands ``cconvnet data ...``: getting, preparing and looking at data."""

from __future__ import annotations

import shlex
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cconvnet.cli.options import example

app = typer.Typer(help="Get, prepare, look at and check data.")


@app.callback(invoke_without_command=True)
def data_level(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(epilog=example("cconvnet data get cifar10", "cconvnet data get mnist --out digits/mnist"))
def get(
    name: Annotated[
        str,
        typer.Argument(help="cifar10 (170 MB), mnist (12 MB) or imagenette (342 MB).", metavar="NAME"),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The folder for it; data/NAME if not given.", metavar="FOLDER"),
    ] = None,
) -> None:
    """Download a public data set, checked and ready to train on.

    It can be stopped at any time; the same command goes on. CCONVNET_DATA_MIRROR may be the address of a
    folder that holds the files, to fetch them from there.
    """
    from cconvnet.data import downloads
    from cconvnet.reporter import reporter

    out = out or Path("data", name)
    with reporter() as report:
        begun = ""

        def progress(file: str, done: int, total: int) -> None:
            nonlocal begun
            if begun != file:
                report.begin(file, total // 10**6, done // 10**6)
                begun = file
            report.step(done // 10**6, file, f"{done / total:.0%} of {total / 1e6:,.1f} MB")

        origin = downloads.get(name, out, say=report.say, progress=lambda file: partial(progress, file))
        report.end()
        counts = f"{len(origin.train):,} training"
        if origin.test is not None:
            counts += f" and {len(origin.test):,} test"
        report.say(f"{out}: {counts} pictures of {len(origin.classes):,} classes")
        report.say(f"train on it with: cconvnet train --data {shlex.quote(str(out))}")


@app.command(
    epilog=example(
        "cconvnet data prepare photos photos-256",
        "cconvnet data prepare imagenet imagenet-raw --raw --workers 16",
    )
)
def prepare(
    src: Annotated[
        str,
        typer.Argument(
            help="What to prepare: a folder of pictures or archives, of MNIST's or CIFAR-10's files, of shards.",
            metavar="SRC",
        ),
    ],
    dst: Annotated[Path, typer.Argument(help="The folder for the shards.", metavar="DST")],
    size: Annotated[
        int | None,
        typer.Option(
            help="Bring pictures to this shorter side and keep their centre square. 256 if not given; "
            "pictures that are all of one smaller size, and arrays, then stay.",
            metavar="PIXELS",
        ),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Store pixels, which need no decoding; arrays are stored so anyway."),
    ] = False,
    quality: Annotated[
        int | None,
        typer.Option(
            help="Of JPEGs, 1 to 100. Without it 90, and JPEGs that have the right size stay as they are.",
            metavar="N",
        ),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Keep whole pictures instead of their centre squares.")
    ] = False,
    shard_mb: Annotated[
        float, typer.Option(help="About how long a shard may become, in MiB.", metavar="MIB")
    ] = 256,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes at work; one per core if not given, 0: none.", metavar="N"),
    ] = None,
) -> None:
    """Make shards of pictures: brought to a size, in a few large checked files that train fast.

    It can be stopped at any time; the same command goes on.
    """
    from cconvnet.data import origins
    from cconvnet.data.prepare import Preparation, sized
    from cconvnet.data.recipes import choose
    from cconvnet.reporter import reporter

    if workers is not None and workers < 0:
        raise ValueError(f"--workers must be at least 0, not {workers}")
    began = time.monotonic()
    origin = origins.find(src)
    recipe, survey = choose(origin, size=size, whole=whole, raw=raw, quality=quality)
    work = Preparation(origin, dst, recipe, survey, round(shard_mb * 2**20))
    with reporter() as report:
        for line in work.describe():
            report.say(line)
        if work.complete() is not None:
            report.say(f"{dst} is already complete")
            return
        dataset = work.run(report, workers)
        count = sum(len(dataset.shards(split)) for split in dataset.pictures)
        counts = " and ".join(f"{count:,} {split}" for split, count in dataset.pictures.items())
        report.say(
            f"{dst}: {counts} pictures in {count:,} shard{'s' * (count > 1)}, "
            f"{sized(sum(file.bytes for file in dataset.files.values()))}, {time.monotonic() - began:.0f} s"
        )
        skipped = sum(dataset.skipped.values())
        if skipped:
            report.say(f"{skipped:,} broken pictures were left out; {dst / 'skipped.jsonl'} names them")
