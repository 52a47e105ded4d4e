"""Authorization (specification, section 2): bearer tokens, static or from Azure AD, as httpx auth hooks."""

import logging
import math
import re
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import Any, Protocol

import anyio
import anyio.to_thread
import attrs
import httpx

from ._errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectionFailed,
    ProtocolError,
    RateLimited,
    SmsError,
    again,
    bare,
    foreign,
)
from ._hidden import Hidden
from ._quiet import quiet
from ._tls import Verify, build_context, checked_proxy, is_loopback, is_untrusted

logger = logging.getLogger(__name__)


class TokenProvider(Protocol):
    """Where a `TokenAuth` gets its bearer tokens from; it keeps them as long as it sees fit."""

    async def token(self, *, force: bool) -> str:
        """Return a bearer token; with `force`, a fresh one, because the server refused the last."""
        ...


class BearerAuth(httpx.Auth):
    """A bearer token that does not change (specification, section 2.2)."""

    def __init__(self, token: str) -> None:
        self._token: Hidden[str] = Hidden(token)
        del token
        if not _is_token(self._token):
            msg = "token (HIS_SMS_TOKEN) must be a text of visible ASCII characters without spaces"
            raise ConfigurationError(msg)

    def __repr__(self) -> str:
        return "BearerAuth()"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the Authorization header."""
        _authorize(request, self._token)
        yield request


class TokenAuth(httpx.Auth):
    """Bearer tokens from a provider, which is asked before each request.

    After a 401 the provider is asked for a fresh token, once for all requests that met it, and a request is
    repeated once if that token differs: a 401 says that it was not taken.

    Args:
        provider: An object with `async def token(self, *, force: bool) -> str`. What it raises becomes an
            `AuthenticationError` that names its type alone; errors of this package pass as they are.
    """

    def __init__(self, provider: TokenProvider) -> None:
        self._provider = provider
        self._latest = Hidden("")
        self._renewing = anyio.Lock()
        self._renewals = 0
        self._failure: SmsError | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Refuse: tokens are fetched asynchronously."""
        msg = f"{type(self).__name__} works with httpx.AsyncClient only"
        raise RuntimeError(msg)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Add the Authorization header; after a 401, once more with a fresh token."""
        used = await self._obtain(force=False)
        _authorize(request, used)
        response = yield request
        if response.status_code != 401:
            return
        fresh = await self._renew(used)
        if fresh.reveal() != used.reveal():
            _authorize(request, fresh)
            yield request

    async def _renew(self, refused: Hidden[str]) -> Hidden[str]:
        """Have a fresh token, or the failure to get one, of one renewal for all that wait for it."""
        renewals = self._renewals
        async with self._renewing:
            if self._latest.reveal() != refused.reveal():
                return self._latest  # another request renewed it while this one was under way
            if renewals == self._renewals:  # nobody finished one while this one waited
                await self._force()
        if self._failure is not None:
            raise again(self._failure)
        return self._latest

    async def _force(self) -> None:
        self._failure = None
        try:
            await self._obtain(force=True)
        except SmsError as error:
            self._failure = error
        self._renewals += 1

    async def _obtain(self, *, force: bool) -> Hidden[str]:
        try:
            token = Hidden(await self._provider.token(force=force))
        except SmsError:
            raise
        except Exception as error:  # noqa: BLE001 - the provider is the user's: whatever fails, there is no token
            failure = AuthenticationError("the token provider failed")
            failure.__cause__ = foreign(error, message=False)
        else:
            if _is_token(token):
                self._latest = token
                return token
            failure = AuthenticationError("the token provider returned no text of visible ASCII characters")
        raise failure


class MsalAuth(TokenAuth):
    """Tokens from Azure AD through MSAL (specification, section 2.1), fetched in a worker thread.

    However many requests wait, one token request is under way; a token is renewed while the last one is
    still good, and that one is used as long as it is valid if the renewal fails.

    Args:
        client_id: The specification's ClientId.
        client_secret: The specification's ClientSecret.
        scope: The specification's Scope, like `api://…/.default`.
        tenant: What stands for `{0}` in `aad_instance`; needed only if that is there.
        aad_instance: The specification's AADInstance; must be https.
        timeout: Seconds for a token request, all in all.
        verify: An `ssl.SSLContext`, or a file with CA certificates to trust besides the system's, for a fake
            Azure AD or a proxy that looks into TLS.
        proxy: URL of a proxy to Azure AD; None for the environment's.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        *,
        client_id: str,
        client_secret: str,
        scope: str,
        tenant: str | None = None,
        aad_instance: str = "https://login.microsoftonline.com/{0}",
        timeout: float = 15.0,
        verify: Verify = None,
        proxy: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        secret, route, instance = Hidden(client_secret), Hidden(proxy), Hidden(aad_instance)
        del client_secret, proxy, aad_instance
        given: dict[str, Hidden[Any]] = {
            "client_id (HIS_SMS_CLIENT_ID)": Hidden(client_id),
            "client_secret (HIS_SMS_CLIENT_SECRET)": secret,
            "scope (HIS_SMS_SCOPE)": Hidden(scope),
            "aad_instance (HIS_SMS_AAD_INSTANCE)": instance,
        }
        if tenant is not None:
            given["tenant (HIS_SMS_TENANT)"] = Hidden(tenant)
        for name, value in given.items():
            if not isinstance(value.reveal(), str) or not value.reveal().strip():
                msg = f"{name} must be a text that is not empty"
                raise ConfigurationError(msg)
        if "{0}" in instance.reveal() and not tenant:
            msg = "tenant (HIS_SMS_TENANT) is needed, because aad_instance has {0} in it"
            raise ConfigurationError(msg)
        authority = Hidden(instance.reveal().replace("{0}", tenant or ""))
        if not re.fullmatch(r"https://[^/@\s]+/[^/\s][^\s]*", authority.reveal()):
            msg = "aad_instance (HIS_SMS_AAD_INSTANCE) must be an https address with a tenant in its path"
            raise ConfigurationError(msg)
        if not timeout > 0:
            msg = "timeout must be greater than 0 seconds"
            raise ConfigurationError(msg)
        azure_ad = _AzureAD(
            authority=authority.reveal(),
            client_id=client_id,
            client_secret=secret,
            scope=scope,
            timeout=timeout,
            verify=verify,
            proxy=checked_proxy(route),
        )
        super().__init__(_TokenCache(azure_ad, timeout=timeout, clock=clock))


