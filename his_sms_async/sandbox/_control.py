"""The control API: what tests in other languages and the page do with a sandbox; JSON in, JSON out.

A good answer is HTTP 200; a wrong request is 400 with ``{"error": …}`` that says what to change, something that
does not exist 404. Instants are ISO 8601 in UTC, seconds are of the server's clock unless it says otherwise.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import anyio
import anyio.to_thread
import attrs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ._clock import SandboxClock, utc_datetime
from ._fault_json import fault_from, fault_to_json
from ._file import message_to_json
from ._journal import Exchange
from ._messages import check_unicode
from ._patients import key_of
from ._state import NothingArrived, Refused, Sandbox
from ._switchboard import Switch

CONTROL: Final = "/control"

_LONGEST_WAIT: Final = 60.0  # seconds


def control_routes(sandbox: Sandbox) -> list[Route]:
    """Return the routes below ``/control``."""
    control = _Control(sandbox)

    def route(path: str, method: str, act: Callable[[Request, Mapping[str, Any]], Any]) -> Route:
        return Route(path, partial(_answered, act), methods=[method], name=f"{method} {path}")

    return [
        route("/ready", "GET", control.ready),
        route("/messages", "GET", control.list_messages),
        route("/messages", "POST", control.write),
        Route("/messages/wait", partial(_waited, sandbox), methods=["GET"]),
        route("/messages/{id}", "POST", control.set_state),
        route("/patients/{number}", "POST", control.instruct),
        route("/faults", "GET", control.list_faults),
        route("/faults", "POST", control.add_fault),
        route("/faults", "DELETE", control.clear_faults),
        route("/faults/{id}", "DELETE", control.remove_fault),
        route("/clock", "GET", control.tell_time),
        route("/clock", "POST", control.set_clock),
        route("/journal", "GET", control.list_journal),
        route("/journal", "DELETE", control.clear_journal),
        route("/reset", "POST", control.reset),
    ]


def control_problem(problem: HTTPException) -> Response:
    """Answer a request to an address, or by a method, that the control API does not have."""
    return JSONResponse({"error": problem.detail}, problem.status_code, problem.headers)


async def _answered(act: Callable[[Request, Mapping[str, Any]], Any], request: Request) -> Response:
    """Do what was asked in a worker thread, for it may take long, and answer with what it returned."""
    try:
        fields = _fields(request, await request.body())
        return await anyio.to_thread.run_sync(lambda: JSONResponse(act(request, fields)), abandon_on_cancel=True)
    except Refused as refusal:
        return JSONResponse({"error": refusal.reason}, 400)
    except LookupError as missing:
        return JSONResponse({"error": str(missing)}, 404)
    except ValueError as wrong:
        return JSONResponse({"error": str(wrong)}, 400)


async def _waited(sandbox: Sandbox, request: Request) -> Response:
    """Wait until the hospital sends an SMS, at most ``timeout`` real seconds; 404 lists what did arrive.

    A client that hangs up waits no more: what arrives then is for its next attempt.
    """
    query, key = request.query_params, request.query_params.get("external_key")
    try:
        timeout = _number(query.get("timeout", "5"))
        external_key = None if key is None else _integer(key)
    except ValueError as wrong:
        return JSONResponse({"error": str(wrong)}, 400)
    answer = Response()  # to nobody
    async with anyio.create_task_group() as tasks:

        async def end_with_client() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(end_with_client)
        try:
            message = await sandbox.arrival(
                to=query.get("to"),
                text=query.get("text"),
                external_key=external_key,
                timeout=min(timeout, _LONGEST_WAIT),
            )
            answer = JSONResponse(message_to_json(message))
        except NothingArrived as nothing:
            answer = JSONResponse({"error": str(nothing)}, 404)
        tasks.cancel_scope.cancel()
    return answer


def _fields(request: Request, body: bytes) -> Mapping[str, Any]:
    """Return the JSON object of a request, an empty one if it has no body.

    Raises:
        ValueError: It is something else, or is not said to be JSON: then a browser would let any page send it.
    """
    if not body:
        return {}
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ValueError("the Content-Type must be application/json")
    try:
        fields = json.loads(body, parse_float=_finite, parse_constant=_finite)
        text = json.dumps(fields, ensure_ascii=False)
    except (ValueError, RecursionError):
        raise ValueError("the body is not JSON") from None
    check_unicode(text, "the body")
    if not isinstance(fields, dict):
        raise ValueError("the body must be an object")  # noqa: TRY004 -- it is the caller's value
    return fields


def _finite(text: str) -> float:
    """Read a number of JSON, which knows neither NaN nor Infinity, though Python reads them."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("it is infinite, or no number")
    return number


