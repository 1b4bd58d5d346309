"""The command line: ``cconvnet``.

Everything heavy is imported inside the commands, so that ``--help`` answers at once.

Modules in reading order: commands (all commands, start and end), errors, options, train, evaluate, runs,
data, networks, exchange, plot, bench, doctor.
"""

from __future__ import annotations

from cconvnet.cli.commands import app, main

__all__ = ["app", "main"]
