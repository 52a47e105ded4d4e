"""The stand-in's Azure AD, as the real MSAL sees it and on the wire."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import msal
import pytest
import requests

from his_sms_async.sandbox import RunningSandbox, Sandbox, SandboxClock

SCOPE = "api://sandbox/.default"
FORM = {
    "grant_type": "client_credentials",
    "client_id": "his",
    "client_secret": "sandbox-secret",
    "scope": SCOPE,
}
TOKEN_PATH = "/sandbox/oauth2/v2.0/token"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningSandbox]:
    """Serve a sandbox by https, with a clock that the tests move."""
    with Sandbox(clock=SandboxClock()).serve(tls=True) as server:
        yield server


@pytest.fixture
def clock(server: RunningSandbox) -> SandboxClock:
    """Return the sandbox's clock, at the real time."""
    clock = server.sandbox.clock
    assert isinstance(clock, SandboxClock)
    clock.reset()
    return clock


@pytest.fixture
def sandbox(server: RunningSandbox, clock: SandboxClock) -> Sandbox:
    """Return the sandbox that is served, as new."""
    server.sandbox.reset()
    return server.sandbox


@pytest.fixture
def session(server: RunningSandbox) -> Iterator[requests.Session]:
    """Return what MSAL speaks through: trusts the sandbox's CA, whatever the environment says."""
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(server.ca_file)
        yield session


def application(
    server: RunningSandbox,
    session: requests.Session,
    *,
    tenant: str = "sandbox",
    client_id: str = "his",
    client_secret: str = "sandbox-secret",
) -> msal.ConfidentialClientApplication:
    """Return MSAL's application as the specification configures it."""
    return msal.ConfidentialClientApplication(
        client_id,
        client_credential=client_secret,
        authority=server.aad_instance.format(tenant),
        instance_discovery=False,
        http_client=session,
    )


def list_numbers(server: RunningSandbox, session: requests.Session, token: str) -> int:
    """Return the HTTP status that the API answers to that token."""
    headers = {"Authorization": f"Bearer {token}"}
    return session.get(f"{server.url}/?type=Numbers", headers=headers, timeout=10).status_code


def test_msal_gets_a_token_that_the_api_accepts(
    server: RunningSandbox, sandbox: Sandbox, session: requests.Session
) -> None:
    """MSAL finds the endpoints, gets a token for an hour, and keeps it: the second call asks nobody."""
    app = application(server, session)
    first = app.acquire_token_for_client([SCOPE])
    again = app.acquire_token_for_client([SCOPE])
    assert (first["token_type"], first["expires_in"]) == ("Bearer", 3600)
    assert again["access_token"] == first["access_token"]
    assert sandbox.token_requests == 1
    assert list_numbers(server, session, first["access_token"]) == 200


def test_each_request_issues_another_token(
    server: RunningSandbox, sandbox: Sandbox, session: requests.Session
) -> None:
    """Two clients have tokens of their own, both good."""
    tokens = {application(server, session).acquire_token_for_client([SCOPE])["access_token"] for _ in range(2)}
    assert len(tokens) == sandbox.token_requests == 2
    assert {list_numbers(server, session, token) for token in tokens} == {200}


def test_token_is_good_until_it_expires(
    server: RunningSandbox, sandbox: Sandbox, clock: SandboxClock, session: requests.Session
) -> None:
    """The API accepts a token for its lifetime by the sandbox's clock, and not at its end."""
    clock.freeze()
    token = application(server, session).acquire_token_for_client([SCOPE])["access_token"]
    clock.advance(3599.9999999)
    assert list_numbers(server, session, token) == 200
    clock.advance(0.0000001)
    assert list_numbers(server, session, token) == 401


def test_lifetime_can_be_chosen(session: requests.Session) -> None:
    """`token_lifetime` is what the token answer says."""
    sandbox = Sandbox(token_lifetime=301)
    with sandbox.serve(tls=True) as server:
        session.verify = str(server.ca_file)
        answer = application(server, session).acquire_token_for_client([SCOPE])
    assert answer["expires_in"] == 301


def test_revoked_tokens_are_refused_and_new_ones_are_good(
    server: RunningSandbox, sandbox: Sandbox, session: requests.Session
) -> None:
    """`revoke_tokens` makes the API answer 401 to what was issued so far, the static token excepted."""
    old = application(server, session).acquire_token_for_client([SCOPE])["access_token"]
    sandbox.revoke_tokens()
    assert list_numbers(server, session, old) == 401
    assert list_numbers(server, session, "sandbox-token") == 200
    new = application(server, session).acquire_token_for_client([SCOPE])["access_token"]
    assert list_numbers(server, session, new) == 200


def test_credentials_can_be_chosen(session: requests.Session) -> None:
    """Tenant, application, secret and scope are options, and only the chosen ones are good."""
    sandbox = Sandbox(tenant="ward", client_id="app", client_secret="hush", scope="api://ward/.default")
    with sandbox.serve(tls=True) as server:
        session.verify = str(server.ca_file)
        app = application(server, session, tenant="ward", client_id="app", client_secret="hush")
        assert "access_token" in app.acquire_token_for_client(["api://ward/.default"])
        assert "access_token" not in app.acquire_token_for_client([SCOPE])


