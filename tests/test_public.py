"""What a user imports: the names, how light that is, and that nothing else is public by accident."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import his_sms_async
from his_sms_async import pytest_plugin, sandbox, sql
from his_sms_async.sandbox import faults

# Each public module by the name that tests/typing/api.py knows it by.
PUBLIC = {
    "his": his_sms_async,
    "sql": sql,
    "sandbox": sandbox,
    "faults": faults,
    "pytest_plugin": pytest_plugin,
}


@pytest.mark.parametrize("module", PUBLIC.values(), ids=PUBLIC)
def test_the_public_names_are_sorted_and_documented(module: ModuleType) -> None:
    """`__all__` is sorted, constants, classes and functions apart, and each name in it has a docstring."""
    names: list[str] = module.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert [name for name in names if not getattr(module, name).__doc__] == []


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_in_the_typing_test(module: str) -> None:
    """The type checkers see each public name used, as one of its own module."""
    tree = ast.parse((Path(__file__).parent / "typing" / "api.py").read_text(encoding="utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == module
    }
    assert set(PUBLIC[module].__all__) - used == set()


def test_importing_is_light() -> None:
    """`import his_sms_async` loads neither MSAL nor a database, a web server or a command line."""
    heavy = [
        "msal",
        "requests",
        "sqlalchemy",
        "starlette",
        "uvicorn",
        "cyclopts",
        "trustme",
        "htpy",
        "pytest",
        "his_sms_async.sandbox",
    ]
    code = f"import sys, his_sms_async; print([name for name in {heavy} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    )


def test_every_test_says_what_it_shows() -> None:
    """Each test function has a docstring."""
    silent = [
        f"{path.name}:{node.name}"
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []
