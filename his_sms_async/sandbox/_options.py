"""The options of ``python -m his_sms_async.sandbox``: each is a flag, a variable and a Python argument.

The three have one name: ``--stamp-offsets``, ``HIS_SMS_SANDBOX_STAMP_OFFSETS``, ``Sandbox(stamp_offsets=…)``.
"""

import argparse
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import Any, Final, NoReturn, cast
from zoneinfo import ZoneInfo

import attrs

from ._state import Sandbox

PREFIX: Final = "HIS_SMS_SANDBOX_"

_LONGEST: Final = 10_000_000  # seconds, which are months


class WrongSeed(Exception):
    """A file of messages cannot be used; the text names it and what is wrong, and not what is in it."""


@attrs.frozen(kw_only=True)
class Option:
    """One option; `name` is that of the Python argument."""

    name: str
    meaning: str
    read: Callable[[str], Any]
    """Makes the argument of a text, or raises ValueError with what the text must be."""
    value: str
    """What stands for the text in the help."""
    default: Any
    short: str | None = None
    """Another name of the flag, for a list of which often one is given."""

    @property
    def flag(self) -> str:
        """Like ``--stamp-offsets``."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Like ``HIS_SMS_SANDBOX_STAMP_OFFSETS``."""
        return PREFIX + self.name.upper()

    @property
    def python(self) -> str:
        """Where it is said in Python."""
        if self.name == "silent":
            return "Sandbox(patients={})"
        return f"{'serve' if self.is_of_serve else 'Sandbox'}({self.name}=…)"

    @property
    def is_of_serve(self) -> bool:
        """Whether it is an argument of `Sandbox.serve`, not of `Sandbox`."""
        return self.name in SERVE

    @property
    def is_switch(self) -> bool:
        """Whether its flag has no value, but an opposite."""
        return self.read is _switch

    @property
    def default_text(self) -> str:
        """The default as it would be typed; empty if there is none."""
        if isinstance(self.default, bool):
            return str(int(self.default))
        if isinstance(self.default, Mapping):
            return ",".join(f"{key}={value}" for key, value in self.default.items())
        return "" if self.default in (None, ()) else f"{self.default}"


def chosen(arguments: Sequence[str] | None, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the value of every option by its name: that of its flag, else of its variable, else the default.

    An empty variable is as good as none, one that belongs to no option is warned about. A wrong value ends the
    process with exit code 2 and a line that names the flag or the variable; so does ``--help``, with 0.
    """
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    values = {}
    for option in OPTIONS:
        source, text = option.flag, given.get(option.name)
        if text is None:
            source, text = option.variable, environment.get(option.variable) or None
        try:
            values[option.name] = option.default if text is None else option.read(text)
        except ValueError as error:
            parser.error(f"{source}: {error}")
    _warn_of_unknown(environment)
    return values


def read_seed(path: Path) -> list[Mapping[str, Any]]:
    """Return the messages of a file that holds what ``GET /control/messages`` answers.

    Raises:
        WrongSeed: It cannot be read, or is something else.
    """
    try:
        messages = json.loads(path.read_bytes())
    except OSError as error:
        raise WrongSeed(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise WrongSeed(f"{path}{where}: it is not JSON") from None
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise WrongSeed(f"{path}: it must be a list of messages, as GET /control/messages answers")
    return messages


class _Help(argparse.HelpFormatter):
    """Wraps each line of an option's help by itself, and never at a hyphen."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return text.splitlines()


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{message}; --help tells all options\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m his_sms_async.sandbox",
        usage="%(prog)s [OPTIONS]",
        description="An SMS server to try things with: nothing is really sent.",
        epilog="Each option can be given as its variable instead; the flag wins. In a variable a switch is 1, 0,"
        " true or false. A list has commas, and its flag may be repeated too.",
        formatter_class=_Help,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for option in OPTIONS:
        settings: dict[str, Any] = {"dest": option.name}
        if option.is_switch:
            settings["action"] = _SwitchAction
        else:
            settings["action"] = _JoinAction if option.short else "store"
            settings["metavar"] = option.value
        flags = [option.flag, *([option.short] if option.short else [])]
        default = f", default {option.default_text}" if option.default_text else ""
        told = f"{option.meaning}\n{option.variable}{default}".replace("%", "%%")
        parser.add_argument(*flags, help=told, default=argparse.SUPPRESS, **settings)
    return parser


class _SwitchAction(argparse.BooleanOptionalAction):
    """``--x`` and ``--no-x``, stored as a variable would have it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, str(int(not cast(str, option_string).startswith("--no-"))))


class _JoinAction(argparse.Action):
    """Joins what a repeated flag gave, as a variable would have it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, values if before is None else f"{before},{values}")


