"""``python -m his_sms_async.sandbox``."""

import os
import re
import runpy
import shlex
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from his_sms_async.sandbox import RunningSandbox, Sandbox
from his_sms_async.sandbox.__main__ import main

REMINDER = {"Id": None, "From": "37000000001", "To": "37000000002", "Text": "Will You come?", "ExternalKey": 1}


def settings_in(output: str) -> dict[str, str]:
    """Return the variables that the printed lines would set in a shell."""
    words = shlex.split(output)
    return dict(word.split("=", 1) for word in words if word.startswith("HIS_SMS_"))


def run(*arguments: str, visit: Callable[[RunningSandbox], None] = lambda server: None) -> RunningSandbox:
    """Run the command in this process until `visit` returns, and return what it ran."""
    seen: list[RunningSandbox] = []

    def wait(server: RunningSandbox) -> None:
        seen.append(server)
        visit(server)

    assert main(["--port", "0", *arguments], wait=wait, windows=False) == 0
    return seen[0]


def test_command_prints_where_it_is_and_what_to_paste(capsys: pytest.CaptureFixture[str]) -> None:
    """It says that nothing is sent, and names the variables for the static token."""
    server = run("--token", "my token", "--timezone", "UTC")
    output = capsys.readouterr()
    assert "nothing is really sent" in output.out
    assert server.url in output.out
    assert settings_in(output.out) == {
        "HIS_SMS_BASE_ADDRESS": f"{server.url}/",
        "HIS_SMS_SERVER_TIMEZONE": "UTC",
        "HIS_SMS_TOKEN": "my token",
    }
    assert output.err == ""


def test_tls_prints_the_settings_of_azure_ad(capsys: pytest.CaptureFixture[str]) -> None:
    """With --tls the variables are those for MSAL; the static token is not among them, for both are too many."""
    server = run(
        "--tls", "--tenant", "ward", "--client-id", "app", "--client-secret", "hush", "--scope", "s/.default"
    )
    assert settings_in(capsys.readouterr().out) == {
        "HIS_SMS_BASE_ADDRESS": f"{server.url}/",
        "HIS_SMS_SERVER_TIMEZONE": "Europe/Vilnius",
        "HIS_SMS_AAD_INSTANCE": f"{server.url}/{{0}}",
        "HIS_SMS_TENANT": "ward",
        "HIS_SMS_CLIENT_ID": "app",
        "HIS_SMS_CLIENT_SECRET": "hush",
        "HIS_SMS_SCOPE": "s/.default",
        "HIS_SMS_CA_FILE": server.ca_file,
    }


def test_windows_gets_lines_for_powershell(capsys: pytest.CaptureFixture[str]) -> None:
    """The lines to paste are of the shell that is usual there."""
    assert main(["--port", "0"], wait=lambda server: None, windows=True) == 0
    assert '$env:HIS_SMS_TOKEN = "sandbox-token"' in capsys.readouterr().out


def test_options_reach_the_sandbox() -> None:
    """Each option of the command is one of `Sandbox` or of `serve`."""
    sandbox = run(
        *("--stamp-offsets", "all"),
        *("--number", "37000000009", "--number", "WARD"),
        *("--token-lifetime", "301"),
        *("--answer-after", "0.5"),
    ).sandbox
    assert sandbox.stamp_offsets == "all"
    assert sandbox.numbers == {"37000000009": 1, "WARD": 2}
    assert (sandbox.token_lifetime, sandbox.answer_after) == (301, 0.5)


def test_options_not_given_are_those_of_the_sandbox() -> None:
    """The command has no defaults of its own but for the patients."""
    sandbox, default = run().sandbox, Sandbox()
    assert sandbox.numbers == default.numbers
    assert repr(sandbox) == repr(default).replace("answer_after=0.0", "answer_after=2.0")


@pytest.mark.parametrize(("arguments", "answers"), [([], ["Yes"]), (["--silent"], [])])
def test_patients_answer_unless_told_not_to(arguments: list[str], answers: list[str]) -> None:
    """By default the demo is alive: a question is answered."""

    def visit(server: RunningSandbox) -> None:
        headers = {"Authorization": "Bearer sandbox-token"}
        with httpx.Client(base_url=server.url, headers=headers, trust_env=False) as client:
            assert client.post("/", json=REMINDER).status_code == 200
        assert [message.text for message in server.sandbox.received] == answers

    run("--answer-after", "0", *arguments, visit=visit)