@attrs.frozen
class _Token:
    value: str = attrs.field(repr=False)
    lifetime: float
    """Seconds."""
    refresh_in: float
    """Seconds after which it should be renewed."""


@attrs.define(eq=False)
class _TokenCache:
    """Keeps a token, and lets one flight at a time fetch the next."""

    _azure_ad: "_AzureAD"
    _timeout: float = attrs.field(kw_only=True, alias="timeout")
    _clock: Callable[[], float] = attrs.field(kw_only=True, alias="clock")
    _lock: anyio.Lock = attrs.field(init=False, factory=anyio.Lock)
    _held: _Token = attrs.field(init=False, default=_Token("", lifetime=0.0, refresh_in=0.0))
    _refresh_at: float = attrs.field(init=False, default=-math.inf)
    _expires_at: float = attrs.field(init=False, default=-math.inf)
    _flights: int = attrs.field(init=False, default=0)
    _failure: SmsError | None = attrs.field(init=False, default=None)

    async def token(self, *, force: bool) -> str:
        good_until = self._expires_at if self._lock.locked() else self._refresh_at
        if not force and self._clock() < good_until:
            return self._held.value
        flights = self._flights
        async with self._lock:
            if flights == self._flights:  # nobody finished one while this caller waited
                await self._fly()
        if self._failure is not None:
            self._fall_back(self._failure, force=force)
        return self._held.value

    async def _fly(self) -> None:
        """Fetch a token, or note why there is none; cancelled, it counts as never begun."""
        begun = self._clock()
        try:
            with anyio.fail_after(self._timeout):
                # a limiter of its own, so that a host whose threads are all busy cannot delay a token
                self._held = await anyio.to_thread.run_sync(
                    self._azure_ad.acquire, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
                )
        except TimeoutError:
            self._failure = ConnectionFailed(f"Azure AD did not give a token within {self._timeout:g} s")
        except SmsError as error:
            self._failure = error
        else:
            self._failure = None
            self._refresh_at = begun + self._held.refresh_in
            self._expires_at = begun + self._held.lifetime
        self._flights += 1

    def _fall_back(self, failure: SmsError, *, force: bool) -> None:
        """The renewal failed: go on with the token in hand while it is valid."""
        now = self._clock()
        if force or now >= self._expires_at:
            raise again(failure)
        logger.warning(
            "the token could not be renewed (%s); the last one is used while it is valid",
            type(failure).__name__,
        )
        self._refresh_at = now + _RENEWAL_PAUSE


