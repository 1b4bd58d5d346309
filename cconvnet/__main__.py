"""``python -m cconvnet`` is the command ``cconvnet``."""

from __future__ import annotations

from cconvnet.cli import main

if __name__ == "__main__":
    main()