def test_allowed_host_is_let_in() -> None:
    """--allow-host adds a name that clients may use."""

    def visit(server: RunningSandbox) -> None:
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            assert client.get("/", headers={"Host": "sms.example"}).status_code == 401
            assert client.get("/", headers={"Host": "evil.example"}).status_code == 403

    run("--allow-host", "sms.example", visit=visit)


def test_host_that_may_be_reached_from_outside_is_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    """Anything but a plain loopback address gets a warning; 127.1 is one that is not plain."""
    run("--host", "127.1")
    assert capsys.readouterr().err.startswith("WARNING: other computers can reach this server")


def test_port_in_use_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A taken port ends the command with exit code 1 and a line that names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"cannot listen on 127.0.0.1, port {port}: ")
    assert output.err.count("\n") == 1


def test_interrupt_ends_it_quietly() -> None:
    """Ctrl-C is exit code 130, and the server is gone."""
    seen: list[RunningSandbox] = []

    def wait(server: RunningSandbox) -> None:
        seen.append(server)
        raise KeyboardInterrupt

    assert main(["--port", "0"], wait=wait) == 130
    with pytest.raises(httpx.ConnectError):
        httpx.get(seen[0].url, trust_env=False)


def test_termination_cleans_up_too() -> None:
    """SIGTERM, as containers are stopped by, removes the file of the CA, and the former handler is back."""
    seen: list[RunningSandbox] = []

    def wait(server: RunningSandbox) -> None:
        seen.append(server)
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        main(["--port", "0", "--tls"], wait=wait)
    assert caught.value.code == 128 + signal.SIGTERM
    assert seen[0].ca_file is not None
    assert not Path(seen[0].ca_file).exists()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--port", "65536"], "a port is a number from 0 to 65535"),
        (["--port", "http"], "a port is a number from 0 to 65535"),
        (["--timezone", "Europe/Wilna"], "'Europe/Wilna' is no time zone"),
        (["--timezone", "Europe"], "'Europe' is no time zone"),
        (["--timezone", "../etc/passwd"], "'../etc/passwd' is no time zone"),
        (["--stamp-offsets", "some"], "invalid choice"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_option_is_explained(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong value ends the command with exit code 2 before anything is opened."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_package_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m his_sms_async.sandbox --help`` tells every option with its default."""
    monkeypatch.setattr(sys, "argv", ["sandbox", "--help"])
    monkeypatch.delitem(sys.modules, "his_sms_async.sandbox.__main__")
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("his_sms_async.sandbox", run_name="__main__")
    assert caught.value.code == 0
    help_text = capsys.readouterr().out
    assert "python -m his_sms_async.sandbox" in help_text
    for default in ("8025", "sandbox-token", "Europe/Vilnius", "api://sandbox/.default", "3600"):
        assert default in help_text


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.skipif(os.name == "nt", reason="signals are sent to processes otherwise there")
def test_real_process_serves_and_ends_on_a_signal(ending: signal.Signals) -> None:
    """Started as the README says, it can be used as printed, and Ctrl-C ends it at once without a traceback."""
    command = [sys.executable, "-m", "his_sms_async.sandbox", "--port", "0", "--tls"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts background jobs with SIGINT ignored, and this test may be one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread of this test runs yet
    ) as process:
        try:
            assert process.stdout is not None
            printed = ""
            while "HIS_SMS_CA_FILE" not in printed:
                line = process.stdout.readline()
                assert line, "the process ended early"
                printed += line
            settings = settings_in(printed)
            trusting = ssl.create_default_context(cafile=settings["HIS_SMS_CA_FILE"])
            with httpx.Client(verify=trusting, trust_env=False) as client:
                answer = client.get(f"{settings['HIS_SMS_BASE_ADDRESS']}?type=Numbers")
                assert answer.status_code == 401
                process.send_signal(ending)
                _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 128 + ending
    assert errors == ""
    assert re.search(r"his-sms-sandbox-\w+", settings["HIS_SMS_CA_FILE"])
    assert not Path(settings["HIS_SMS_CA_FILE"]).parent.exists()