# Seconds until a renewal that failed is tried again, while the last token is still good.
_RENEWAL_PAUSE = 30.0
# Seconds before its end at which a token is renewed, if Azure AD does not say; half its life at most.
_RENEWAL_MARGIN = 300.0


@attrs.define(eq=False, kw_only=True)
class _AzureAD:
    """MSAL, which blocks: built and called in a worker thread only."""

    authority: str
    client_id: str
    client_secret: Hidden[str]
    scope: str
    timeout: float
    verify: Verify
    proxy: Hidden[str | None]
    _application: Any = attrs.field(init=False, default=None)

    def acquire(self) -> _Token:
        """Fetch a fresh token, past MSAL's own cache.

        Raises:
            SmsError: There is none; whatever MSAL raised is kept as its type only.
        """
        try:
            with quiet():
                result = Hidden(self._ask())
        except SmsError as error:
            failure = bare(error)
        except Exception as error:  # noqa: BLE001 - MSAL raises ValueError, KeyError, AttributeError and its own
            failure = AuthenticationError(f"MSAL could not get a token from Azure AD; {_CHECK_ALL}")
            failure.__cause__ = foreign(error, message=False)
        else:
            return _read_token(result)
        raise failure

    def _ask(self) -> Any:
        from msal import ConfidentialClientApplication  # noqa: PLC0415 - takes 160 ms

        if self._application is None:
            self._application = ConfidentialClientApplication(
                self.client_id,
                client_credential=self.client_secret.reveal(),
                authority=self.authority,
                instance_discovery=False,  # would ask Microsoft about a hospital's own authority
                http_client=_HttpClient(self),
            )
        self._application.remove_tokens_for_client()
        return self._application.acquire_token_for_client(scopes=[self.scope])


class _HttpClient:
    """MSAL's way to the network: our TLS context, which no `REQUESTS_CA_BUNDLE` overrides, and a time limit.

    It judges answers before MSAL does, for MSAL logs an answer that is no JSON in full.
    """

    def __init__(self, azure_ad: _AzureAD) -> None:
        self._options: dict[str, Any] = {
            "verify": build_context(azure_ad.verify, public=True),
            "timeout": azure_ad.timeout,
            "proxy": azure_ad.proxy.reveal(),
            "trust_env": not is_loopback(httpx.URL(azure_ad.authority).host),
        }

    def get(self, url: str, **options: Any) -> httpx.Response:
        answer = self._judge("GET", url, options)
        if answer.status_code >= 400:
            raise _refused(Hidden(answer.json()))
        return answer

    def post(self, url: str, **options: Any) -> httpx.Response:
        return self._judge("POST", url, options)

    def close(self) -> None:
        """Nothing is left open: a connection an hour is not worth keeping."""

    def _judge(self, method: str, url: str, options: Mapping[str, Any]) -> httpx.Response:
        try:
            with httpx.Client(**self._options) as client:
                answer = client.request(method, url, **options)
        except httpx.TransportError as error:
            cause, untrusted = foreign(error, message=isinstance(error, httpx.ConnectError)), is_untrusted(error)
        else:
            _check(answer)
            return answer
        if untrusted:
            msg = "Azure AD's certificate is not trusted; give verify (HIS_SMS_CA_FILE) the CA that signed it"
            raise ConnectionFailed(msg, retryable=False) from cause
        msg = "Azure AD cannot be reached; check aad_instance (HIS_SMS_AAD_INSTANCE) and the proxy"
        raise ConnectionFailed(msg) from cause


