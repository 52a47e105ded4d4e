"""``python -m his_sms_async.sandbox``."""

import inspect
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest

from his_sms_async.sandbox import RunningSandbox, Sandbox
from his_sms_async.sandbox.__main__ import main
from his_sms_async.sandbox._options import OPTIONS, Option, chosen

REMINDER = {"Id": None, "From": "37000000001", "To": "37000000002", "Text": "Will You come?", "ExternalKey": 1}


SEED = [{"sender": "37000000002", "recipient": "37000000001", "text": "I am late"}]


@pytest.fixture(autouse=True)
def without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine decides a test."""
    for name in [name for name in os.environ if name.startswith("HIS_SMS_")]:
        monkeypatch.delenv(name)


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
    """It says that nothing is sent, what to open in a browser, and the variables for the static token."""
    server = run("--token", "my token", "--timezone", "UTC")
    output = capsys.readouterr()
    assert "nothing is really sent, and nothing is kept" in output.out
    assert re.search(rf"^Its page.*: {re.escape(server.url)}/$", output.out, re.MULTILINE)
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
    """The lines to paste are of the shell that is usual there, and what is special in it is quoted."""
    assert main(["--port", "0", "--token", 'a"$b`c'], wait=lambda server: None, windows=True) == 0
    assert '\n$env:HIS_SMS_TOKEN = "a`"`$b``c"\n' in capsys.readouterr().out


# --- flags, variables and Python arguments -----------------------------------------------------------------


SAMPLES: dict[str, tuple[str, Any]] = {
    "host": ("127.1", "127.1"),
    "port": ("0", 0),
    "allowed_hosts": ("sms.example, other.example", ("sms.example", "other.example")),
    "file": ("messages.jsonl", Path("messages.jsonl")),
    "seed": ("seed.json", Path("seed.json")),
    "answer_after": ("0.5", 0.5),
    "random_seed": ("-7", -7),
    "numbers": (
        "37000000009=2,WARD,37000000008=1,NURSE",
        {"37000000009": 2, "WARD": 3, "37000000008": 1, "NURSE": 4},
    ),
    "timezone": ("UTC", "UTC"),
    "stamp_offsets": ("all", "all"),
    "token": ("my token", "my token"),
    "tenant": ("ward", "ward"),
    "client_id": ("app", "app"),
    "client_secret": ("hush", "hush"),
    "scope": ("s/.default", "s/.default"),
    "token_lifetime": ("301", 301),
}
SWITCHES = [option for option in OPTIONS if option.is_switch]
OTHERS = [option for option in OPTIONS if not option.is_switch]


def test_every_argument_can_be_told_in_three_ways() -> None:
    """Each argument of `Sandbox` that can be a text, and of `serve`, has a flag and a variable of its name."""
    told = {field.name for field in attrs.fields(Sandbox) if field.init} - {"clock", "patients"}
    serve = set(inspect.signature(Sandbox.serve).parameters) - {"self"}
    assert {option.name for option in OPTIONS} == told | serve | {"silent"}
    assert {option.name for option in OPTIONS if option.is_of_serve} == serve
    for option in OPTIONS:
        assert option.flag == f"--{option.name}".replace("_", "-")
        assert option.variable == f"HIS_SMS_SANDBOX_{option.name}".upper()


@pytest.mark.parametrize("option", OTHERS, ids=lambda option: option.name)
def test_flag_and_variable_mean_the_same(option: Option) -> None:
    """A value is read alike from both; it is not the default, and the flag beats even a variable that is wrong."""
    text, value = SAMPLES[option.name]
    by_flag = chosen([f"{option.flag}={text}"], {})
    assert by_flag == chosen([], {option.variable: text})
    assert by_flag == chosen([f"{option.flag}={text}"], {option.variable: "\0"})
    assert by_flag == chosen([], {}) | {option.name: value}
    assert by_flag != chosen([], {})


@pytest.mark.parametrize("option", SWITCHES, ids=lambda option: option.name)
def test_switch_can_be_turned_on_and_off_in_each_way(option: Option) -> None:
    """A switch has a flag for either side, which beats the variable: 1, 0, true or false."""
    off = option.flag.replace("--", "--no-", 1)
    for text, is_on in (("1", True), ("true", True), ("TRUE", True), ("0", False), ("false", False)):
        assert chosen([], {option.variable: text})[option.name] is is_on
        assert chosen([option.flag], {option.variable: text})[option.name] is True
        assert chosen([off], {option.variable: text})[option.name] is False


@pytest.mark.parametrize("flag", ["--number", "--numbers"])
def test_list_grows_with_each_flag(flag: str) -> None:
    """A list is given with commas, by a flag for each, or both."""
    numbers = chosen([flag, "37000000009", flag, "WARD,NURSE"], {})["numbers"]
    assert numbers == {"37000000009": 1, "WARD": 2, "NURSE": 3}


def test_empty_variable_is_as_good_as_none() -> None:
    """What a container platform sets to nothing changes nothing."""
    assert chosen([], {option.variable: "" for option in OPTIONS}) == chosen([], {})


def test_variable_of_no_option_is_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt variable is told, with what was probably meant, and stops nothing."""
    chosen([], {"HIS_SMS_SANDBOX_PROT": "0", "HIS_SMS_SANDBOX_XYZZY": "0", "HIS_SMS_TOKEN": "of the client"})
    assert capsys.readouterr().err == (
        "WARNING: HIS_SMS_SANDBOX_PROT belongs to no option; did you mean HIS_SMS_SANDBOX_PORT?\n"
        "WARNING: HIS_SMS_SANDBOX_XYZZY belongs to no option\n"
    )


