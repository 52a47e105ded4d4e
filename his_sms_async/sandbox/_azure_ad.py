"""The Azure AD of the stand-in: what the client credentials flow needs, and the errors it meets.

MSAL insists on https for the authority and for the endpoints in the discovery document, so that document
names https whatever way the request came. The codes are those of
https://learn.microsoft.com/entra/identity-platform/reference-error-codes
"""

import hashlib
import hmac
import secrets
import uuid
from collections.abc import Mapping
from typing import Any

import attrs

from ._clock import TICKS_PER_SECOND, utc_datetime


@attrs.frozen
class AzureAdAnswer:
    """An HTTP status and the JSON that goes with it."""

    status: int
    body: Mapping[str, Any] = attrs.field(repr=False)


@attrs.frozen
class _Refusal:
    status: int
    error: str
    code: int  # of AADSTS
    reason: str

    def answer(self, now: int) -> AzureAdAnswer:
        timestamp = f"{utc_datetime(now):%Y-%m-%d %H:%M:%SZ}"
        trace_id, correlation_id = str(uuid.uuid4()), str(uuid.uuid4())
        body = {
            "error": self.error,
            "error_description": f"AADSTS{self.code}: {self.reason} Trace ID: {trace_id}"
            f" Correlation ID: {correlation_id} Timestamp: {timestamp}",
            "error_codes": [self.code],
            "timestamp": timestamp,
            "trace_id": trace_id,
            "correlation_id": correlation_id,
            "error_uri": f"https://login.microsoftonline.com/error?code={self.code}",
        }
        return AzureAdAnswer(self.status, body)


@attrs.define(eq=False, kw_only=True)
class AzureAd:
    """One tenant with one application in it, and the tokens issued to that.

    Not safe for threads by itself: `Sandbox` calls it under its lock. `now` is UTC ticks of 100 ns.
    """

    tenant: str
    client_id: str
    client_secret: str = attrs.field(repr=False)
    scope: str
    token_lifetime: int  # seconds
    requests: int = attrs.field(init=False, default=0)
    # Digest to expiry: how long a look-up by digest takes tells nothing about the token.
    _issued: dict[bytes, int] = attrs.field(init=False, factory=dict, repr=False)

    def discover(self, tenant: str, host: str, *, now: int) -> AzureAdAnswer:
        """Answer the OpenID discovery of `tenant`; `host` is the name, with port, it was asked under."""
        if tenant != self.tenant:
            return _unknown_tenant(tenant, "invalid_tenant").answer(now)
        authority = f"https://{host}/{tenant}"
        document = {
            "issuer": f"{authority}/v2.0",
            "authorization_endpoint": f"{authority}/oauth2/v2.0/authorize",
            "token_endpoint": f"{authority}/oauth2/v2.0/token",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            "response_types_supported": ["token"],
        }
        return AzureAdAnswer(200, document)

    def request_token(
        self, tenant: str, form: Mapping[str, str], *, now: int, expired: bool = False
    ) -> AzureAdAnswer:
        """Answer a token request; refused or not, it counts. An `expired` token is refused from the start."""
        self.requests += 1
        if refusal := self._refusal(tenant, form):
            return refusal.answer(now)
        token = secrets.token_urlsafe(48)
        self._issued[_digest(token)] = now + (0 if expired else self.token_lifetime * TICKS_PER_SECOND)
        body = {
            "token_type": "Bearer",
            "expires_in": self.token_lifetime,
            "ext_expires_in": self.token_lifetime,
            "access_token": token,
        }
        return AzureAdAnswer(200, body)

    def accepts(self, token: str, *, now: int) -> bool:
        """Return whether `token` was issued here, and is neither revoked nor expired."""
        return now < self._issued.get(_digest(token), 0)

    def revoke_tokens(self) -> None:
        """Accept no token that was issued so far."""
        self._issued.clear()

    def reset(self) -> None:
        """Forget all tokens and requests."""
        self._issued.clear()
        self.requests = 0

    def _refusal(self, tenant: str, form: Mapping[str, str]) -> _Refusal | None:
        if tenant != self.tenant:
            return _unknown_tenant(tenant, "invalid_request")
        for name in ("grant_type", "client_id", "scope"):
            if not form.get(name):
                reason = f"The request body must contain the following parameter: '{name}'."
                return _Refusal(400, "invalid_request", 900144, reason)
        grant, client_id, scope = form["grant_type"], form["client_id"], form["scope"]
        if grant != "client_credentials":
            reason = f"The app requested an unsupported grant type '{grant}'."
            return _Refusal(400, "unsupported_grant_type", 70003, reason)
        if client_id != self.client_id:
            reason = f"Application with identifier '{client_id}' was not found in the directory '{tenant}'."
            return _Refusal(400, "unauthorized_client", 700016, reason)
        secret = form.get("client_secret", "")
        if not secret:
            reason = "'client_assertion', 'client_secret' or 'request' is required for the '{grant}' grant type."
            return _Refusal(401, "invalid_client", 7000216, reason.format(grant=grant))
        if not hmac.compare_digest(secret.encode(), self.client_secret.encode()):
            reason = (
                "Invalid client secret provided. Ensure the secret being sent in the request is the client"
                f" secret value, not the client secret ID, for a secret added to app '{client_id}'."
            )
            return _Refusal(401, "invalid_client", 7000215, reason)
        if not scope.endswith("/.default"):
            reason = (
                f"The provided value for scope {scope} is not valid. Client credential flows must have a"
                " scope value with /.default suffixed to the resource identifier (application ID URI)."
            )
            return _Refusal(400, "invalid_scope", 1002012, reason)
        if scope != self.scope:
            reason = (
                f"The provided value for the input parameter 'scope' is not valid. The scope {scope} is not valid."
            )
            return _Refusal(400, "invalid_scope", 70011, reason)
        return None


def _unknown_tenant(tenant: str, error: str) -> _Refusal:
    reason = f"Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID."
    return _Refusal(400, error, 90002, reason)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
