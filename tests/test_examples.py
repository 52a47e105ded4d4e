"""Each example runs as a process of its own, ends by itself, and prints what a newcomer wants to see."""

import os
import re
import subprocess
import sys
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
}


def run(script: Path, directory: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run a script in a directory that has nothing to do with it, and without settings of ours."""
    return subprocess.run(
        [sys.executable, *options, str(script)],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if not name.startswith("HIS_SMS_")},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_every_example_is_expected() -> None:
    """No example is left out here."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == ESSENTIAL.keys()


@pytest.mark.parametrize("example", ESSENTIAL)
def test_example(example: str, tmp_path: Path) -> None:
    """An example ends well, warns of nothing, and prints its essential lines in their order."""
    ended = run(EXAMPLES / example, tmp_path, "-W", "error")
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = iter(ended.stdout.splitlines())
    for expected in ESSENTIAL[example]:
        assert any(re.fullmatch(expected, line) for line in lines), (expected, ended.stdout)
    assert list(tmp_path.iterdir()) == []


def test_fastapi_is_missing(tmp_path: Path) -> None:
    """Without FastAPI its example says in one line what to install."""
    script = tmp_path / "fastapi_service.py"
    text = (EXAMPLES / "fastapi_service.py").read_text(encoding="utf-8")
    script.write_text("import sys\nsys.modules['fastapi'] = None\n" + text, encoding="utf-8")
    ended = run(script, tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == "this example needs FastAPI and uvicorn: pip install fastapi uvicorn\n"
