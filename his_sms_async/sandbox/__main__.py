"""``python -m his_sms_async.sandbox``: the stand-in in a terminal, until Ctrl-C."""
# ruff: noqa: T201 -- a command prints

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any, Final, NoReturn
from zoneinfo import ZoneInfo

import attrs

from ._patients import EVERYONE_ELSE, demo_answer
from ._serve import RunningSandbox, is_loopback
from ._state import Sandbox

INTERRUPTED: Final = 130  # what shells report of a command that Ctrl-C ended

_NOTICE: Final = "An SMS server to try things with: nothing is really sent, and nothing is kept after its end."
_WARNING: Final = (
    "WARNING: other computers can reach this server. Its token is no secret, so they can read and send."
)


def main(
    arguments: Sequence[str] | None = None,
    *,
    wait: Callable[[RunningSandbox], None] = RunningSandbox.wait,
    windows: bool = os.name == "nt",
) -> int:
    """Serve a sandbox as the command line says, until `wait` returns or is interrupted.

    Returns:
        The exit code: 0 if `wait` returned, 1 if the address cannot be used, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    sandbox = _sandbox_from(options)
    before = signal.signal(signal.SIGTERM, _exit_by_signal)  # so that the file of the CA goes away
    try:
        with ExitStack() as stack:
            try:
                server = stack.enter_context(
                    sandbox.serve(
                        host=options.host,
                        port=options.port,
                        tls=options.tls,
                        allowed_hosts=options.allow_host,
                    )
                )
            except OSError as error:
                print(f"cannot listen on {options.host}, port {options.port}: {error}", file=sys.stderr)
                return 1
            print(_banner(server, windows=windows), flush=True)
            if not is_loopback(options.host):
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
    def assignment(name: str, value: str) -> str:
        return f'$env:{name} = "{value}"' if windows else f"export {name}={shlex.quote(value)}"

    settings = [assignment(name, value) for name, value in client_settings(server).items()]
    return "\n".join([_NOTICE, f"It listens on {server.url}/ until Ctrl-C. For its clients:", "", *settings, ""])


def _sandbox_from(options: argparse.Namespace) -> Sandbox:
    chosen = {name: value for name, value in vars(options).items() if name in attrs.fields_dict(Sandbox)}
    if options.number:
        chosen["numbers"] = {number: index for index, number in enumerate(options.number, start=1)}
    if not options.silent:
        chosen["patients"] = {EVERYONE_ELSE: demo_answer}
    return Sandbox(**chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m his_sms_async.sandbox",
        description=_NOTICE,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )

    def add(flag: str, help_text: str, **settings: Any) -> None:
        option = attrs.fields_dict(Sandbox).get(flag.removeprefix("--").replace("-", "_"))
        if option is not None:
            settings.setdefault("default", option.default)
        parser.add_argument(flag, help=help_text, **settings)

    add("--host", "address to listen on; others than loopback let other computers in", default="127.0.0.1")
    add("--port", "port to listen on; 0 is any free one", type=_port, default=8025)
    add("--allow-host", "a further name that clients use for this server", action="append", default=[])
    add("--tls", "serve https with a new CA, as a fake Azure AD needs it", action="store_true")
    add("--token", "static bearer token")
    add("--timezone", "zone of the server's wall clock", type=_zone_name)
    add("--stamp-offsets", "offsets in the stamps of listed messages", choices=["none", "all"])
    add("--number", "a phone number or sender name of the hospital, instead of the built-in", action="append")
    add("--silent", "patients do not answer by themselves", action="store_true")
    add("--answer-after", "seconds until a patient answers a question", type=float, default=2.0)
    add("--tenant", "tenant of the fake Azure AD")
    add("--client-id", "application in it")
    add("--client-secret", "secret of that application")
    add("--scope", "scope it can have tokens for")
    add("--token-lifetime", "seconds for which a token is good", type=int)
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


def _zone_name(text: str) -> str:
    try:
        return ZoneInfo(text).key
    except (LookupError, OSError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time zone") from None


def _exit_by_signal(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
