"""The command ``cconvnet doctor``."""

from __future__ import annotations

import dataclasses

import typer

from cconvnet.cli.options import Json, write_json


def doctor(to_json: Json = None) -> None:
    """Say what works on this machine, why the rest does not, and what mends it.

    The exit code is 1 if no device can train.
    """
    from cconvnet import doctor as examination

    findings = examination.examine()
    able = examination.can_train(findings)
    if to_json:
        write_json(
            to_json, {"can_train": able, "findings": [dataclasses.asdict(finding) for finding in findings]}
        )
    if to_json != "-":
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            mend = f"; to mend it: {finding.mend}" if finding.mend else ""
            print(f"{finding.state:8}{finding.what:{width + 2}}{finding.text}{mend}")
        if not able:
            print("no device can train")
    if not able:
        raise typer.Exit(1)
