"""The loggers of others, kept from quoting what must not be shown."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# httpcore logs headers and, of a broken answer, its raw bytes; httpx the server's reason phrase; MSAL what
# Azure AD answered. Their records are dropped during our calls, and only then: a host that uses the same
# libraries itself loses nothing. `his_sms_async._http` logs method and status instead.
_NAMES = (
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
    "httpx",
    "msal.application",
    "msal.authority",
    "msal.oauth2cli.oauth2",
    "msal.oauth2cli.oidc",
    "msal.throttled_http_client",
    "msal.token_cache",
)

_is_quiet: ContextVar[bool] = ContextVar("his_sms_async.is_quiet", default=False)


def _is_wanted(_: logging.LogRecord) -> bool:
    return not _is_quiet.get()


for _name in _NAMES:
    logging.getLogger(_name).addFilter(_is_wanted)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop the records of httpx, httpcore and MSAL that this task or thread causes."""
    token = _is_quiet.set(True)
    try:
        yield
    finally:
        _is_quiet.reset(token)
