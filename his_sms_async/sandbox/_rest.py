"""The REST API to the letter of the specification, and the fake Azure AD, each with what faults make of it.

A request is noted in the journal, then the faults are asked, then it is carried out, unless one of them answers.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import attrs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ._answers import Answer, Call, Envelope, error, ok, ok_messages
from ._azure_ad import AzureAdAnswer
from ._connections import Reply
from ._fault import fault_name
from ._journal import Exchange
from ._messages import MessageType, SandboxMessage
from ._stamps import format_stamp, parse_date_from
from ._state import Refused, Sandbox
from .faults import ExpiredTokens, Fault, Offsets

PAGE: Final = "/phone/"

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


@attrs.frozen(eq=False)
class Rest:
    """The three requests of the specification, all at one address, and the two that MSAL makes."""

    sandbox: Sandbox

    async def api(self, request: Request) -> ASGIApp:
        """Answer at ``/``; a browser that opens it is led to the page."""
        if request.method == "GET" and "type" not in request.query_params and _is_browser(request):
            return RedirectResponse(PAGE, 303)
        body = await request.body()
        if request.method == "POST":
            call = Call(request="send", numbers=_numbers_in(body))
        else:
            call = Call(request="numbers" if request.query_params.get("type") == "Numbers" else "list")
        return self._answer(request, body, call, lambda faults: self._carry_out(request, call, body, faults))

    async def discover(self, request: Request) -> ASGIApp:
        """Answer the OpenID discovery, which no fault strikes: they are for tokens."""
        answer = self.sandbox.discover(request.path_params["tenant"], request.headers["host"])
        return Reply(_token_answer(answer))

    async def issue_token(self, request: Request) -> ASGIApp:
        """Answer a token request."""
        body = await request.body()

        def carry_out(faults: Iterable[Fault]) -> Answer:
            form = dict(parse_qsl(body.decode(errors="replace")))
            expired = any(isinstance(fault, ExpiredTokens) for fault in faults)
            return _token_answer(self.sandbox.request_token(request.path_params["tenant"], form, expired=expired))

        return self._answer(request, body, Call(request="token"), carry_out)

    async def unknown(self, request: Request, problem: HTTPException) -> ASGIApp:
        """Answer what is no request of the specification: another address, another method."""
        exchange = self._note(request, b"")
        self.sandbox.journal.end(
            attrs.evolve(
                exchange, status=problem.status_code, outcome=problem.detail, seconds=0.0, is_understood=False
            )
        )
        return Reply(error(problem.status_code, "Internal", problem.detail, problem.headers).written())

    def _answer(
        self,
        request: Request,
        body: bytes,
        call: Call,
        carry_out: Callable[[Iterable[Fault]], Envelope | Answer],
    ) -> ASGIApp:
        began, asked = time.monotonic(), self._note(request, body)
        faults, end = self.sandbox.faults.strike(call), self.sandbox.journal.end
        struck = attrs.evolve(asked, faults=tuple(fault_name(type(fault)) for fault in faults))
        try:
            decided = _decide(call, faults, carry_out)
        except Exception:
            failure = "the stand-in failed; its log says how"
            end(attrs.evolve(struck, status=500, outcome=failure, seconds=time.monotonic() - began))
            raise
        answered = attrs.evolve(
            struck, status=decided.status, outcome=decided.outcome, is_understood=decided.is_understood
        )
        end(answered)  # before the answer goes out: a test that has it may look at once

        async def reply(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await Reply(decided.answer, sum(fault.delay for fault in faults))(scope, receive, send)
            finally:
                end(attrs.evolve(answered, seconds=time.monotonic() - began))

        return reply

    def _note(self, request: Request, body: bytes) -> Exchange:
        """Begin an entry of the journal."""
        query: bytes = request.scope["query_string"]
        return self.sandbox.journal.begin(
            at=self.sandbox.clock(),
            method=request.method,
            target=(request.scope["raw_path"] + b"?" * bool(query) + query).decode("latin-1"),
            headers=request.headers,
            body=body,
        )

    def _carry_out(self, request: Request, call: Call, body: bytes, faults: Iterable[Fault]) -> Envelope:
        if not self._is_authorized(request):
            return error(
                401, "Internal", "the bearer token is missing or not accepted", {"WWW-Authenticate": "Bearer"}
            )
        try:
            if call.request == "send":
                return self._send(body)
            if call.request == "numbers":
                return self._list_numbers()
            return self._list_messages(request.query_params, faults)
        except Refused as refusal:
            return error(400, refusal.error_code, refusal.reason)

    def _is_authorized(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.sandbox.accepts(token.strip())

    def _send(self, body: bytes) -> Envelope:
        fields = _decode_message(body)
        message = self.sandbox.send(
            sender=fields["From"],
            recipient=fields["To"],
            text=fields["Text"],
            external_key=fields["ExternalKey"],
        )
        created_at = format_stamp(message.created_ticks, self.sandbox.zone, offset=True)
        return ok({"Id": message.id, "CreatedAt": created_at})

    def _list_numbers(self) -> Envelope:
        numbers = [
            {"OperatorNumberId": number_id, "Number": number} for number, number_id in self.sandbox.numbers.items()
        ]
        return ok({"ClientOperatorNumbers": numbers})

    def _list_messages(self, query: Mapping[str, str], faults: Iterable[Fault]) -> Envelope:
        kind = _TYPES.get(query.get("type", ""))
        if kind is None:
            raise Refused("Internal", "type must be Incoming, Outgoing, 1, 2 or Numbers")
        date_from = parse_date_from(query.get("dateFrom", ""))
        if date_from is None:
            raise Refused("Internal", "dateFrom must be yyyy-MM-dd HH:mm:ss.fffffff")
        messages = self.sandbox.changed_since(kind, date_from, faults)
        for fault in faults:
            messages = fault.order(messages)
        offsets = Offsets(self.sandbox.stamp_offsets)
        for fault in faults:
            offsets = fault if isinstance(fault, Offsets) else offsets
        rows: Iterable[dict[str, Any]] = (
            _encode_message(message, self.sandbox.zone, offset=offsets.has_offset(index))
            for index, message in enumerate(messages)
        )
        for fault in faults:
            rows = fault.rows(rows)
        return ok_messages(rows)


@attrs.frozen(kw_only=True)
class _Decided:
    """What is answered, and what the journal says of it; `status` is None if no HTTP is answered."""

    answer: Answer
    status: int | None
    outcome: str
    is_understood: bool = True


def _decide(
    call: Call, faults: Iterable[Fault], carry_out: Callable[[Iterable[Fault]], Envelope | Answer]
) -> _Decided:
    """Carry a request out unless a fault prevents that, and let the faults change the answer."""
    instead = [(fault, answer) for fault in faults if (answer := fault.instead(call)) is not None]
    prevented = [answer for fault, answer in instead if not fault.is_after]
    replaced = [answer for fault, answer in instead if fault.is_after]
    answer = prevented[0] if prevented else carry_out(faults)
    is_understood = bool(prevented) or _status_of(answer) == 200
    if replaced and not prevented:
        answer = replaced[0]
    outcome = "" if is_understood else "the fake Azure AD refused it"
    if isinstance(answer, Envelope):
        outcome = (answer.status or {}).get("ErrorMessage") or ""
        for fault in faults:
            answer = fault.envelope(answer)
        answer = answer.written()
    for fault in faults:
        answer = fault.answer(answer)
    is_http = not answer.is_raw and answer.ending in ("complete", "cut")
    return _Decided(
        answer=answer, status=answer.status if is_http else None, outcome=outcome, is_understood=is_understood
    )


def _status_of(answer: Envelope | Answer) -> int:
    return answer.http_status if isinstance(answer, Envelope) else answer.status


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _numbers_in(body: bytes) -> frozenset[str]:
    """Return the numbers of a message to be sent, none if it is not one."""
    try:
        fields = _decode_message(body)
    except Refused:
        return frozenset()
    return frozenset((fields["From"], fields["To"]))


def _token_answer(answer: AzureAdAnswer) -> Answer:
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return Answer(status=answer.status, headers=headers, pieces=[json.dumps(answer.body).encode()])


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
    created = updated = format_stamp(message.created_ticks, zone, offset=offset)
    if message.updated_ticks != message.created_ticks:
        updated = format_stamp(message.updated_ticks, zone, offset=offset)
    return {
        "Id": message.id,
        "From": message.sender,
        "To": message.recipient,
        "Type": message.type,
        "CreatedAt": created,
        "UpdatedAt": updated,
        "Text": message.text,
        "State": message.state,
        "ReplyToMessageId": message.reply_to_id,
    }