def test_help_is_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` has the flag, the variable and the default of each option, in lines that can be searched."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for option in OPTIONS:
        default = f", default {option.default_text}" if option.default_text else ""
        place = lines.index(f"{option.variable}{default}")
        assert lines[place - 1].endswith(option.meaning)
        assert any(re.match(rf"{option.flag}[ ,]", line) for line in lines[place - 2 : place])


def test_options_reach_the_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was chosen is what is served, from variables and flags together."""
    (tmp_path / "seed.json").write_text(json.dumps(SEED))
    monkeypatch.setenv("HIS_SMS_SANDBOX_STAMP_OFFSETS", "all")
    monkeypatch.setenv("HIS_SMS_SANDBOX_NUMBERS", "37000000001=9,WARD")
    monkeypatch.setenv("HIS_SMS_SANDBOX_MAGIC_NUMBERS", "false")
    monkeypatch.setenv("HIS_SMS_SANDBOX_SEED", str(tmp_path / "seed.json"))
    server = run("--token-lifetime", "301", "--random-seed", "7", "--file", str(tmp_path / "kept"))
    sandbox = server.sandbox
    assert sandbox.stamp_offsets == "all"
    assert sandbox.numbers == {"37000000001": 9, "WARD": 1}
    assert not sandbox.magic_numbers
    assert [message.text for message in sandbox.messages] == ["I am late"]
    assert (sandbox.token_lifetime, sandbox.random_seed, sandbox.file) == (301, 7, tmp_path / "kept")


def test_options_not_given_are_those_of_the_sandbox() -> None:
    """The command has no defaults of its own but for the port and the patients."""
    sandbox, default = run().sandbox, Sandbox()
    assert sandbox.numbers == default.numbers
    assert repr(sandbox) == repr(default).replace("answer_after=0.0", "answer_after=2.0")
    assert chosen([], {})["port"] == 8025


# --- files ---------------------------------------------------------------------------------------------------


def test_messages_outlive_the_command_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --file the next run has the messages of the last one and no seed again, and the banner says so."""
    kept, seed = tmp_path / "kept", tmp_path / "seed.json"
    seed.write_text(json.dumps(SEED))

    def write(server: RunningSandbox) -> None:
        server.sandbox.patient("37000000003").writes("No")

    run("--file", str(kept), "--seed", str(seed), visit=write)
    assert f"messages are kept in {kept}" in capsys.readouterr().out
    again = run("--file", str(kept), "--seed", str(seed))
    assert [message.text for message in again.sandbox.messages] == ["I am late", "No"]


def test_what_the_control_api_lists_is_a_seed(tmp_path: Path) -> None:
    """The answer of GET /control/messages makes the same messages in another sandbox."""
    seed = tmp_path / "seed.json"
    sandbox = Sandbox(seed=SEED)
    with sandbox.serve() as server:
        seed.write_bytes(httpx.get(f"{server.url}/control/messages", trust_env=False).content)
    assert run("--seed", str(seed)).sandbox.messages == sandbox.messages


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[\n{]", ", line 2: it is not JSON"),
        (b"\xff\xfe\x00", ": it is not JSON"),
        (b"[" * 100_000, ": it is not JSON"),
        (b'{"sender": "37000000002"}', ": it must be a list of messages, as GET /control/messages answers"),
        (b"[1]", ": it must be a list of messages, as GET /control/messages answers"),
        (json.dumps([*SEED, {**SEED[0], "text": 5}]).encode(), ": message 2 of the seed: text must be a text"),
        (
            json.dumps([{**SEED[0], "type": "Letter"}]).encode(),
            ": message 1 of the seed: type must be Incoming or Outgoing",
        ),
        (None, ": No such file or directory"),
    ],
)
def test_wrong_seed_is_one_clear_line(
    content: bytes | None, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the file and what is wrong, and quotes nothing of it."""
    seed = tmp_path / "seed.json"
    if content is not None:
        seed.write_bytes(content)
    assert main(["--port", "0", "--seed", str(seed)]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", f"{seed}{complaint}\n")


def test_file_that_is_something_else_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of another kind is left as it is, and named with the line that is wrong."""
    file = tmp_path / "diary.txt"
    file.write_text("Dear diary\n")
    assert main(["--port", "0", "--file", str(file)]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", f"{file}, line 1: it is not JSON\n")
    assert file.read_text() == "Dear diary\n"


def test_file_that_cannot_be_written_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that no message could be kept in stops the command, and not the first message."""
    file = tmp_path / "missing" / "kept"
    assert main(["--port", "0", "--file", str(file)]) == 1
    assert capsys.readouterr().err == f"{file}: No such file or directory\n"


# --- serving -------------------------------------------------------------------------------------------------


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


def test_name_that_is_none_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot even be the name of a computer is told like an address in use."""
    assert main(["--port", "0", "--host", "a..b"]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("cannot listen on a..b, port 0: ")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("port", "65536", "a port is a number from 0 to 65535"),
        ("port", "http", "a port is a number from 0 to 65535"),
        ("port", "tcp://10.0.0.1:8025", "a port is a number from 0 to 65535"),  # as Kubernetes links services
        ("timezone", "Europe/Wilna", "'Europe/Wilna' is no time zone, like Europe/Vilnius"),
        ("timezone", "Europe", "'Europe' is no time zone, like Europe/Vilnius"),
        ("timezone", "../etc/passwd", "'../etc/passwd' is no time zone, like Europe/Vilnius"),
        ("stamp_offsets", "some", "it must be none or all"),
        ("answer_after", "soon", "it must be seconds, from 0 to 10000000"),
        ("answer_after", "-1", "it must be seconds, from 0 to 10000000"),
        ("answer_after", "nan", "it must be seconds, from 0 to 10000000"),
        ("token_lifetime", "0", "it must be seconds, an integer above 0"),
        ("token_lifetime", "1.5", "it must be seconds, an integer above 0"),
        ("random_seed", "1.5", "it must be an integer"),
        ("numbers", ",", "it must be numbers or names, each with or without its Id, like 37000000000=4,WARD"),
        ("numbers", "=4", "it must be numbers or names, each with or without its Id, like 37000000000=4,WARD"),
        ("numbers", "WARD=x", "it must be numbers or names, each with or without its Id, like 37000000000=4,WARD"),
        ("numbers", "WARD,WARD", "a number or an Id is in it twice"),
        ("numbers", "WARD=1,NURSE=1", "a number or an Id is in it twice"),
    ],
)
def test_wrong_value_is_explained(
    name: str, text: str, complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names the flag or the variable and what it must be, with exit code 2, before anything is opened."""
    option = next(option for option in OPTIONS if option.name == name)
    with pytest.raises(SystemExit) as caught:
        main([f"{option.flag}={text}"])
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", f"{option.flag}: {complaint}; --help tells all options\n")
    monkeypatch.setenv(option.variable, text)
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", f"{option.variable}: {complaint}; --help tells all options\n")


@pytest.mark.parametrize("option", SWITCHES, ids=lambda option: option.name)
def test_wrong_switch_is_explained(option: Option, capsys: pytest.CaptureFixture[str]) -> None:
    """A variable of a switch that is neither on nor off is named."""
    with pytest.raises(SystemExit):
        chosen([], {option.variable: "maybe"})
    line = f"{option.variable}: a switch is 1, 0, true or false; --help tells all options\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--nonsense", "unrecognized arguments: --nonsense"),
        ("--token=", "--token: it must not be empty"),
        ("--file=", "--file: it must not be empty"),
    ],
)
def test_wrong_flag_is_explained(argument: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag that there is not, or that says nothing, is one clear line."""
    with pytest.raises(SystemExit) as caught:
        main([argument])
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"{complaint}; --help tells all options\n"


def test_package_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m his_sms_async.sandbox --help`` is how it is called, and says so."""
    monkeypatch.setattr(sys, "argv", ["sandbox", "--help"])
    path = Path(inspect.getfile(main))
    code = compile(
        path.read_text(encoding="utf-8"), path, "exec"
    )  # runpy does not get on with pytest's import hook
    with pytest.raises(SystemExit) as caught:
        exec(code, {"__name__": "__main__", "__package__": "his_sms_async.sandbox"})
    assert caught.value.code == 0
    assert "usage: python -m his_sms_async.sandbox [OPTIONS]" in capsys.readouterr().out


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
