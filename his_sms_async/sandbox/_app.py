"""The stand-in as an ASGI application: the REST API, the fake Azure AD, the control API and the page."""

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from ._answers import error
from ._connections import Reply
from ._control import CONTROL, control_problem, control_routes
from ._gate import LOOPBACK_HOSTS, Gate
from ._page import page_routes
from ._rest import PAGE, Rest
from ._state import Sandbox


def create_app(sandbox: Sandbox, *, allowed_hosts: Iterable[str] = ()) -> ASGIApp:
    """Return the ASGI application of `sandbox`; it answers to loopback names and `allowed_hosts`."""
    rest = Rest(sandbox)

    async def on_problem(request: Request, problem: HTTPException) -> ASGIApp:
        path = request.url.path
        if path.startswith(f"{CONTROL}/"):
            return control_problem(problem)
        if path.startswith(PAGE):  # a browser asks for much, and a test does not want to know
            return PlainTextResponse(problem.detail, problem.status_code, problem.headers)
        return await rest.unknown(request, problem)

    handlers: Mapping[Any, Any] = {  # Starlette knows their answers as `Response` only, and calls any application
        HTTPException: on_problem,
        ClientDisconnect: _on_error,  # nobody hears the answer, but it is no bug to be logged
        Exception: _on_error,
    }
    app = Starlette(
        routes=[
            Route("/", rest.api, methods=["GET", "POST"]),
            Route("/{tenant}/v2.0/.well-known/openid-configuration", rest.discover),
            Route("/{tenant}/oauth2/v2.0/token", rest.issue_token, methods=["POST"]),
            Mount(CONTROL, routes=control_routes(sandbox)),
            Mount(PAGE.rstrip("/"), routes=page_routes(sandbox)),
        ],
        exception_handlers=handlers,
    )
    return Gate(app, sandbox, LOOPBACK_HOSTS.union(name.lower() for name in allowed_hosts))


async def _on_error(request: Request, failure: Exception) -> ASGIApp:
    # Starlette raises the error again, so that it is logged, and uvicorn then drops the connection.
    headers = {"Connection": "close"}
    return Reply(error(500, "Internal", "the stand-in failed; its log says how", headers).written())
