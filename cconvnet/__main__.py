"""The command ``cconvnet`` as ``python -m cconvnet``."""

from __future__ import annotations

import os
import sys

if not sys.flags.safe_path and sys.path and sys.path[0] == os.getcwd():  # noqa: PTH109 - see below
    # `-m` searches the working directory first. It may contain a user's own json.py or numpy.py, or the
    # pathlib.py of a much older Python, so it is removed. Where it is this package's checkout it is needed,
    # but comes last.
    here = sys.path.pop(0)
    if here == os.path.dirname(os.path.dirname(__file__)):  # noqa: PTH120
        sys.path.append(here)

from cconvnet.cli import main

if __name__ == "__main__":
    main()
