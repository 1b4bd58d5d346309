"""The order of the house: each family in its rooms, imports that only go down, files of a readable length."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from cconvnet import nets
from cconvnet.operations import OPERATIONS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cconvnet"

MOST_LINES, MOST_LINES_OF_TESTS = 520, 700
LONGER_FILES = {
    "cconvnet/formats/pickles.py": "one machine: the opcodes of a pickle and what each may build",
}

# Low to high: a module imports modules of its own floor and of floors before it.
FLOORS = (
    ("_problem", "_pixels", "_cpu", "_cuda", "_emulator", "_counting", "errors", "bfloat16", "checks"),
    ("system", "console"),
    ("operations", "testing.reference"),
    ("devices",),
    ("ranks",),
    ("ops", "optim"),
    ("torch",),
    ("nets",),
    ("layers",),
    ("network",),
    ("formats",),
    ("data",),
    ("runs",),
    ("evaluate",),
    ("seeing",),
    ("plots",),
    ("training",),
    ("report",),
    ("api",),
    ("testing", "bench"),
    ("profile",),
    ("doctor",),
    ("cli",),
    ("__main__", "__init__"),  # the package's face hands on what is below
)
MOST_MODULES_AT_THE_ROOT = 9

# Families without a layer: other layers use them, or the update does.
NO_LAYER = ("bias", "elementwise", "eltmul", "lars", "limit_norm", "sgd", "tree_sum")


# ---- families -------------------------------------------------------------------------------------------


def families() -> list[str]:
    helpers = ("__init__", "input_epilogue", "operation", "products")
    return sorted(path.stem for path in (PACKAGE / "operations").glob("*.py") if path.stem not in helpers)


@pytest.mark.parametrize("family", families())
def test_a_family_is_found_under_its_name_everywhere(family: str) -> None:
    places = [
        ROOT / "kernels" / "cpu" / f"{family}.cpp",
        ROOT / "bindings" / f"{family}.cpp",
        PACKAGE / "ops" / f"{family}.py",
        PACKAGE / "testing" / "reference" / f"{family}.py",
        ROOT / "tests" / "kernels" / f"test_{family}.py",
    ]
    if family not in NO_LAYER:
        places.append(PACKAGE / "layers" / f"{family}.py")
    missing = [str(place.relative_to(ROOT)) for place in places if not place.exists()]
    assert missing == [], "NO_LAYER names the families that are no layer"
    # Large families have a file for each pass.
    kernels = {path.stem for path in (ROOT / "kernels").glob(f"{family}*.cu")}
    assert family in kernels or {f"{family}_fprop", f"{family}_dgrad", f"{family}_wgrad"} <= kernels


def test_every_operation_that_is_declared_is_described() -> None:
    declared = set(
        re.findall(r"^(?:void|int) (\w+)\(", (ROOT / "kernels" / "api.h").read_text(), re.MULTILINE)
    )
    assert declared - {"copy", "prove_rows"} == set(OPERATIONS)


# ---- length and number ----------------------------------------------------------------------------------


@cache
def files(*suffixes: str) -> tuple[Path, ...]:
    """Return the files of the project whose names end so; built modules and other people's files are none."""
    folders = ("cconvnet", "kernels", "bindings", "tools", "benchmarks", "tests", "docs", "configs")
    found = [*ROOT.glob("*"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    return tuple(sorted(path for path in found if path.is_file() and path.name.endswith(suffixes)))


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_source_file_is_longer_than_a_reader_likes() -> None:
    sources = [
        path for path in files(".py", ".cu", ".cuh", ".h", ".cpp") if ROOT / "tests" not in path.parents
    ]
    assert len(sources) > 200
    long = {str(path.relative_to(ROOT)): lines(path) for path in sources if lines(path) > MOST_LINES}
    assert {name: count for name, count in long.items() if name not in LONGER_FILES} == {}
    assert sorted(long) == sorted(LONGER_FILES), "an exception is no longer needed"


def test_no_test_file_is_longer_than_a_reader_likes() -> None:
    tests = [path for path in files(".py") if ROOT / "tests" in path.parents]
    assert {path.name: lines(path) for path in tests if lines(path) > MOST_LINES_OF_TESTS} == {}


def test_the_root_of_the_package_holds_few_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_MODULES_AT_THE_ROOT


def test_tests_mirror_the_tree() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()} | {"kernels", "emulator", "benchmarks"}
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in files(".py") if is_test(path)}
    assert folders <= rooms | {"project"}
    # pytest takes each test file for a module of its bare name.
    names = [path.name for path in files(".py") if is_test(path)]
    assert sorted(names) == sorted(set(names))


