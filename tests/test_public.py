"""What a user imports: the names, how light that is, and that nothing else is public by accident."""

import ast
import subprocess
import sys
from pathlib import Path

import his_sms_async


def test_the_public_names_are_sorted_and_documented() -> None:
    """`__all__` is sorted, and each name in it has a docstring."""
    names = his_sms_async.__all__
    assert names == sorted(names)
    assert [name for name in names if not getattr(his_sms_async, name).__doc__] == []


def test_every_public_name_is_in_the_typing_test() -> None:
    """The type checkers see each public name used."""
    tree = ast.parse((Path(__file__).parent / "typing" / "api.py").read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert set(his_sms_async.__all__) - used == set()


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
