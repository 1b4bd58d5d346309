"""The commands ``cconvnet data ...``, which download, prepare, inspect and verify data."""

from __future__ import annotations

import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cconvnet.cli.help import App
from cconvnet.cli.options import (
    Json,
    checked_picture,
    example,
    pixels,
    print_table,
    real,
    reporter_for,
    whole,
    write_json,
)
from cconvnet.cli.options import seed as check_seed
from cconvnet.cli.options import workers as check_workers

if TYPE_CHECKING:
    from cconvnet.console import Reporter
    from cconvnet.data.datasets import Dataset

MAX_SHOWN_SKIPPED = 5  # pictures
MAX_SHOWN_DAMAGES = 100  # lines
MAX_SHARD_MIB = 2**20  # a tebibyte

app = App(help="Download, prepare, inspect and verify data.")


@app.callback(invoke_without_command=True)
def data_level(context: typer.Context) -> None:
    """Print the help if there is no command."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(epilog=example("cconvnet data get cifar10", "cconvnet data get mnist --out digits/mnist"))
def get(
    name: Annotated[
        str,
        typer.Argument(
            help="Data set: cifar10 (170 MB), mnist (12 MB) or imagenette (342 MB).", metavar="NAME"
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the data; data/NAME if not given.", metavar="FOLDER"),
    ] = None,
) -> None:
    """Download a public data set and check it, ready for training.

    A download can be stopped at any time; the same command resumes it. If CCONVNET_DATA_MIRROR is the address
    of a folder that contains the files, they are fetched from there.
    """
    from cconvnet.console import reporter
    from cconvnet.data import downloads

    out = out or Path("data", name)
    with reporter() as report:
        begun = ""

        def progress(file: str, done: int, total: int) -> None:
            nonlocal begun
            if begun != file:
                report.begin(file, total // 10**6, done // 10**6)
                begun = file
            report.step(done // 10**6, file, f"{done / total:.0%} of {total / 1e6:,.1f} MB")

        dataset = downloads.get(name, out, say=report.say, progress=lambda file: partial(progress, file))
        report.end()
        counts = f"{len(dataset.train):,} training"
        if dataset.test is not None:
            counts += f" and {len(dataset.test):,} test"
        report.say(f"{out}: {counts} pictures of {len(dataset.classes):,} classes")
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
            help="Folder of pictures, of archives, of shards, or of MNIST's or CIFAR-10's files.",
            metavar="SRC",
        ),
    ],
    dst: Annotated[Path, typer.Argument(help="Folder for the shards.", metavar="DST")],
    size: Annotated[
        int | None,
        typer.Option(
            help="Resize pictures to this shorter side and keep their centre square. If not given: 256, but "
            "arrays, and pictures that all have one smaller size, keep theirs.",
            metavar="PIXELS",
            callback=pixels,
        ),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", help="Store pixels, which need no decoding; arrays are always stored like this."
        ),
    ] = False,
    quality: Annotated[
        int | None,
        typer.Option(
            help="Quality of JPEGs, 1 to 100. If not given: 90, and JPEGs of the right size are kept "
            "unchanged.",
            metavar="N",
            callback=whole(1, 100),
        ),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Keep whole pictures instead of their centre squares.")
    ] = False,
    shard_mb: Annotated[
        float,
        typer.Option(
            help="Approximate size of a shard in MiB.",
            metavar="MIB",
            callback=real(above=0, high=MAX_SHARD_MIB),
        ),
    ] = 256,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Number of worker processes, 0 for none; one per core if not given.",
            metavar="N",
            callback=check_workers,
        ),
    ] = None,
) -> None:
    """Convert pictures to shards: resized, in a few large files with checksums, for fast training.

    The conversion can be stopped at any time; the same command resumes it.
    """
    from cconvnet.console import reporter
    from cconvnet.data.inspection import sized
    from cconvnet.data.shards.encoding import choose
    from cconvnet.data.shards.prepare import Preparation

    began = time.monotonic()
    with reporter() as report:
        dataset = _find(src, report)
        recipe, survey = choose(dataset, size=size, whole=whole, raw=raw, quality=quality)
        looking = report.counted("reading files")
        work = Preparation(dataset, dst, recipe, survey, round(shard_mb * 2**20), looking)
        report.end()
        for line in work.describe():
            report.say(line)
        if work.complete() is not None:
            report.say(f"{dst} is already complete")
            return
        shard_set = work.run(report, workers)
        count = sum(len(shard_set.shards(split)) for split in shard_set.pictures)
        counts = " and ".join(f"{count:,} {split}" for split, count in shard_set.pictures.items())
        length = sized(sum(file.bytes for file in shard_set.files.values()))
        report.say(
            f"{dst}: {counts} pictures in {count:,} shard{'s' * (count > 1)}, {length} in all, "
            f"{time.monotonic() - began:.0f} s"
        )
        skipped = sum(shard_set.skipped.values())
        if skipped:
            report.say(
                f"{skipped:,} pictures were skipped; {dst / 'skipped.jsonl'} lists them with the reasons"
            )
            for one in shard_set.left_out()[:MAX_SHOWN_SKIPPED]:
                report.say(f"  {one['split']}: {one['name']}: {one['reason']}")


@app.command(epilog=example("cconvnet data width data/mnist data/mnist-w14 --width 14"))
def width(
    src: Annotated[
        str, typer.Argument(help="Folder of digits, such as MNIST's files, or 'digits'.", metavar="SRC")
    ],
    dst: Annotated[Path, typer.Argument(help="Folder for the digits of one width.", metavar="DST")],
    width: Annotated[
        int, typer.Option(help="Width of every digit's bounding box.", metavar="PIXELS", callback=pixels)
    ],
) -> None:
    """Scale digits horizontally to one width, and write them as MNIST's files.

    The columns of a multi-column network are trained on digits of several widths. The images keep their
    order, so that `cconvnet evaluate` averages such columns.
    """
    from cconvnet.data import open_source, widths

    source = open_source(src)
    widths.write(source, width, dst)
    counts = f"{len(source.train):,} training and {len(source.test):,} test digits"
    print(f"{dst}: {counts} of {width} columns")


def _find(data: str | None, report: Reporter) -> Dataset:
    """Find the data in a folder and report progress, because a million pictures take time."""
    from cconvnet.data import datasets

    dataset = datasets.open_dataset(data, report.counted("scanning data"))
    report.end()
    return dataset


@app.command(
    epilog=example("cconvnet data inspect photos", "cconvnet data inspect photos-256 --sheet sheet.png")
)
def inspect(
    data: Annotated[
        str | None,
        typer.Argument(help="Folder of data of any kind; the embedded digits if not given.", metavar="DATA"),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Draw random pictures of each class to this file, .png or .jpg.", metavar="FILE"),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Random seed for the pictures of the sheet.", metavar="N", callback=check_seed)
    ] = 0,
    to_json: Json = None,
) -> None:
    """Show the content of data: classes, counts, sizes, and sample pictures."""
    from cconvnet.data import inspection
    from cconvnet.system.outputs import save_picture

    if sheet is not None and sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"--sheet must end with .png or .jpg, not {sheet.name!r}")
    checked_picture(sheet)
    with reporter_for(to_json) as report:
        dataset = _find(data, report)
        found = inspection.inspect(dataset, report.counted("reading files"))
    if to_json != "-":
        for line in inspection.lines(found):
            print(line)
        splits = list(found.counts)
        columns = ["class", *(["title"] if dataset.titles else []), *splits]
        print_table("", columns, inspection.table(found), set(splits))
    if to_json is not None:
        write_json(to_json, found.as_json())
    if sheet is not None:
        save_picture(inspection.sheet(dataset, seed), sheet)
        print(sheet, file=sys.stderr if to_json == "-" else sys.stdout)


@app.command(epilog=example("cconvnet data verify photos-256", "cconvnet data verify photos-256 --decode"))
def verify(
    dst: Annotated[Path, typer.Argument(help="Folder of shards.", metavar="DST")],
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every picture.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Number of parallel checks; one per core if not given.", metavar="N", callback=check_workers
        ),
    ] = None,
) -> None:
    """Check every byte of shards by SHA-256 of files and CRC-32 of pictures; exit 1 if any is damaged."""
    from cconvnet.console import reporter
    from cconvnet.data import shards
    from cconvnet.data.inspection import sized
    from cconvnet.data.shards import verify as checks

    shard_set = shards.read_shard_set(dst)
    pictures = sum(shard_set.pictures.values())
    size = sum(file.bytes for file in shard_set.files.values())
    with reporter() as report:
        report.begin("checking", size)
        found = checks.verify(
            dst, workers, lambda done, all: report.step(done, "checking", f"{sized(done)} of {sized(all)}")
        )
        report.end()
        if decode and not found:
            report.begin("decoding", pictures)
            found = checks.verify_decoding(
                dst, workers, lambda done, all: report.step(done, "decoding", f"{done:,} of {all:,}")
            )
            report.end()
        for line in found[:MAX_SHOWN_DAMAGES]:
            report.say(line)
        if len(found) > MAX_SHOWN_DAMAGES:
            report.say(f"and {len(found) - MAX_SHOWN_DAMAGES:,} more")
        if found:
            again = "run the `cconvnet data prepare` command that made it"
            report.say(f"{dst} is damaged; remove the files named, then {again} again")
            raise typer.Exit(1)
        report.say(
            f"{dst} is sound: {len(shard_set.files) + 1:,} files, {pictures:,} pictures, {sized(size)} in all"
        )
