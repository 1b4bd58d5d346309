"""Build the compiled modules through the Makefile, which has the only compile rules.

``CCONVNET_MODULES="cpu cuda emulator"`` chooses modules, as for make. ``none`` builds nothing: make does it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODULES = ("_problem", "_pixels", "_emulator", "_cpu", "_cuda")


class MakeModules(build_ext):
    """Run `make modules`, which builds the modules that this machine has the tools for."""

    def run(self) -> None:
        """Build the modules in place for an editable installation, else in setuptools' folder."""
        inplace = self.inplace or getattr(self, "editable_mode", False)
        self.folder = Path("cconvnet" if inplace else Path(self.build_lib, "cconvnet"))
        if os.environ.get("CCONVNET_MODULES") == "none":
            return
        jobs = subprocess.run(["make", "-s", "jobs"], check=True, capture_output=True, text=True)
        command = ["make", f"-j{jobs.stdout.strip()}", "modules"]
        # pip runs this in a process of its own; a make around it must not pass its job server down.
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS")}
        # A folder above this one may have spaces in its name, which the target of a make rule may not.
        names = [f"PYTHON={sys.executable}", f"OUT={os.path.relpath(self.folder)}"]
        result = subprocess.run([*command, *names], env=environment, check=False)
        if result.returncode != 0:
            sys.exit(f"building the compiled modules failed: {' '.join(command)}")

    def get_outputs(self) -> list[str]:
        """Return the paths of the modules that were built."""
        return [str(path) for name in MODULES for path in self.folder.glob(f"{name}.*.so")]


# The names make the package one that is not pure Python for setuptools; make knows the sources.
setup(
    ext_modules=[Extension(f"cconvnet.{name}", []) for name in MODULES],
    cmdclass={"build_ext": MakeModules},
)
