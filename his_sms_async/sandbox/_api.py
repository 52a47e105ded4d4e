"""The HTTP of the stand-in: the REST API to the letter of the specification, and the fake Azure AD.

A request passes the gate (does it name this server?), then the bearer check, then its handler. Nothing is
logged, and no error text repeats what was sent: that would be phone numbers and what patients write.
"""

import json
import re
from collections.abc import Iterable, Mapping
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import attrs
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._clock import utc_datetime
from ._messages import MessageType, SandboxMessage
from ._stamps import format_stamp, parse_date_from
from ._state import Refused, Sandbox

LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})

_HOST: Final = re.compile(r"(\[[^]]*\]|[^:]*)(?::[0-9]*)?")
_TYPES: Final[Mapping[str, MessageType]] = {
    "Outgoing": "Outgoing",
    "1": "Outgoing",
    "Incoming": "Incoming",
    "2": "Incoming",
}
_SENT_FIELDS: Final[Mapping[str, type]] = {
    "Id": type(None),
    "From": str,
    "To": str,
    "Text": str,
    "ExternalKey": int,
}
_JSON_NAMES: Final[Mapping[type, str]] = {type(None): "null", str: "a string", int: "an integer"}


def create_app(sandbox: Sandbox, *, allowed_hosts: Iterable[str] = ()) -> ASGIApp:
    """Return the ASGI application of `sandbox`; it answers to loopback names and `allowed_hosts`."""
    api, azure_ad = _Api(sandbox), _AzureAdRoutes(sandbox)
    app = Starlette(
        routes=[
            Route("/", api.answer, methods=["GET", "POST"]),
            Route("/{tenant}/v2.0/.well-known/openid-configuration", azure_ad.discover),
            Route("/{tenant}/oauth2/v2.0/token", azure_ad.issue_token, methods=["POST"]),
        ],
        exception_handlers={
            HTTPException: _on_error,
            ClientDisconnect: _on_error,  # nobody hears the answer, but it is no bug to be logged
            Exception: _on_error,
        },
    )
    return _Gate(app, sandbox, LOOPBACK_HOSTS.union(name.lower() for name in allowed_hosts))


@attrs.frozen(eq=False)
class _Gate:
    """Lets in only what names this server, and dates every answer by the sandbox's clock.

    The Host check stops web pages that let a name of theirs point to 127.0.0.1 (DNS rebinding).
    """

    app: ASGIApp
    sandbox: Sandbox
    hosts: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = format_datetime(utc_datetime(self.sandbox.clock()), usegmt=True)
                message["headers"] = [*message["headers"], (b"date", date.encode())]
            await send(message)

        app = self.app
        if scope["type"] == "http" and not self._is_named_by(Request(scope)):
            app = _error(403, "Internal", "this server is not known by that name (header Host)")
        await app(scope, receive, send_dated)

    def _is_named_by(self, request: Request) -> bool:
        match = _HOST.fullmatch(request.headers.get("host", ""))
        return match is not None and match[1].lower() in self.hosts


@attrs.frozen(eq=False)
class _Api:
    """The three requests of the specification, all at one address."""

    sandbox: Sandbox

    async def answer(self, request: Request) -> Response:
        if not self._is_authorized(request):
            return _error(
                401,
                "Internal",
                "the bearer token is missing or not accepted",
                headers={"WWW-Authenticate": "Bearer"},
            )
        try:
            if request.method == "POST":
                return self._send(await request.body())
            if request.query_params.get("type") == "Numbers":
                return self._list_numbers()
            return self._list_messages(request.query_params)
        except Refused as refusal:
            return _error(400, refusal.error_code, refusal.reason)

    def _is_authorized(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.sandbox.accepts(token.strip())

    def _send(self, body: bytes) -> Response:
        fields = _decode_message(body)
        message = self.sandbox.send(
            sender=fields["From"],
            recipient=fields["To"],
            text=fields["Text"],
            external_key=fields["ExternalKey"],
        )
        created_at = format_stamp(message.created_ticks, self.sandbox.zone, offset=True)
        return _ok({"Id": message.id, "CreatedAt": created_at})

    def _list_numbers(self) -> Response:
        numbers = [
            {"OperatorNumberId": number_id, "Number": number} for number, number_id in self.sandbox.numbers.items()
        ]
        return _ok({"ClientOperatorNumbers": numbers})

    def _list_messages(self, query: Mapping[str, str]) -> Response:
        kind = _TYPES.get(query.get("type", ""))
        if kind is None:
            raise Refused("Internal", "type must be Incoming, Outgoing, 1, 2 or Numbers")
        date_from = parse_date_from(query.get("dateFrom", ""))
        if date_from is None:
            raise Refused("Internal", "dateFrom must be yyyy-MM-dd HH:mm:ss.fffffff")
        zone, offset = self.sandbox.zone, self.sandbox.stamp_offsets == "all"
        changed = self.sandbox.changed_since(kind, date_from)
        return _ok({"Messages": [_encode_message(message, zone, offset=offset) for message in changed]})


@attrs.frozen(eq=False)
class _AzureAdRoutes:
    """The two addresses that MSAL asks."""

    sandbox: Sandbox

    async def discover(self, request: Request) -> Response:
        answer = self.sandbox.discover(request.path_params["tenant"], request.headers["host"])
        return JSONResponse(answer.body, answer.status)

    async def issue_token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode(errors="replace")))
        answer = self.sandbox.request_token(request.path_params["tenant"], form)
        return JSONResponse(answer.body, answer.status, {"Cache-Control": "no-store"})


def _decode_message(body: bytes) -> Mapping[str, Any]:
    """Read the five fields of a message to send, all of them there and nothing else.

    Raises:
        Refused: It is not that.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("Internal", "the body is not JSON") from None
    if not isinstance(fields, dict) or fields.keys() != _SENT_FIELDS.keys():
        raise Refused("Internal", f"the body must be an object of {', '.join(_SENT_FIELDS)}")
    for name, kind in _SENT_FIELDS.items():
        if type(fields[name]) is not kind:  # isinstance would take true for a number
            raise Refused("Internal", f"{name} must be {_JSON_NAMES[kind]}")
    return fields


def _encode_message(message: SandboxMessage, zone: ZoneInfo, *, offset: bool) -> dict[str, Any]:
    return {
        "Id": message.id,
        "From": message.sender,
        "To": message.recipient,
        "Type": message.type,
        "CreatedAt": format_stamp(message.created_ticks, zone, offset=offset),
        "UpdatedAt": format_stamp(message.updated_ticks, zone, offset=offset),
        "Text": message.text,
        "State": message.state,
        "ReplyToMessageId": message.reply_to_id,
    }


def _ok(data: Mapping[str, Any]) -> Response:
    return _envelope(200, data, "OK", None)


def _error(status: int, error_code: str, reason: str, *, headers: Mapping[str, str] | None = None) -> Response:
    return _envelope(status, None, error_code, reason, headers)


def _envelope(
    status: int,
    data: Mapping[str, Any] | None,
    error_code: str,
    error_message: str | None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    outcome = {
        "StatusCode": HTTPStatus(status).phrase,
        "ErrorCode": error_code,
        "ErrorMessage": error_message,
    }
    return JSONResponse({"Data": data, "Status": outcome}, status, headers)


async def _on_error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _error(error.status_code, "Internal", error.detail, headers=error.headers)
    # Starlette raises the error again, so that it is logged, and uvicorn then drops the connection.
    headers = {"Connection": "close"}
    return _error(500, "Internal", "the stand-in failed; its log says how", headers=headers)