def _warn_of_unknown(environment: Mapping[str, str]) -> None:
    known = [option.name.upper() for option in OPTIONS]
    for name in sorted(environment):
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in known:
            similar = get_close_matches(name.removeprefix(PREFIX), known, n=1)
            hint = f"; did you mean {PREFIX}{similar[0]}?" if similar else ""
            print(f"WARNING: {name} belongs to no option{hint}", file=sys.stderr)  # noqa: T201 -- of a command


# How a text becomes an argument


def _text(text: str) -> str:
    if not text:
        raise ValueError("it must not be empty")
    return text


def _path(text: str) -> Path:
    return Path(_text(text))


def _switch(text: str) -> bool:
    try:
        return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
    except KeyError:
        raise ValueError("a switch is 1, 0, true or false") from None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= 65535):
        raise ValueError("a port is a number from 0 to 65535")
    return int(text)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("it must be an integer") from None


def _whole_seconds(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ValueError("it must be seconds, an integer above 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _LONGEST:
        raise ValueError(f"it must be seconds, from 0 to {_LONGEST}")
    return seconds


def _zone_name(text: str) -> str:
    try:
        return ZoneInfo(text).key
    except (LookupError, OSError, ValueError):
        raise ValueError(f"{text!r} is no time zone, like Europe/Vilnius") from None


def _none_or_all(text: str) -> str:
    if text not in ("none", "all"):
        raise ValueError("it must be none or all")
    return text


def _list(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (item.strip() for item in text.split(","))))


def _numbers(text: str) -> Mapping[str, int]:
    """Read ``37000000000=4,WARD``: numbers and names without OperatorNumberId get the first free ones."""
    pairs = [(name.strip(), own.strip()) for name, _, own in (item.partition("=") for item in _list(text))]
    owns = [own for _, own in pairs if own]
    if (
        not pairs
        or not all(name for name, _ in pairs)
        or not all(own.isascii() and own.isdecimal() for own in owns)
    ):
        raise ValueError("it must be numbers or names, each with or without its Id, like 37000000000=4,WARD")
    taken = {int(own) for own in owns}
    if len({name for name, _ in pairs}) < len(pairs) or len(taken) < len(owns):
        raise ValueError("a number or an Id is in it twice")
    free = (number for number in count(1) if number not in taken)
    return {name: int(own) if own else next(free) for name, own in pairs}


SERVE: Final[Mapping[str, Any]] = {
    name: parameter.default
    for name, parameter in inspect.signature(Sandbox.serve).parameters.items()
    if name != "self"
}
"""The defaults of `Sandbox.serve`."""

_DEFAULTS: Final[Mapping[str, Any]] = {
    **{field.name: field.default for field in attrs.fields(Sandbox)},
    **SERVE,
    "seed": None,  # a file
    # Where somebody who looks at the page wants something else than a test does.
    "port": 8025,
    "silent": False,
    "answer_after": 2.0,
}


def _option(
    name: str, meaning: str, read: Callable[[str], Any] = _text, value: str = "TEXT", short: str | None = None
) -> Option:
    return Option(name=name, meaning=meaning, read=read, value=value, short=short, default=_DEFAULTS[name])


OPTIONS: Final = (
    _option("host", "address to listen on; others than loopback let other computers in", value="ADDRESS"),
    _option("port", "port to listen on; 0 is any free one", _port, "PORT"),
    _option("tls", "serve https with a new CA, as MSAL needs it for the fake Azure AD", _switch),
    _option(
        "allowed_hosts", "list of further names that clients use for this server", _list, "NAMES", "--allow-host"
    ),
    _option("file", "file that keeps the messages, for one server at a time", _path, "FILE"),
    _option("seed", "JSON file of messages to begin with, as GET /control/messages answers", _path, "FILE"),
    _option("silent", "patients do not answer by themselves", _switch),
    _option("answer_after", "seconds until a patient answers a question", _seconds, "SECONDS"),
    _option("magic_numbers", "magic numbers do what they say", _switch),
    _option(
        "random_seed", "number that makes faults with a probability strike alike each time", _integer, "INTEGER"
    ),
    _option(
        "numbers",
        "list of the hospital's numbers and names, each with =Id or without",
        _numbers,
        "NUMBERS",
        "--number",
    ),
    _option("timezone", "zone of the server's wall clock", _zone_name, "ZONE"),
    _option("stamp_offsets", "offsets in the stamps of listed messages: none or all", _none_or_all, "WHICH"),
    _option("token", "static bearer token"),
    _option("tenant", "tenant of the fake Azure AD"),
    _option("client_id", "application in it"),
    _option("client_secret", "secret of that application"),
    _option("scope", "scope it can have tokens for"),
    _option("token_lifetime", "seconds for which a token of it is good", _whole_seconds, "SECONDS"),
)
