"""Report of a GPU machine in at most ten minutes: `make gpu-report REPORT=folder`.

    python benchmarks/gpu_report folder --device cuda:0 --skip calibration,scaling
    python benchmarks/gpu_report folder --summary          # of a run that was killed

Compiles the modules while PyTorch and cuDNN are measured. Checks every wrapper of machine instructions.
Proves the rows of selection tables that are chosen by themselves only where a GPU has proven them, and runs
every row of every table once. Runs the tests with the most important first, then the kernels and the step
beside their peers, and as much else as there is time for. It needs no network. It installs only the wheels
in ``.whl`` or $WHEELS, for itself. It leaves at most ten files in the folder:

results.txt      the most important numbers and failures, for people; also printed last
summary.json     each part's state, seconds and commands; the results of the commands
report.log       the machine, and the commands' output, in order
smoke.log, tests.log       a line for each case
kernels.jsonl    a line for each case and side, as it is measured; cconvnet.bench.lines
step.jsonl       our step in its forms; results of cconvnet bench step, roofline, checkpoint, scaling, data
machine.jsonl    conformance and calibration
sm_90a.json      the rows that this GPU has proven, named after its architecture; cconvnet/devices/proofs.py
constants.json   the calibrated constants of `cconvnet profile`

A part has a time limit; the time it does not use goes to later parts, and some time is kept for the most
important ones. A process that exceeds its time is asked to end, then killed, with all processes it started.
Every file is written as results come.

parts       the list of parts, with their times
settings    settings that all parts share
building    the machine and its modules
checking    conformance, proofs, smoke test, tests and sanitizers
measuring   kernels, step and resources
running     processes within their time, and the report's folder
proving     the proof of rows, each in its own process
smoke       the smoke test's processes
summary     results.txt and the results in summary.json
"""
