"""What the stand-in is asked and what it says, as values that faults can change before they are on the wire."""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final, Literal

import attrs

Request = Literal["send", "list", "numbers", "token"]
"""What a client can ask: the three requests of the specification, and the fake Azure AD."""

ErrorCode = Literal["Internal", "InvalidMessageOwner", "InvalidClientNumber"]
"""Why something is refused, as the specification names it."""

Ending = Literal["complete", "cut", "reset", "silence"]
"""How an answer ends: as HTTP says; closed before all of it was sent; by a TCP reset; or not at all, until
the client gives up."""

_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_PIECE: Final = 65536  # bytes; longer answers are sent in such pieces


@attrs.frozen(kw_only=True)
class Call:
    """One request, as far as faults tell them apart; `numbers` are those of a message to be sent."""

    request: Request
    numbers: frozenset[str] = attrs.field(default=frozenset(), repr=False)


@attrs.frozen(kw_only=True)
class Envelope:
    """An answer in the form of the specification, before it is written as JSON.

    `rows` are the messages of a list, made while they are written: there may be a million.
    """

    http_status: int = 200
    data: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    rows: Iterable[Mapping[str, Any]] | None = attrs.field(default=None, repr=False)
    status: Mapping[str, Any] | None
    """None: the answer has no Status."""
    headers: Mapping[str, str] = {}
    rename: Callable[[str], str] = str

    def written(self) -> "Answer":
        """Write it as JSON."""
        return Answer(
            status=self.http_status,
            headers={"Content-Type": "application/json", **self.headers},
            pieces=_pieces(self._written_rows() if self.rows is not None else iter([self._written_whole()])),
        )

    def _written_whole(self) -> bytes:
        data = None if self.data is None else _renamed(self.data, self.rename)
        return _json({self.rename("Data"): data, **self._named_status()})

    def _written_rows(self) -> Iterator[bytes]:
        rename = self.rename
        yield f'{{"{rename("Data")}":{{"{rename("Messages")}":['.encode()
        for index, row in enumerate(self.rows or ()):
            yield (b"," if index else b"") + _json({rename(name): value for name, value in row.items()})
        end = _json(self._named_status())[1:]
        yield b"]}" + (b"," if len(end) > 1 else b"") + end

    def _named_status(self) -> Mapping[str, Any]:
        if self.status is None:
            return {}
        return {self.rename("Status"): _renamed(self.status, self.rename)}


@attrs.frozen(kw_only=True)
class Answer:
    """What is written to the connection.

    `pieces` are read once. If `is_raw`, they are all that is written, without the status line and headers of
    HTTP, and the connection is closed.
    """

    status: int = 200
    headers: Mapping[str, str] = {}
    pieces: Iterable[bytes] = attrs.field(default=(), repr=False)
    ending: Ending = "complete"
    is_raw: bool = False

    def cut(self) -> "Answer":
        """End in the middle of the body, while the headers promise all of it; what breaks otherwise still does."""
        return self if self.is_raw or self.ending != "complete" else attrs.evolve(self, ending="cut")

    def compressed(self) -> "Answer":
        """Compress the body with gzip, asked for or not; what is no HTTP stays as it is."""
        if self.is_raw:
            return self
        headers = {**self.headers, "Content-Encoding": "gzip"}
        return attrs.evolve(self, headers=headers, pieces=_pieces(_gzipped(self.pieces)))


def ok(data: Mapping[str, Any]) -> Envelope:
    """Return a good answer."""
    return Envelope(data=data, status=outcome(200, "OK", None))


def ok_messages(rows: Iterable[Mapping[str, Any]]) -> Envelope:
    """Return a good answer that lists messages."""
    return Envelope(rows=rows, status=outcome(200, "OK", None))


def error(http_status: int, error_code: str, reason: str, headers: Mapping[str, str] | None = None) -> Envelope:
    """Return an answer that says what is wrong, in the form of the specification."""
    status = outcome(http_status, error_code, reason)
    return Envelope(http_status=http_status, status=status, headers=headers or {})


def token_error(http_status: int, reason: str, headers: Mapping[str, str]) -> Answer:
    """Return an answer that says what is wrong, in the form of OAuth."""
    code = {400: "invalid_request", 401: "invalid_client"}.get(http_status, "temporarily_unavailable")
    return Answer(
        status=http_status,
        headers={"Content-Type": "application/json", **headers},
        pieces=[_json({"error": code, "error_description": reason})],
    )


def outcome(status: int, error_code: str, reason: str | None) -> Mapping[str, Any]:
    """Return the Status of an envelope; its StatusCode is the phrase of an HTTP status."""
    return {"StatusCode": HTTPStatus(status).phrase, "ErrorCode": error_code, "ErrorMessage": reason}


def _renamed(fields: Mapping[str, Any], rename: Callable[[str], str]) -> Mapping[str, Any]:
    def value(item: Any) -> Any:
        if isinstance(item, list):
            return [value(part) for part in item]
        return _renamed(item, rename) if isinstance(item, dict) else item

    return {rename(name): value(item) for name, item in fields.items()}


def _json(value: Any) -> bytes:
    return _ENCODE(value).encode()


def _pieces(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Join small parts, so that each piece but the last has at least `_PIECE` bytes."""
    gathered, size = [], 0
    for part in parts:
        gathered.append(part)
        size += len(part)
        if size >= _PIECE:
            yield b"".join(gathered)
            gathered, size = [], 0
    yield b"".join(gathered)


def _gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=31)  # with the header and the end of gzip
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()
