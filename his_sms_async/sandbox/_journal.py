"""The request journal: what clients asked last, and what they were told; secrets are never in it."""

import json
import re
import shlex
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final
from urllib.parse import unquote_plus

import attrs

_KEPT: Final = 500  # requests
_LONGEST: Final = 10_000  # characters of a body
_SECRET_FIELDS: Final = frozenset(
    {"access_token", "assertion", "client_assertion", "client_secret", "password", "refresh_token", "token"}
)
_SCHEMES: Final = frozenset({"basic", "bearer", "digest", "negotiate"})
MASK: Final = "***"

_JSON_SECRET: Final = re.compile(
    rf'("(?:{"|".join(_SECRET_FIELDS)})"\s*:\s*)(?:"(?:[^"\\]|\\.)*"?|[^,}}]*)', re.IGNORECASE
)


@attrs.frozen(kw_only=True)
class Exchange:
    """One request and its answer; of a long body only the beginning.

    `at` is in UTC ticks by the server's clock, `seconds` is how long the answer took in real time. `status` is
    None while there is none, and where a fault left none. `is_understood` is false if the stand-in refused it by
    itself: a wrong token, an unknown address, a body that is not the specification's.
    """

    id: int
    at: int
    method: str
    target: str = attrs.field(repr=False)
    authorization: str = attrs.field(default="", repr=False)
    content_type: str = ""
    body: str = attrs.field(default="", repr=False)
    status: int | None = None
    outcome: str = ""
    """The ErrorMessage of the answer, or why it was refused; empty if all went well."""
    seconds: float | None = None
    faults: tuple[str, ...] = ()
    is_understood: bool = True

    def as_curl(self, url: str) -> str:
        """Return a command that asks the same of the server at `url`; the token is a variable.

        It is for a POSIX shell. What is masked here stays masked there.
        """
        words = ["curl", "-i", "--globoff"]
        if self.method != "GET":
            words += ["--head"] if self.method == "HEAD" else ["-X", self.method]
        if not self.target.startswith("/"):  # joined to the URL it could name another host
            words += ["--request-target", self.target]
        line = shlex.join([*words, url + (self.target if self.target.startswith("/") else "/")])
        if url.startswith("https:"):
            line += ' --cacert "$HIS_SMS_CA_FILE"'
        if self.authorization:
            line += ' -H "Authorization: Bearer $HIS_SMS_TOKEN"'
        if self.content_type:
            line += f" -H {shlex.quote(f'Content-Type: {self.content_type}')}"
        if self.body:
            line += f" --data-raw {shlex.quote(self.body)}"
        return line


@attrs.define(eq=False)
class Journal:
    """The last requests, oldest first; safe to use from any thread."""

    _changed: Callable[[], None] = attrs.field(alias="changed", repr=False)
    _exchanges: deque[Exchange] = attrs.field(init=False, factory=lambda: deque(maxlen=_KEPT), repr=False)
    _last_id: int = attrs.field(init=False, default=0)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock, repr=False)

    def begin(self, *, at: int, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Exchange:
        """Note a request that has come."""
        content_type = headers.get("content-type", "")
        with self._lock:
            self._last_id += 1
            exchange = Exchange(
                id=self._last_id,
                at=at,
                method=method,
                target=masked_target(target),
                authorization=masked_authorization(headers.get("authorization", "")),
                content_type=content_type,
                body=masked_body(body),
            )
            self._exchanges.append(exchange)
        self._changed()
        return exchange

    def end(self, exchange: Exchange) -> None:
        """Note how a request was answered: `exchange` replaces the one with its id."""
        with self._lock:
            for place, noted in enumerate(self._exchanges):
                if noted.id == exchange.id:
                    self._exchanges[place] = exchange
                    break
        self._changed()

    def clear(self) -> None:
        """Forget all; ids count on."""
        with self._lock:
            self._exchanges.clear()
        self._changed()

    def __iter__(self) -> Iterator[Exchange]:
        with self._lock:
            return iter(tuple(self._exchanges))


def masked_authorization(header: str) -> str:
    """Leave the scheme of an Authorization header only."""
    scheme, _, secret = header.partition(" ")
    return f"{scheme} {MASK}" if secret and scheme.lower() in _SCHEMES else MASK if header else ""


def masked_target(target: str) -> str:
    """Mask the secrets in the query of an address, where they do not belong."""
    path, mark, query = target.partition("?")
    return path + mark + _masked_form(query)


def masked_body(body: bytes) -> str:
    """Return a request's body as text, with the secrets of a form or of a JSON object masked."""
    text = body[: 4 * _LONGEST].decode(errors="replace")[:_LONGEST]
    if text.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        return _JSON_SECRET.sub(rf"\1{json.dumps(MASK)}", text)
    return _masked_form(text)


def _masked_form(text: str) -> str:
    fields = [field.partition("=") for field in text.split("&")]
    return "&".join(
        f"{name}={MASK}" if unquote_plus(name).strip().lower() in _SECRET_FIELDS else f"{name}{mark}{value}"
        for name, mark, value in fields
    )