@attrs.frozen(eq=False)
class _Control:
    """What each route does; `fields` is the JSON of the request."""

    sandbox: Sandbox

    def ready(self, request: Request, fields: Mapping[str, Any]) -> Any:
        """Answer as soon as the server does."""
        return {"status": "ready"}

    def list_messages(self, request: Request, fields: Mapping[str, Any]) -> Any:
        """List all messages, or those from and to `number`, oldest first; fit to be a seed."""
        number = request.query_params.get("number")
        key = None if number is None else key_of(number.strip())  # a plus that was not escaped is a space
        return [
            message_to_json(message)
            for message in self.sandbox.messages
            if key in (None, key_of(message.sender), key_of(message.recipient))
        ]

    def write(self, request: Request, fields: Mapping[str, Any]) -> Any:
        """Write an SMS as the patient ``from``."""
        _check(fields, {"from": str, "text": str}, {"to": str, "reply_to": int})
        patient = self.sandbox.patient(fields["from"])
        return message_to_json(
            patient.writes(fields["text"], to=fields.get("to"), reply_to=fields.get("reply_to"))
        )

    def set_state(self, request: Request, fields: Mapping[str, Any]) -> Any:
        """Give a message another state."""
        _check(fields, {"state": str}, {})
        return message_to_json(self.sandbox.set_state(_id(request), fields["state"]))

    def instruct(self, request: Request, fields: Mapping[str, Any]) -> Any:
        """Tell a patient what to do: answer ``replies`` after so many seconds, be ``silent``, ``receive`` as."""
        _check(fields, {}, {"replies": str, "after": float, "silent": bool, "receives": list})
        states = fields.get("receives", ["Delivered"])
        if not all(isinstance(state, str) for state in states):
            raise ValueError("receives must be a list of states")
        if fields.get("silent") and "replies" in fields:
            raise ValueError("a patient either replies or is silent")
        patient, after = self.sandbox.patient(request.path_params["number"]), fields.get("after", 0.0)
        if "receives" in fields:
            patient.receives(*states, after=after)
        if "replies" in fields:
            patient.replies(fields["replies"], after=after)
        if fields.get("silent"):
            patient.stays_silent()
        return {}

    def list_faults(self, request: Request, fields: Mapping[str, Any]) -> Any:
        """List the faults that are switched on."""
        return [_switch(switch) for switch in self.sandbox.faults]

    def add_fault(self, request: Request, fields: Mapping[str, Any]) -> Any:
        """Switch a fault on, or let something happen; the id is null then."""
        switch = self.sandbox.faults.add(fault_from(fields))
        return {"id": None if switch is None else switch.id}

    def clear_faults(self, request: Request, fields: Mapping[str, Any]) -> Any:
        """Switch all faults off."""
        self.sandbox.faults.clear()
        return {}

    def remove_fault(self, request: Request, fields: Mapping[str, Any]) -> Any:
        """Switch a fault off."""
        self.sandbox.faults.remove(_id(request))
        return {}

    def tell_time(self, request: Request, fields: Mapping[str, Any]) -> Any:
        """Tell the server's time."""
        return _time(self.sandbox)

    def set_clock(self, request: Request, fields: Mapping[str, Any]) -> Any:
        """``reset`` the clock, ``freeze`` it or not, ``set`` it to an instant, ``advance`` it, in this order."""
        _check(fields, {}, {"set": str, "advance": float, "freeze": bool, "reset": bool})
        clock, instant = self.sandbox.settable_clock, _instant(fields["set"]) if "set" in fields else None
        if fields.get("reset"):
            clock.reset()
        if "freeze" in fields:
            (clock.freeze if fields["freeze"] else clock.unfreeze)()
        if instant is not None:
            clock.set(instant)
        if "advance" in fields:
            clock.advance(fields["advance"])
        self.sandbox.changes.tell()
        return _time(self.sandbox)

    def list_journal(self, request: Request, fields: Mapping[str, Any]) -> Any:
        """List the last requests, oldest first."""
        return [_exchange(exchange) for exchange in self.sandbox.journal]

    def clear_journal(self, request: Request, fields: Mapping[str, Any]) -> Any:
        """Forget the requests."""
        self.sandbox.journal.clear()
        return {}

    def reset(self, request: Request, fields: Mapping[str, Any]) -> Any:
        """Be as new, which empties the file too."""
        self.sandbox.reset()
        return {}


def _check(fields: Mapping[str, Any], needed: Mapping[str, type], optional: Mapping[str, type]) -> None:
    kinds = {**needed, **optional}
    names = {str: "a text", int: "an integer", float: "a number", bool: "true or false", list: "a list"}
    for name, value in fields.items():
        if name not in kinds:
            raise ValueError(f"there is no {name!r} here, but {', '.join(kinds)}")
        kind = kinds[name]
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"{name} must be {names[kind]}")
    for name in needed:
        if name not in fields:
            raise ValueError(f"{name} is missing")


def _number(text: str) -> float:
    try:
        return _finite(text)
    except ValueError:
        raise ValueError("timeout must be a number") from None


def _integer(text: str) -> int:
    if not re.fullmatch("-?[0-9]{1,18}", text):
        raise ValueError("external_key must be an integer")
    return int(text)


def _id(request: Request) -> int:
    """Return the number in a path; Starlette's own reading fails for one of thousands of digits."""
    text = request.path_params["id"]
    if not re.fullmatch("[0-9]{1,18}", text):
        raise LookupError("there is no such address")
    return int(text)


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("set must be an instant like 2026-10-25T00:50:00Z") from None
    if instant.tzinfo is None:
        raise ValueError("set must have an offset from UTC, like 2026-10-25T00:50:00Z")
    return instant


def _time(sandbox: Sandbox) -> Mapping[str, Any]:
    clock = sandbox.clock
    is_frozen = isinstance(clock, SandboxClock) and clock.is_frozen
    return {"now": _iso(clock()), "timezone": sandbox.timezone, "is_frozen": is_frozen}


def _switch(switch: Switch) -> Mapping[str, Any]:
    return {"id": switch.id, "struck": switch.struck, "left": switch.left, **fault_to_json(switch.fault)}


def _exchange(exchange: Exchange) -> Mapping[str, Any]:
    return attrs.asdict(exchange) | {"at": _iso(exchange.at)}


def _iso(ticks: int) -> str:
    return utc_datetime(ticks).astimezone(UTC).isoformat().replace("+00:00", "Z")
