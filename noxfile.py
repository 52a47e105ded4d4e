"""The project's commands: `nox` runs the checks and the tests on the current Python."""

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["checks", "tests", "oldest_sqlalchemy"]
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = True
nox.options.reuse_venv = "yes"

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)


def group(name: str) -> list[str]:
    """The requirements of a dependency group."""
    return list(nox.project.dependency_groups(PROJECT, name))


@nox.session
def checks(session: nox.Session) -> None:
    """Format, lint, types, layers, and the completeness of the public types; changes nothing."""
    session.install("-e", ".[all]", *group("check"), "nox")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("lint-imports")
    session.run("mypy")
    python = shutil.which("python", path=session.bin) or "python"
    session.run("basedpyright", "--pythonpath", python)
    session.run("basedpyright", "--pythonpath", python, "--ignoreexternal", "--verifytypes", "his_sms_async")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests against the installed wheel, with 100 % branch coverage."""
    run_tests(session)


@nox.session(python=PYTHONS)
def versions(session: nox.Session) -> None:
    """The tests on every Python that is claimed."""
    run_tests(session)


@nox.session
def soak(session: nox.Session) -> None:
    """What takes minutes: thousands of histories of the poller's model."""
    session.install(".[all]", *group("test"))
    session.run("python", "-m", "pytest", "-m", "soak", *session.posargs, env={"PYTHONSAFEPATH": "1"})


@nox.session
def oldest_sqlalchemy(session: nox.Session) -> None:
    """The store's tests with the oldest SQLAlchemy that is supported on the current Python."""
    session.install(".[all]", *group("test"))
    session.install("sqlalchemy[asyncio]==2.0.30; python_version < '3.13'")
    session.install("sqlalchemy[asyncio]==2.0.31; python_version >= '3.13'")
    session.run(
        "python",
        "-m",
        "pytest",
        "-n",
        workers(),
        *("tests/test_store.py", "tests/test_sql.py", "tests/test_sql_transactions.py", "tests/test_crash.py"),
        env={"PYTHONSAFEPATH": "1"},
    )


@nox.session
def bench(session: nox.Session) -> None:
    """Tables of ratios, measured side by side in one run."""
    session.install(".[all]", *group("test"))
    for script in sorted(Path("tests/benchmarks").glob("bench_*.py")):
        session.run("python", str(script), env={"PYTHONSAFEPATH": "1", "PYTHONPATH": "tests"})


@nox.session
def screenshots(session: nox.Session) -> None:
    """The pictures of the sandbox's page in docs/; it needs chromium (apt-get install chromium)."""
    session.install(".[all]", *group("test"))
    session.run(
        "python", "tests/screenshots.py", *session.posargs, env={"PYTHONSAFEPATH": "1", "PYTHONPATH": "tests"}
    )


def run_tests(session: nox.Session) -> None:
    """Install the wheel and test it: PYTHONSAFEPATH keeps the working tree from being imported instead."""
    session.install(".[all]", *group("test"))
    data = Path(session.create_tmp()) / "coverage"
    environment = {"PYTHONSAFEPATH": "1", "COVERAGE_FILE": str(data)}
    session.run("coverage", "erase", env=environment)
    session.run("python", "-m", "pytest", "--cov", "-n", workers(), *session.posargs, env=environment)


def workers() -> str:
    """As many processes as there are processors."""
    return str(os.cpu_count() or 1)
