"""Who may import whom, who may read the environment, and what every step owes its readers."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("contracts", "pipeline_steps", "consumer")
ADAPTERS = ("consumer.broker", "consumer.storage", "consumer.models", "consumer.local", "consumer.app")
LONGEST = 300
"""Lines of a file: what is longer does more than one thing."""


def modules(*packages: str) -> list[Path]:
    return sorted(file for package in packages for file in (ROOT / package).rglob("*.py"))


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[str]:
    """Yield the modules a file imports, wherever in it, and the names it takes from them."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(file)}: relative imports hide who imports whom"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offenders(files: list[Path], forbidden: tuple[str, ...]) -> list[str]:
    return sorted(
        {
            f"{name_of(file)} imports {imported}"
            for file in files
            for imported in imports(file)
            if any(imported == name or imported.startswith(f"{name}.") for name in forbidden)
        }
    )


def loads(statement: str, unwanted: str) -> list[str]:
    """Run a statement in a fresh interpreter and return the `unwanted` modules it loaded."""
    code = f"import sys\n{statement}\nprint(*(m for m in sys.modules if m.split('.')[0] == {unwanted!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.split()


def test_contracts_import_nothing_of_ours_but_each_other() -> None:
    assert offenders(modules("contracts"), ("pipeline_steps", "consumer")) == []


def test_steps_never_import_the_worker() -> None:
    assert offenders(modules("pipeline_steps"), ("consumer",)) == []


def test_the_dsl_imports_no_adapter() -> None:
    assert offenders(modules("consumer/pipeline"), ADAPTERS) == []


def test_no_package_imports_its_tests_or_tools() -> None:
    assert offenders(modules(*PACKAGES), ("tests", "tools", "benchmarks")) == []


@pytest.mark.parametrize(
    ("adapter", "wirers"),
    [
        (
            "consumer.storage.gcs",
            {
                "consumer.models.opening",
                "consumer.backfill.running",
                "consumer.dead_letters.desk",
                "consumer.doctor.site",
            },
        ),
        ("consumer.storage.filesystem", set()),
        ("consumer.models.torch_loader", {"consumer.models.opening"}),
    ],
)
def test_only_the_app_and_local_mode_wire_adapters(adapter: str, wirers: set[str]) -> None:
    users = {
        name_of(file)
        for file in modules("consumer")
        if adapter in imports(file) and not name_of(file).startswith(("consumer.local", "consumer.cli"))
    }

    assert users <= wirers


def test_only_settings_read_the_environment() -> None:
    readers = {
        name_of(file)
        for file in modules(*PACKAGES)
        for node in ast.walk(ast.parse(file.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"))
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and _takes_the_environment(node))
    }

    assert readers <= {"consumer.settings"}


def _takes_the_environment(node: ast.ImportFrom) -> bool:
    return any(alias.name in ("environ", "environb", "getenv") for alias in node.names)


@pytest.mark.parametrize(
    "statement",
    [
        "import contracts.schemas, contracts.builders",
        "import pipeline_steps",
        "from pipeline_steps.loading import load_steps; load_steps(plugins=False)",
        "import consumer.pipeline.parse, consumer.pipeline.execute, consumer.pipeline.definition",
        "import consumer.decode, consumer.presets, consumer.routes",
    ],
)
def test_what_checks_a_pipeline_does_not_load_torch(statement: str) -> None:
    assert loads(statement, "torch") == []


def test_contracts_need_nothing_but_pydantic() -> None:
    assert loads("import contracts.schemas, contracts.builders", "numpy") == []


def test_every_step_has_tests_of_its_own() -> None:
    tests = {file.name for file in (ROOT / "tests").rglob("test_*.py")}
    untested = [
        name_of(file)
        for file in modules("pipeline_steps")
        if _declares_a_step(file) and f"test_{file.stem}.py" not in tests
    ]

    assert untested == []


def test_a_step_lies_in_the_file_that_bears_its_name() -> None:
    misplaced = [
        f"{name_of(file)} declares {name!r}"
        for file in modules("pipeline_steps")
        for name in _steps_of(file)
        if name != file.stem
    ]

    assert misplaced == []


def _declares_a_step(file: Path) -> bool:
    return any(_steps_of(file))


def _steps_of(file: Path) -> Iterator[str]:
    """Yield the names in a file's `@step("name")` decorators."""
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for decorator in node.decorator_list:
            match decorator:
                case ast.Call(func=ast.Name(id="step"), args=[ast.Constant(value=str(name)), *_]):
                    yield name


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_too_long_to_read(package: str) -> None:
    lengths = {name_of(file): len(file.read_text().splitlines()) for file in modules(package)}

    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


def test_modules_are_named_for_what_they_know() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "base_utils"}

    assert [name_of(file) for file in modules(*PACKAGES) if file.stem in vague] == []