@pytest.mark.parametrize(
    ("wrong", "scope", "error", "code"),
    [
        ({"client_secret": "wrong"}, SCOPE, "invalid_client", 7000215),
        ({"client_secret": ""}, SCOPE, "invalid_client", 7000216),
        ({"client_id": "other"}, SCOPE, "unauthorized_client", 700016),
        ({}, "api://other/.default", "invalid_scope", 70011),
        ({}, "api://sandbox/read", "invalid_scope", 1002012),
    ],
)
def test_msal_passes_on_what_is_wrong(
    server: RunningSandbox,
    sandbox: Sandbox,
    session: requests.Session,
    wrong: dict[str, str],
    scope: str,
    error: str,
    code: int,
) -> None:
    """MSAL returns the refusal as Azure AD words it; the request counts."""
    answer = application(server, session, **wrong).acquire_token_for_client([scope])
    assert answer["error"] == error
    assert answer["error_codes"] == [code]
    assert answer["error_description"].startswith(f"AADSTS{code}: ")
    assert sandbox.token_requests == 1


def test_msal_does_not_start_with_an_unknown_tenant(
    server: RunningSandbox, sandbox: Sandbox, session: requests.Session
) -> None:
    """Discovery of another tenant fails already in MSAL's constructor."""
    with pytest.raises(ValueError, match="Unable to get authority configuration"):
        application(server, session, tenant="other")
    assert sandbox.token_requests == 0


# On the wire, by plain http, where MSAL would not go


@pytest.fixture(scope="module")
def plain() -> Iterator[httpx.Client]:
    """Serve a sandbox by http whose clock stands at noon, and return a client of it."""
    clock = SandboxClock()
    clock.freeze()
    clock.set(datetime(2019, 11, 12, 12, tzinfo=UTC))
    with (
        Sandbox(clock=clock).serve() as server,
        httpx.Client(base_url=server.url, trust_env=False) as client,
    ):
        yield client


def test_discovery_names_https_endpoints_under_the_name_it_was_asked(plain: httpx.Client) -> None:
    """MSAL refuses http, so the endpoints are https also behind something else that ends TLS."""
    response = plain.get("/sandbox/v2.0/.well-known/openid-configuration", headers={"Host": "localhost:8443"})
    assert response.status_code == 200
    document = response.json()
    assert document["issuer"] == "https://localhost:8443/sandbox/v2.0"
    assert document["authorization_endpoint"] == "https://localhost:8443/sandbox/oauth2/v2.0/authorize"
    assert document["token_endpoint"] == "https://localhost:8443/sandbox/oauth2/v2.0/token"


def test_token_answer_has_what_azure_ad_answers(plain: httpx.Client) -> None:
    """Type, two lifetimes and the token, not to be cached."""
    response = plain.post(TOKEN_PATH, data=FORM)
    assert response.status_code == 200
    answer = response.json()
    token = answer.pop("access_token")
    assert answer == {"token_type": "Bearer", "expires_in": 3600, "ext_expires_in": 3600}
    assert len(token) >= 43
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "form", "status", "error", "code"),
    [
        ("/other/oauth2/v2.0/token", {}, 400, "invalid_request", 90002),
        (TOKEN_PATH, {"grant_type": ""}, 400, "invalid_request", 900144),
        (TOKEN_PATH, {"client_id": ""}, 400, "invalid_request", 900144),
        (TOKEN_PATH, {"scope": ""}, 400, "invalid_request", 900144),
        (TOKEN_PATH, {"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
        (TOKEN_PATH, {"client_id": "other"}, 400, "unauthorized_client", 700016),
        (TOKEN_PATH, {"client_secret": ""}, 401, "invalid_client", 7000216),
        (TOKEN_PATH, {"client_secret": "wrong"}, 401, "invalid_client", 7000215),
        (TOKEN_PATH, {"client_secret": "ą"}, 401, "invalid_client", 7000215),
        (TOKEN_PATH, {"scope": "api://sandbox"}, 400, "invalid_scope", 1002012),
        (TOKEN_PATH, {"scope": f"{SCOPE} {SCOPE}"}, 400, "invalid_scope", 70011),
    ],
)
def test_refusal_has_status_and_form_of_azure_ad(
    plain: httpx.Client, path: str, form: dict[str, str], status: int, error: str, code: int
) -> None:
    """A refusal is JSON with error, description, codes, time and ids, and never repeats the secret."""
    response = plain.post(path, data=FORM | form)
    assert response.status_code == status
    assert_error(response.json(), error, code)
    assert "wrong" not in response.text
    assert "sandbox-secret" not in response.text


def test_discovery_of_another_tenant_is_refused(plain: httpx.Client) -> None:
    """There is one tenant; discovery calls any other invalid."""
    response = plain.get("/other/v2.0/.well-known/openid-configuration")
    assert response.status_code == 400
    assert_error(response.json(), "invalid_tenant", 90002)


def assert_error(answer: dict[str, Any], error: str, code: int) -> None:
    """Check every field of an error answer of Azure AD."""
    assert set(answer) == {
        "error",
        "error_description",
        "error_codes",
        "timestamp",
        "trace_id",
        "correlation_id",
        "error_uri",
    }
    assert (answer["error"], answer["error_codes"]) == (error, [code])
    assert answer["error_description"].startswith(f"AADSTS{code}: ")
    assert answer["trace_id"] in answer["error_description"]
    assert answer["timestamp"] == "2019-11-12 12:00:00Z"
    assert answer["error_uri"].endswith(f"code={code}")


def test_bytes_that_are_no_text_are_no_crash(plain: httpx.Client) -> None:
    """A form that is not UTF-8 is refused like any that lacks its fields."""
    response = plain.post(TOKEN_PATH, content=b"grant_type=\xff&=&&%ff")
    assert response.json()["error_codes"] == [900144]


def test_token_endpoint_takes_no_get(plain: httpx.Client) -> None:
    """Secrets do not belong into an address."""
    assert plain.get(TOKEN_PATH, params=FORM).status_code == 405
