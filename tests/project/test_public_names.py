"""The public face, ``import cconvnet``: lazy, complete, documented and typed."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import cconvnet


def test_the_import_alone_imports_no_numpy() -> None:
    code = (
        "import sys, cconvnet; "
        "print(*sorted({'numpy', 'cconvnet.nets', 'cconvnet.ops', 'torch'} & set(sys.modules))); "
        "print('image' in dir(cconvnet)); cconvnet.image(8, 8, 1); print('numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=200
    )
    assert done.stdout.split("\n") == ["", "True", "False", ""]


@pytest.mark.parametrize("name", cconvnet.__all__)
def test_every_name_is_there_and_documented(name: str) -> None:
    assert name in dir(cconvnet)
    assert (inspect.getdoc(getattr(cconvnet, name)) or "").strip()


def test_the_lists_of_names_agree() -> None:
    assert sorted(cconvnet.__all__) == cconvnet.__all__ == sorted(cconvnet._MODULES)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'cconvnet' has no attribute 'imge'"):
        _ = cconvnet.imge  # type: ignore[attr-defined]
