"""Command line interface: the command ``cconvnet``.

Modules in reading order: commands (all commands, start and exit), errors (exit codes and messages), ranks
(the same for several processes), options (shared by several commands) and weight_options (of weights from
elsewhere), help (how it looks), then a module for each group of commands: train, ablate, evaluate, runs,
data, networks, exchange, plot, seeing, timeline, bench, scaling, profile, doctor.

Commands import what they need inside their functions, so that ``--help`` appears at once.
"""

from __future__ import annotations

from cconvnet.cli.commands import app, main

__all__ = ["app", "main"]
