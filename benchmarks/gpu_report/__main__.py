"""See the package's documentation."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True  # the report adds nothing to the project but the build
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpu_report import __doc__ as ABOUT  # noqa: E402
from gpu_report import parts as parts_module  # noqa: E402
from gpu_report import summary  # noqa: E402
from gpu_report.running import Report  # noqa: E402
from gpu_report.settings import Settings  # noqa: E402

SECONDS = 570.0
# Files that an earlier report may have left, which must not be mistaken for this one's.
WRITTEN = (
    "results.txt", "summary.json", "report.log", "smoke.log", "tests.log", "kernels.jsonl", "step.jsonl",
    "machine.jsonl",
)  # fmt: skip


def chosen(parser: argparse.ArgumentParser, known: dict[str, bool], only: str, skip: str) -> list[str]:
    """Return the names of the parts to run; `known` contains for each whether it runs by default."""

    def split(text: str) -> list[str]:
        names = text.replace(",", " ").split()
        if unknown := [name for name in names if name not in known]:
            parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(known)}")
        return names

    skipped = split(skip)
    listed = [name for name, is_listed in known.items() if is_listed]
    return [name for name in split(only) or listed if name not in skipped]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="gpu_report", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder of the report")
    parser.add_argument("--device", default="cuda:0", help="cuda:0, or cpu:0 or emulator:0 to try it")
    parser.add_argument("--parts", default="", help="only these, with spaces or commas")
    parser.add_argument("--skip", default="", help="all but these")
    parser.add_argument("--seconds", type=float, help=f"for all parts together ({SECONDS:.0f})")
    parser.add_argument("--minutes", type=float, help="the same in minutes")
    parser.add_argument("--data", help="a folder of images or shards to measure feeding with")
    parser.add_argument("--batch", type=int, help="images in each measurement, instead of each network's own")
    parser.add_argument("--summary", action="store_true", help="only write the summary of the folder")
    options = parser.parse_args(arguments)
    if options.summary:
        if not options.folder.is_dir():
            parser.error(f"there is no folder {options.folder}")
        print(summary.write(options.folder))
        return 0
    seconds = options.seconds or 60 * (options.minutes or SECONDS / 60)

    with tempfile.TemporaryDirectory(prefix="cconvnet-report-", ignore_cleanup_errors=True) as scratch:
        settings = Settings(options.device, Path(scratch), options.batch, options.data)
        every = parts_module.parts(settings)
        names = chosen(parser, {p.name: p.listed for p in every}, options.parts, options.skip)

        def stop(number: int, frame: Any) -> None:
            raise KeyboardInterrupt

        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, stop)
        options.folder.mkdir(parents=True, exist_ok=True)
        for name in (*WRITTEN, *(path.name for path in summary.proofs(options.folder))):
            (options.folder / name).unlink(missing_ok=True)
        report = Report(options.folder, every, seconds, summarize=summary.write)
        try:
            done = report.run(names)
        except KeyboardInterrupt:
            done = False
    print(f"\n{report.table()}\n\n{(options.folder / 'results.txt').read_text()}{options.folder}", flush=True)
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
