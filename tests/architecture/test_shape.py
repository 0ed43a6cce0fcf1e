"""Every service has the same shape: who knows one knows all."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("gateway", "auth", "registry", "scheduler", "worker")

EVERYWHERE = {"__init__", "__main__", "app", "context", "handlers", "settings"}

# A file that would be empty is left out: which service does without which, and why.
ONLY_WITH_A_DOOR_FOR_HTTP = {"gateway": {"api"}, "registry": {"api"}}
ONLY_WITH_TABLES = {name: {"store", "migrations"} for name in ("auth", "gateway", "registry", "scheduler")}

WEIGHTY_MODULE_LINES = 300


def modules(service: str) -> set[str]:
    """Modules and packages alike: a file that grows becomes a package of the same name."""
    directory = ROOT / "services" / service
    return {path.stem for path in directory.iterdir() if path.suffix == ".py" or path.is_dir()} - {"__pycache__"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_the_same_files_as_the_others(service: str) -> None:
    expected = EVERYWHERE | ONLY_WITH_A_DOOR_FOR_HTTP.get(service, set()) | ONLY_WITH_TABLES.get(service, set())
    assert expected - modules(service) == set()
    optional = {"api", "store", "migrations"} - expected
    assert modules(service) & optional == set()


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_its_page_and_its_dependencies(service: str) -> None:
    assert {"README.md", "pyproject.toml"} <= {path.name for path in (ROOT / "services" / service).iterdir()}


@pytest.mark.parametrize("name", ["utils", "helpers", "manager", "service", "common", "misc"])
def test_no_file_is_named_for_nothing(name: str) -> None:
    assert [path for path in python_files() if path.stem == name] == []


@pytest.mark.parametrize("unit", ["libs/common", *(f"services/{name}" for name in SERVICES)])
def test_what_is_imported_is_declared(unit: str) -> None:
    own = set() if unit == "libs/common" else declared(ROOT / "libs" / "common")
    assert imported(ROOT / unit) - declared(ROOT / unit) - own == set()


def test_the_tree_holds_no_lock_file_and_no_address_of_a_package_index() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, timeout=30).stdout.split()
    assert [name for name in tracked if Path(name).name in {"uv.lock", "package-lock.json", "poetry.lock"}] == []
    pinned = [*ROOT.glob("constraints*.txt"), *(ROOT / "deploy" / "requirements").iterdir()]
    assert [path.name for path in pinned if re.search(r"://|--(extra-)?index-url|--find-links", path.read_text())] == []


def test_images_install_the_versions_that_were_tested() -> None:
    tested = pins(ROOT / "constraints.txt")
    for service in SERVICES:
        assert pins(ROOT / "deploy" / "requirements" / f"{service}.txt") <= tested, "run `make lock`"


def test_modules_stay_small() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files()}
    assert {name: length for name, length in lengths.items() if length > WEIGHTY_MODULE_LINES} == {}


def python_files() -> list[Path]:
    return [path for part in ("libs", "services", "deploy") for path in (ROOT / part).rglob("*.py")]


def pins(path: Path) -> set[str]:
    return set(re.findall(r"^[\w.-]+==[^\s;]+", path.read_text(), re.MULTILINE))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(directory: Path) -> set[str]:
    project = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
    return {normal(re.split(r"[\[<>=!~ ]", dependency)[0]) for dependency in project["dependencies"]}


def imported(directory: Path) -> set[str]:
    """Distributions that the code of this directory imports, as far as they are not ours or Python's."""
    roots = {name for path in directory.rglob("*.py") for name in _imports(ast.parse(path.read_text()))}
    foreign = roots - set(sys.stdlib_module_names) - {"libs", "services"}
    owners = packages_distributions()
    found = {normal(owners[name][0]) for name in foreign if name != "opentelemetry"}
    return found | ({"opentelemetry-sdk"} if "opentelemetry" in foreign else set())


def _imports(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names
