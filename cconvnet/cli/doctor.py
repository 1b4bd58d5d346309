"""The command ``cconvnet doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cconvnet.cli.options import Json, print_table, write_json

if TYPE_CHECKING:
    from cconvnet.doctor import Finding
    from cconvnet.doctor.ranks import RankFacts


def doctor(
    together: Annotated[
        bool,
        typer.Option(
            "--ranks",
            help="Diagnose processes that would train together: mpiexec -n 2 cconvnet doctor --ranks.",
        ),
    ] = False,
    to_json: Json = None,
) -> None:
    """Diagnose the installation: what works, what does not, why, and how to fix it.

    The exit code is 1 if no device can train, or if the ranks should not train together.
    """
    if together:
        _diagnose_ranks(to_json)
        return
    from cconvnet import doctor as diagnosis

    findings = diagnosis.examine()
    able = diagnosis.can_train(findings)
    if to_json:
        write_json(to_json, {"can_train": able, "findings": _rows(findings)})
    if to_json != "-":
        _print(findings)
        if not able:
            print("no device can train")
    if not able:
        raise typer.Exit(1)


def _diagnose_ranks(to_json: str | None) -> None:
    """Print a row for each rank, then what is common to them, then the findings."""
    from cconvnet.doctor.ranks import examine_ranks, survey_ranks
    from cconvnet.ranks import join

    world = join()
    ranks = survey_ranks(world)
    findings = examine_ranks(ranks)
    if world.first and to_json:
        write_json(to_json, {"ranks": list(map(asdict, ranks)), "findings": _rows(findings)})
    if world.first and to_json != "-":
        _print_ranks(ranks)
        _print(findings)
    world.close()
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


def _print_ranks(ranks: Sequence[RankFacts]) -> None:
    from cconvnet.doctor.ranks import ranges

    rows = [
        [
            str(facts.rank),
            facts.host,
            facts.device + (f" ({facts.gpu})" if facts.gpu else ""),
            ranges(facts.cores),
            str(facts.threads),
            "-" if facts.latency is None else f"{facts.latency * 1e6:.0f} us",
            "-" if facts.bandwidth is None else f"{facts.bandwidth / 1e9:.2f} GB/s",
        ]
        for facts in ranks
    ]
    columns = ["rank", "host", "device", "cores", "threads", "4 KiB to next", "16 MiB to next"]
    print_table("", columns, rows, {"rank", "threads", *columns[-2:]})
    print("rank 0: " + ", ".join(f"{name} {version}" for name, version in ranks[0].versions.items()))


def _rows(findings: Sequence[Finding]) -> list[dict[str, str]]:
    # "mend" is the name of the fix in documents that were written before.
    return [{"what": one.what, "state": one.state, "text": one.text, "mend": one.fix} for one in findings]


def _print(findings: Sequence[Finding]) -> None:
    width = max((len(finding.what) for finding in findings), default=0)
    for finding in findings:
        fix = f"; to fix it: {finding.fix}" if finding.fix else ""
        print(f"{finding.state:8}{finding.what:{width + 2}}{finding.text}{fix}")
