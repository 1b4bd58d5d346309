"""The command ``cconvnet doctor``."""

from __future__ import annotations

import typer

from cconvnet.cli.options import Json, write_json


def doctor(to_json: Json = None) -> None:
    """Diagnose the installation: what works, what does not, why, and how to fix it.

    The exit code is 1 if no device can train.
    """
    from cconvnet import doctor as diagnosis

    findings = diagnosis.examine()
    able = diagnosis.can_train(findings)
    if to_json:
        # "mend" is the name of the fix in documents that were written before.
        rows = [{"what": one.what, "state": one.state, "text": one.text, "mend": one.fix} for one in findings]
        write_json(to_json, {"can_train": able, "findings": rows})
    if to_json != "-":
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            fix = f"; to fix it: {finding.fix}" if finding.fix else ""
            print(f"{finding.state:8}{finding.what:{width + 2}}{finding.text}{fix}")
        if not able:
            print("no device can train")
    if not able:
        raise typer.Exit(1)
