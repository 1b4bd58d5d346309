"""Training of a network: options, the loop, its log, its stops and its checkpoints.

Modules in reading order: option (a description) and options (each written once), option_values (their texts
and ranges), option_files (TOML), settings (of a run, and its progress), session (from options to an outcome),
new_run and resumed_run with their common preparation, imported (trained weights), follower (a run on the
other ranks), team (what ranks agree on), start (statistics, first checkpoint, log), trainer (the loop of an
epoch), step (one step), schedule (rates), log (lines and summary), saver (checkpoints in the background),
stopping (signals and failures), display (the progress line), time_left (its clock) and ablation (a run for
each part left out).

Users import from the modules, as in ``from cconvnet.training.session import train``. This face imports
nothing, so that the command line can read the options without NumPy.
"""
