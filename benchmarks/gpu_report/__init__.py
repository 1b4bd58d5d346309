"""All that is worth knowing of a GPU machine in at most ten minutes: `make gpu-report REPORT=folder`.

    python benchmarks/gpu_report folder --device cuda:0 --skip calibration,scaling
    python benchmarks/gpu_report folder --summary          # of what a run that was killed has left

Compiles the modules while PyTorch and cuDNN are measured, checks every wrapper of machine instructions, runs
every row of every table once, the tests with the most important first, the kernels and the step beside their
peers, and as much else as there is time for. It needs no network and installs nothing but the wheels in
``.whl`` or $WHEELS, for itself. What it leaves in the folder, eight files at most:

results.txt      the numbers and failures that count, for people; also printed last
summary.json     each part's state, seconds and commands; the results of the commands
report.log       the machine, and what the commands printed, in order
smoke.log, tests.log       a line for each case
kernels.jsonl    a line for each row and side, as it is measured; cconvnet.bench.lines
step.jsonl       our step in its forms; results of cconvnet bench step, roofline, checkpoint, scaling, data
machine.jsonl    conformance and calibration

A part has a time of its own, of which what it leaves goes to later parts; what those must have is kept for
them. What runs over is asked to end, then killed, with all it started. Every file is written as results come.
"""
