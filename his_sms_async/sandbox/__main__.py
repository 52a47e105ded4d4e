"""``python -m his_sms_async.sandbox``: the stand-in in a terminal, until Ctrl-C."""
# ruff: noqa: T201 -- a command prints

import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import attrs

from ._file import UnusableFile
from ._options import SERVE, WrongSeed, chosen, read_seed
from ._patients import EVERYONE_ELSE, demo_answer
from ._serve import RunningSandbox, is_loopback
from ._state import Sandbox

INTERRUPTED: Final = 130  # what shells report of a command that Ctrl-C ended

_WARNING: Final = (
    "WARNING: other computers can reach this server. Its token is no secret, so they can read and send."
)


def main(
    arguments: Sequence[str] | None = None,
    *,
    wait: Callable[[RunningSandbox], None] = RunningSandbox.wait,
    windows: bool = os.name == "nt",
) -> int:
    """Serve a sandbox as the command line and the environment say, until `wait` returns or is interrupted.

    Returns:
        The exit code: 0 if `wait` returned, 1 if the address or a file cannot be used, 130 after Ctrl-C. SIGTERM
        exits with 143, a wrong option with 2.
    """
    options = chosen(arguments, os.environ)
    before = signal.signal(signal.SIGTERM, _exit_by_signal)  # so that the file of the CA goes away
    try:
        with ExitStack() as stack:
            try:
                sandbox = _sandbox_from(options)
            except (UnusableFile, WrongSeed) as error:
                print(error, file=sys.stderr)
                return 1
            try:
                server = stack.enter_context(sandbox.serve(**{name: options[name] for name in SERVE}))
            except (OSError, UnicodeError) as error:  # the latter for what cannot be a name of a computer
                print(f"cannot listen on {options['host']}, port {options['port']}: {error}", file=sys.stderr)
                return 1
            print(_banner(server, windows=windows), flush=True)
            if not is_loopback(options["host"]):
                print(_WARNING, file=sys.stderr, flush=True)
            wait(server)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def client_settings(server: RunningSandbox) -> Mapping[str, str]:
    """Return the environment variables that lead a client of this library to `server`."""
    sandbox = server.sandbox
    settings = {"HIS_SMS_BASE_ADDRESS": f"{server.url}/", "HIS_SMS_SERVER_TIMEZONE": sandbox.timezone}
    if server.ca_file is None:
        return settings | {"HIS_SMS_TOKEN": sandbox.token or ""}
    return settings | {
        "HIS_SMS_AAD_INSTANCE": server.aad_instance,
        "HIS_SMS_TENANT": sandbox.tenant,
        "HIS_SMS_CLIENT_ID": sandbox.client_id,
        "HIS_SMS_CLIENT_SECRET": sandbox.client_secret,
        "HIS_SMS_SCOPE": sandbox.scope,
        "HIS_SMS_CA_FILE": server.ca_file,
    }


def _banner(server: RunningSandbox, *, windows: bool) -> str:
    file = server.sandbox.file
    kept = "nothing is kept after its end" if file is None else f"messages are kept in {file}"
    warning = "" if server.ca_file is None else " (the browser warns, because the certificate is new)"
    return "\n".join(
        [
            f"An SMS server to try things with: nothing is really sent, and {kept}.",
            f"Its page, with a phone for every patient: {server.url}/{warning}",
            "It runs until Ctrl-C. For its clients:",
            "",
            *(_assignment(name, value, windows=windows) for name, value in client_settings(server).items()),
            "",
        ]
    )


def _assignment(name: str, value: str, *, windows: bool) -> str:
    """Return the line that sets a variable, in PowerShell or a POSIX shell."""
    if windows:
        for special in '`"$':
            value = value.replace(special, f"`{special}")
        return f'$env:{name} = "{value}"'
    return f"export {name}={shlex.quote(value)}"


def _sandbox_from(options: Mapping[str, Any]) -> Sandbox:
    arguments = {name: value for name, value in options.items() if name in attrs.fields_dict(Sandbox)}
    if not options["silent"]:
        arguments["patients"] = {EVERYONE_ELSE: demo_answer}
    if (file := options["file"]) is not None:
        _check_writable(file)
    seed = options["seed"]
    arguments["seed"] = () if seed is None else read_seed(seed)
    try:
        return Sandbox(**arguments)
    except ValueError as error:  # about the seed: each other value was read well
        raise WrongSeed(f"{seed}: {error}") from None


def _check_writable(file: Path) -> None:
    """Raise UnusableFile now and not when the first message comes, which would be lost."""
    try:
        file.open("ab").close()
    except OSError as error:
        raise UnusableFile(f"{file}: {error.strerror}") from None


def _exit_by_signal(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