def _check(answer: httpx.Response) -> None:
    """Let only what speaks OAuth pass."""
    status = answer.status_code
    if status == 429:
        after = answer.headers.get("retry-after", "")
        seconds = float(after) if after.isdecimal() else None
        raise RateLimited("Azure AD asks to slow down", http_status=status, retry_after=seconds)
    if status >= 500:
        raise ConnectionFailed(f"Azure AD failed (HTTP {status}), so there is no token", http_status=status)
    try:
        fine = isinstance(answer.json(), dict)
    except (ValueError, RecursionError):
        fine = False
    if not fine:
        msg = (
            f"Azure AD's answer (HTTP {status}) is not JSON; check aad_instance (HIS_SMS_AAD_INSTANCE), "
            "and whether a proxy or a login page stands in between"
        )
        raise ProtocolError(msg, http_status=status)


_CHECK_ALL = "check aad_instance, tenant, client_id, client_secret and scope (HIS_SMS_AAD_INSTANCE, …)"

# Azure AD's own codes (Microsoft Entra authentication and authorization error codes), and what they ask for.
_CURES = {
    "AADSTS7000215": "client_secret (HIS_SMS_CLIENT_SECRET) is wrong",
    "AADSTS7000222": "client_secret (HIS_SMS_CLIENT_SECRET) has expired",
    "AADSTS700016": "client_id (HIS_SMS_CLIENT_ID) is not known to this tenant",
    "AADSTS90002": "tenant (HIS_SMS_TENANT) does not exist",
    "AADSTS900023": "tenant (HIS_SMS_TENANT) is no tenant",
    "AADSTS70011": "scope (HIS_SMS_SCOPE) is not valid",
    "AADSTS1002012": "scope (HIS_SMS_SCOPE) must end in /.default",
    "AADSTS500011": "scope (HIS_SMS_SCOPE) names a resource that the tenant does not have",
}


def _read_token(result: Hidden[Any]) -> _Token:
    answer = result.reveal() if isinstance(result.reveal(), dict) else {}
    if "access_token" not in answer:
        raise _refused(result)
    if not _is_token(Hidden(answer["access_token"])):
        raise AuthenticationError("Azure AD gave a token that is no text of visible ASCII characters")
    lifetime = float(answer.get("expires_in", 0))
    ahead = lifetime - min(_RENEWAL_MARGIN, lifetime / 2)
    if "refresh_on" in answer:  # MSAL turns the answer's refresh_in into a time of day
        ahead = min(ahead, float(answer["refresh_on"]) - time.time())
    return _Token(answer["access_token"], lifetime, ahead)


def _refused(result: Hidden[Any]) -> AuthenticationError:
    """Azure AD's refusal, told by its codes: its descriptions may quote what was sent."""
    answer = result.reveal() if isinstance(result.reveal(), dict) else {}
    described = re.search(r"AADSTS\d{4,9}", str(answer.get("error_description", "")))
    code = described.group() if described else ""
    kind = re.fullmatch(r"[a-z_]{1,40}", str(answer.get("error", "")))
    names = ", ".join(name for name in (kind.group() if kind else "", code) if name) or "no reason given"
    return AuthenticationError(f"Azure AD refused to give a token ({names}): {_CURES.get(code, _CHECK_ALL)}")


def _authorize(request: httpx.Request, token: Hidden[str]) -> None:
    request.headers["Authorization"] = f"Bearer {token.reveal()}"


def _is_token(token: Hidden[Any]) -> bool:
    """Whether it can stand in a header (RFC 6750, 2.1): h11 would quote it in its complaint."""
    value = token.reveal()
    return isinstance(value, str) and bool(re.fullmatch(r"[!-~]+", value))
