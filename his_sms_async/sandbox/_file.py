"""A file that outlives the stand-in: one JSON line for each version of a message, the last one counts."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from ._clock import is_a_time
from ._messages import SandboxMessage, check_unicode

_FIELDS = tuple(
    field.name for field in attrs.fields(SandboxMessage) if field.name not in ("before", "visible_from")
)

_BEGIN = b'{"id":'  # of every line


class UnusableFile(Exception):
    """A file is not one of the stand-in's; the text says which line, and not what is in it."""


def message_to_json(message: SandboxMessage) -> dict[str, Any]:
    """Return the fields of a message, all of them plain JSON values."""
    return {name: getattr(message, name) for name in _FIELDS}


def message_from_json(fields: Any) -> SandboxMessage:
    """Return the message that has these fields.

    Raises:
        ValueError: It is not what `message_to_json` writes.
    """
    if not isinstance(fields, dict) or fields.keys() != set(_FIELDS):
        raise ValueError(f"a message has the fields {', '.join(_FIELDS)}")
    for name, value in fields.items():
        if name in ("reply_to_id", "external_key") and value is None:
            continue
        kind = str if name in ("type", "sender", "recipient", "text", "state") else int
        if type(value) is not kind:
            raise ValueError(f"{name} must be {'a text' if kind is str else 'an integer'}")
        if isinstance(value, str):
            check_unicode(value, name)
        if isinstance(value, int) and name.endswith("_ticks") and not is_a_time(value):
            raise ValueError(f"{name} is beyond the calendar")
    if fields["type"] not in ("Incoming", "Outgoing"):
        raise ValueError("type must be Incoming or Outgoing")
    return SandboxMessage(**fields)


@attrs.frozen(eq=False)
class MessageFile:
    """Appends versions of messages to a file; a torn last line, from a crash, is dropped when it is read."""

    path: Path

    def read(self) -> list[SandboxMessage]:
        """Return all versions, oldest first.

        Raises:
            UnusableFile: A line is no message.
        """
        if not self.path.exists():
            return []
        *lines, torn = self.path.read_bytes().split(b"\n")
        versions = [self._version(number, line) for number, line in enumerate(lines, start=1)]
        if torn:
            if not torn.startswith(_BEGIN[: len(torn)]):  # it is no work of ours, and not ours to drop
                raise UnusableFile(f"{self.path}, line {len(lines) + 1}: it is not JSON")
            os.truncate(self.path, self.path.stat().st_size - len(torn))
        return versions

    def append(self, messages: Iterable[SandboxMessage]) -> None:
        """Add versions, one line each, all of them or none.

        Raises:
            OSError: The file cannot be written, or the disk is full.
        """
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.writelines(
                    json.dumps(message_to_json(message), separators=(",", ":")) + "\n" for message in messages
                )
        except BaseException:
            with suppress(OSError):  # the first error is the one to be told
                os.truncate(self.path, size)
            raise

    def clear(self) -> None:
        """Forget all."""
        self.path.write_bytes(b"")

    def _version(self, number: int, line: bytes) -> SandboxMessage:
        try:
            return message_from_json(json.loads(line))
        except (ValueError, RecursionError) as error:
            is_json = not isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError)
            raise UnusableFile(f"{self.path}, line {number}: {error if is_json else 'it is not JSON'}") from None
