"""The README is true: its snippets run, its tables are complete, and its two commands are what they should be."""

import ast
import os
import re
import shlex
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import attrs
import httpx
import pytest
from fakes import until
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

import his_sms_async
from his_sms_async import (
    ConfigurationError,
    IncomingPoller,
    MemoryStore,
    PollerHealth,
    SmsClient,
    SmsError,
    pytest_plugin,
)
from his_sms_async.sandbox import RunningSandbox, Sandbox, SandboxMessage
from his_sms_async.sandbox._control import control_routes
from his_sms_async.sandbox._readme import fault_table, magic_table, option_table

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


def test_examples_for_pytest_pass(pytester: pytest.Pytester) -> None:
    """The tests that the README shows, each in a file of its own, pass where the library is installed."""
    section = TEXT[TEXT.index("### Use it in pytest") :]
    blocks = re.findall(r"^```python\n(.*?)^```$", section[: section.index("\n### ")], re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    pytester.makepyfile(**{f"test_{place}": block for place, block in enumerate(blocks)})
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=4)  # the one for anyio on both of its backends


def test_every_request_by_curl_is_good() -> None:
    """What is to be typed with curl is what the stand-in takes."""
    blocks = re.findall(r"^```bash\n(curl .*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    with Sandbox().serve() as server, httpx.Client(trust_env=False) as client:
        for block in blocks:
            curl, _, header, _, body, url = shlex.split(block.replace("\\\n", ""))
            assert (curl, url.partition("/control/")[0]) == ("curl", "http://127.0.0.1:8025")
            answer = client.post(
                url.replace("http://127.0.0.1:8025", server.url),
                headers=dict([header.split(": ")]),
                content=body,
            )
            assert answer.status_code == 200, answer.text
        (switch,) = server.sandbox.faults
        assert switch.left == 3


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


@pytest.mark.parametrize(
    ("marker", "make"), [("magic numbers", magic_table), ("faults", fault_table), ("options", option_table)]
)
def test_table_is_that_of_the_code(marker: str, make: Callable[[], str]) -> None:
    """What stands between a marker and the next end is made by the code; a failure shows the text to paste."""
    table = make()
    found = re.findall(rf"^<!-- {marker} -->\n\n(.*?)\n\n<!-- end -->$", TEXT, re.MULTILINE | re.DOTALL)
    assert found == [table], f"paste this between <!-- {marker} --> and <!-- end -->:\n\n{table}\n"


def test_control_api() -> None:
    """The table of the control API has exactly its requests, in their order."""
    rows = re.findall(r"^\| ([A-Z]+) \| `(/control/[^`]+)` \|", TEXT, re.MULTILINE)
    routes = [
        (method, re.sub(r":\w+}", "}", f"/control{route.path}"))
        for route in control_routes(Sandbox())
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]
    assert rows == routes


def test_fixtures() -> None:
    """The table of fixtures has exactly those of the plugin."""
    assert sorted(names_of_table("Fixture")) == sorted(pytest_plugin.__all__)


def test_linked_files_and_headings_are_there() -> None:
    """Each link into this repository leads to a file, and each into the page to a heading of it."""
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in target]
    assert len(targets) > 5
    for target in targets:
        if target[0] == "#":
            assert target[1:] in headings
        else:
            assert (README.parent / target).is_file(), target


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
    assert sorted(layout) == sorted([*modules, "sandbox/", "sql/", "pytest_plugin"])
    for name in modules:
        tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                assert node.module in layout[: layout.index(name)], (name, node.module)


def test_lines_are_wrapped() -> None:
    """Lines of prose have 110 characters at most; tables, commands and links do not count."""
    long = [line for line in TEXT.splitlines() if len(line) > 110 and line[0] != "|" and "venv" not in line]
    assert long == []
