"""The README is true: its snippets run, its tables are complete, and its two commands are what they should be."""

import ast
import os
import re
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from fakes import until
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

import his_sms_async
from his_sms_async import ConfigurationError, IncomingPoller, MemoryStore, PollerHealth, SmsClient, SmsError
from his_sms_async.sandbox import RunningSandbox, Sandbox, SandboxMessage

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")
PACKAGE = Path(his_sms_async.__file__).parent


# --- snippets -------------------------------------------------------------------------------------------


def breaks_down(reminder: SandboxMessage) -> str:
    """A patient at whom the server fails, after it took the reminder."""
    raise RuntimeError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningSandbox]:
    """An SMS server to which the environment leads."""
    sandbox = Sandbox(patients={"*": "Yes", "37000000009": breaks_down})
    with sandbox.serve() as running:
        monkeypatch.setenv("HIS_SMS_BASE_ADDRESS", running.url)
        monkeypatch.setenv("HIS_SMS_TOKEN", "sandbox-token")
        monkeypatch.setenv("HIS_SMS_SERVER_TIMEZONE", "Europe/Vilnius")
        yield running


def run_until(main: Callable[[], Coroutine[Any, Any, None]], condition: Callable[[], object]) -> None:
    """Run a service until it has done what it should."""

    async def both() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(main)
            await until(lambda: bool(condition()))
            tasks.cancel_scope.cancel()

    anyio.run(both)


@pytest.mark.timeout(120)
def test_every_python_block_runs(
    server: RunningSandbox, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The Python blocks run in their order, in one namespace, and do what the text around them says."""
    monkeypatch.chdir(tmp_path)  # where their databases are made
    document = Document.parse(str(README), PythonCodeBlockParser())
    document.namespace["run_until"] = run_until
    document.namespace["__name__"] = "readme"
    for example in document.examples():
        try:
            example.evaluate()
        except BaseException as error:
            error.add_note(f"in the block at line {example.line} of README.md")
            raise
    assert len(list(document.examples())) == TEXT.count("```python") + TEXT.count("invisible-code-block: python")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "the patient answered: Yes"
    assert "sent" in printed  # the SMS at which the server failed was found

    async def look() -> None:
        async with (
            SmsClient.from_env() as client,
            IncomingPoller(client, start="now", store=MemoryStore()) as poller,
        ):
            await until(lambda: document.namespace["probe"](poller)[0] == 200)

    anyio.run(look)


# --- commands -------------------------------------------------------------------------------------------


COMMANDS = {
    "main": """python3 -m venv .venv && .venv/bin/pip install --quiet '.[sandbox]' \
&& .venv/bin/python examples/quickstart.py""",
    "test": "python3 -m venv .venv && .venv/bin/pip install --quiet nox && .venv/bin/nox",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_command(name: str) -> None:
    """The command stands alone in a block under its comment, where scripts find it."""
    assert TEXT.count(f"<!-- {name} command -->\n") == 1
    assert f"<!-- {name} command -->\n```bash\n{COMMANDS[name]}\n```\n" in TEXT


# --- tables ---------------------------------------------------------------------------------------------


def names_of_table(first_column: str) -> list[str]:
    """The first column of the table that begins with this word in its head."""
    table = re.search(rf"^\| {first_column} \|.*\n\|[-|]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert table is not None
    return re.findall(r"^\| `([^`]+)`", table[1], re.MULTILINE)


class Environment(dict[str, str]):
    """An environment that notes what is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def get(self, key: str, default: Any = None) -> Any:
        """Note the name."""
        self.read.append(key)
        return super().get(key, default)


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of variables names exactly those that are read, each of which has its `_FILE`."""
    environment = Environment()
    monkeypatch.setattr(os, "environ", environment)
    with pytest.raises(ConfigurationError):
        SmsClient.from_env()
    monkeypatch.undo()
    variables = names_of_table("Variable")
    assert sorted(environment.read) == sorted([*variables, *(f"{name}_FILE" for name in variables)])


def test_public_names() -> None:
    """The tables of names and of errors have exactly the public names, the errors in their own table."""
    errors = {
        name
        for name in his_sms_async.__all__
        if isinstance(getattr(his_sms_async, name), type) and issubclass(getattr(his_sms_async, name), SmsError)
    }
    assert sorted(names_of_table("Error")) == sorted(errors)
    assert sorted(names_of_table("Name")) == sorted(set(his_sms_async.__all__) - errors)


def test_health_fields() -> None:
    """The table of health has the fields of `PollerHealth`."""
    assert sorted(names_of_table("Field")) == sorted(attrs.fields_dict(PollerHealth))


def test_warnings() -> None:
    """The table of warnings has exactly the words that the code uses."""
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.glob("_*.py")]
    used = {word for source in sources for word in re.findall(r'warnings\.add\("([^"]+)"\)', source)}
    assert sorted(names_of_table("Warning")) == sorted(used)


def test_loggers() -> None:
    """The table of loggers has exactly the modules that log."""
    logging_modules = {
        f"his_sms_async.{path.stem}"
        for path in PACKAGE.glob("_*.py")
        if re.search(r"\blogger\.", path.read_text(encoding="utf-8"))
    }
    assert set(names_of_table("Logger")) == logging_modules


def test_layout() -> None:
    """The layout has each module, after all those that it imports."""
    layout = names_of_table("Module")
    modules = [path.stem for path in PACKAGE.glob("_*.py") if path.stem != "__init__"]
    assert sorted(layout) == sorted([*modules, "sandbox/", "sql/"])
    for name in modules:
        tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                assert node.module in layout[: layout.index(name)], (name, node.module)


def test_lines_are_wrapped() -> None:
    """Lines of prose have 110 characters at most; tables, commands and links do not count."""
    long = [line for line in TEXT.splitlines() if len(line) > 110 and line[0] != "|" and "venv" not in line]
    assert long == []