def is_test(path: Path) -> bool:
    return path.name.startswith("test_") and ROOT / "tests" in path.parents


# ---- imports --------------------------------------------------------------------------------------------


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@cache
def modules() -> dict[str, Path]:
    return {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path, for_types: bool = False) -> Iterator[str]:
    """Yield the modules of this package that a file imports, within functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if not for_types and id(node) in only_types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "cconvnet" or not name.startswith("cconvnet."):
                continue
            name = name.removeprefix("cconvnet.")
            while name and name not in modules() and not name.startswith("_"):
                name = name.rpartition(".")[0]
            if name:
                yield name


def floor(module: str) -> int:
    """Return the number of a module's floor, that of the longest name that it begins with."""
    found = [
        (len(room), number)
        for number, rooms in enumerate(FLOORS)
        for room in rooms
        if f"{module}.".startswith(f"{room}.")
    ]
    assert found, f"{module} stands on no floor of FLOORS"
    return max(found)[1]


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_climb_nowhere(module: str) -> None:
    climbing = [name for name in imports(modules()[module], for_types=True) if floor(name) > floor(module)]
    assert climbing == []


def test_the_tour_of_the_package_shows_its_floors() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page.partition("| floor |")[2].partition("\n\n")[0], re.MULTILINE)
    shown = [tuple(re.findall(r"`([\w.]+)`", row)) for row in rows]
    floors = [tuple(room for room in rooms if not room.startswith("_")) for rooms in FLOORS]
    assert shown == [rooms for rooms in floors if rooms]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one circle, none if there is no circle."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        for name in sorted(graph.get(module, ())):
            if found := visit(name, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := visit(module, []))), [])


def test_imports_make_no_circle() -> None:
    graph = {module: set(imports(path)) - {module} for module, path in modules().items()}
    # A package's face imports its modules; they import it back only to find themselves.
    assert circle(graph) == []


def test_circles_are_noticed() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


# ---- what a network asks its layers ---------------------------------------------------------------------


def test_a_network_does_not_know_concrete_layers() -> None:
    kinds = {path.stem for path in (PACKAGE / "layers").glob("*.py")}
    assert "conv" in kinds
    found = []
    for path in sorted((PACKAGE / "network").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
                kind = ast.unparse(node.args[1])
                found += [f"{path.name}: {ast.unparse(node)}"] * bool(re.search(r"\w(Layer|Spec)\b", kind))
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "hasattr"):
                found.append(f"{path.name}: {ast.unparse(node)}")
    assert found == []


# ---- words ----------------------------------------------------------------------------------------------

CLAUSES = ("How", "If", "What", "When", "Where", "Whether", "Which", "Who", "Why")


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", path.stem), text


@pytest.mark.parametrize("path", files(".py"), ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_name_the_thing(path: Path) -> None:
    """Their first line is a noun phrase or an imperative, no clause that a reader must finish."""
    clauses = [(name, text) for name, text in docstrings(path) if text.split(maxsplit=1)[0] in CLAUSES]
    assert clauses == []


# ---- documents ------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """Return the anchors of a Markdown file's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", files(".md"), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_in_documents_resolve(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("path", files(".md"), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_documents_name_exist(path: Path) -> None:
    if path.name == "CHANGELOG.md":
        return  # it tells of what was
    folders = "kernels|bindings|cconvnet|tests|benchmarks|docs|tools|configs"
    named = re.findall(rf"`((?:{folders})/[\w./-]+)`", path.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists() and "NAME" not in name] == []


def test_faces_name_their_modules() -> None:
    """A docstring that lists a package's modules lists all, except a module for each family or network."""
    wrong = []
    families_and_networks = {
        *families(),
        *(nets.catalog.module_name(name).split(".")[-1] for name in nets.NAMES),
    }
    for path in sorted(PACKAGE.rglob("__init__.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        listing = text[re.search(r"\b[Mm]odules?\b|$", text).start() :]
        if not listing:
            continue
        there = {child.stem for child in path.parent.glob("*.py")} | {
            child.parent.name for child in path.parent.glob("*/*.py")
        }
        there = {name for name in there if not name.startswith("_")}
        forms = r"^- ``(\w+)``|^ {4}(\w+):|^(\w+)/?  +|\b([a-z_]\w*) \("
        listed = {name for found in re.findall(forms, listing, re.MULTILINE) for name in found if name}
        wrong += [f"{path.parent.name}: {name} is gone" for name in sorted(listed - there)]
        wrong += [
            f"{path.parent.name}: {name} is not listed"
            for name in sorted(there - families_and_networks)
            if not re.search(rf"\b{name}\b", text)
        ]
    assert wrong == []
