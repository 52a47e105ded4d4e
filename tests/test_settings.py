"""Settings from the environment: each variable, each file, and all problems at once."""

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from fakes import VILNIUS, FakeServer

from his_sms_async import BearerAuth, ConfigurationError, MsalAuth, SmsClient
from his_sms_async._hidden import Hidden
from his_sms_async._settings import read_settings

BEARER = {"HIS_SMS_BASE_ADDRESS": "https://sms.test/", "HIS_SMS_TOKEN": "SomeToken"}
AZURE_AD = {
    "HIS_SMS_BASE_ADDRESS": "https://sms.test/",
    "HIS_SMS_AAD_INSTANCE": "https://login.test/{0}",
    "HIS_SMS_TENANT": "some-tenant",
    "HIS_SMS_CLIENT_ID": "some-client",
    "HIS_SMS_CLIENT_SECRET": "some-secret",
    "HIS_SMS_SCOPE": "api://sms/.default",
}

SetEnvironment = Callable[[dict[str, str]], None]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> SetEnvironment:
    """An environment without variables of ours, and what sets them."""
    for name in list(os.environ):
        if name.startswith("HIS_SMS_"):
            monkeypatch.delenv(name)

    def set_environment(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_environment


def settings_of(**overrides: Any) -> dict[str, Any]:
    """The arguments with which `SmsClient.from_env` makes a client of the environment, which is fine."""
    SmsClient.from_env(**overrides)
    settings, problems = read_settings(Hidden(overrides))
    assert problems == []
    return settings.reveal()


def bearer_of(auth: Any) -> str:
    """The Authorization header that is sent."""
    assert isinstance(auth, BearerAuth)
    return next(auth.auth_flow(httpx.Request("GET", "https://sms.test/"))).headers["Authorization"]


def azure_ad_of(auth: Any) -> dict[str, Any]:
    """What MSAL is told."""
    assert isinstance(auth, MsalAuth)
    provider: Any = auth._provider
    given = provider._azure_ad
    return {
        "authority": given.authority,
        "client_id": given.client_id,
        "client_secret": given.client_secret.reveal(),
        "scope": given.scope,
        "verify": given.verify,
    }


def problems(**overrides: Any) -> str:
    """What is wrong with the environment, in one text."""
    with pytest.raises(ConfigurationError) as caught:
        SmsClient.from_env(**overrides)
    assert_hidden(caught.value)
    return str(caught.value)


def assert_hidden(error: BaseException) -> None:
    """Check that no secret shows in an error, its causes, or the locals of their frames but for this test's."""
    seen: BaseException | None = error
    while seen is not None:
        shown = [str(seen), repr(seen)]
        for frame, _ in traceback.walk_tb(seen.__traceback__):
            if frame.f_globals["__name__"] != __name__:
                shown += [f"{name} = {value!r}" for name, value in frame.f_locals.items()]
        for text in shown:
            assert "secret" not in text.lower().replace("client_secret", "")
            assert "SomeToken" not in text
        seen = seen.__cause__ or seen.__context__


def as_files(variables: dict[str, str], directory: Path) -> Iterator[tuple[str, str]]:
    """The same variables, each in a file as a container platform mounts it."""
    for name, value in variables.items():
        path = directory / name
        path.write_text(f"{value}\r\n", encoding="utf-8-sig")
        yield f"{name}_FILE", str(path)


@pytest.mark.spec("2.0.1", "2.1.6", "2.2.1", "2.2.2", "2.2.3")
def test_a_bearer_token(environment: SetEnvironment) -> None:
    """An address and a token are enough."""
    environment(BEARER)
    client = SmsClient.from_env()
    assert client.base_url == "https://sms.test/"
    assert client.server_timezone is None
    settings = settings_of()
    assert bearer_of(settings["auth"]) == "Bearer SomeToken"
    assert settings["verify"] is None


@pytest.mark.spec("2.0.1", "2.1.1", "2.1.2", "2.1.3", "2.1.4", "2.1.5", "2.1.6")
def test_azure_ad(environment: SetEnvironment) -> None:
    """The specification's keys, with the tenant for `{0}`."""
    environment(AZURE_AD)
    assert azure_ad_of(settings_of()["auth"]) == {
        "authority": "https://login.test/some-tenant",
        "client_id": "some-client",
        "client_secret": "some-secret",
        "scope": "api://sms/.default",
        "verify": None,
    }


@pytest.mark.spec("2.1.2")
def test_the_specifications_aad_instance_is_the_default(environment: SetEnvironment) -> None:
    """Microsoft's public address needs not be set."""
    environment({name: value for name, value in AZURE_AD.items() if name != "HIS_SMS_AAD_INSTANCE"})
    assert azure_ad_of(settings_of()["auth"])["authority"] == "https://login.microsoftonline.com/some-tenant"


def test_no_tenant_is_needed_without_a_place_for_it(environment: SetEnvironment) -> None:
    """`{0}` in AADInstance is the tenant; without it there is none."""
    environment(AZURE_AD | {"HIS_SMS_AAD_INSTANCE": "https://login.test/adfs", "HIS_SMS_TENANT": ""})
    assert azure_ad_of(settings_of()["auth"])["authority"] == "https://login.test/adfs"


def test_zone_and_certificates(environment: SetEnvironment, tmp_path: Path) -> None:
    """The zone comes by its name; the CA file serves the SMS server and Azure AD alike."""
    ca_file = str(tmp_path / "ca.pem")
    environment(AZURE_AD | {"HIS_SMS_SERVER_TIMEZONE": "Europe/Vilnius", "HIS_SMS_CA_FILE": ca_file})
    assert SmsClient.from_env().server_timezone == ZoneInfo("Europe/Vilnius")
    settings = settings_of()
    assert settings["verify"] == ca_file
    assert azure_ad_of(settings["auth"])["verify"] == ca_file


@pytest.mark.parametrize("variables", [BEARER, AZURE_AD], ids=["bearer", "azure_ad"])
def test_each_variable_can_be_a_file(
    environment: SetEnvironment, tmp_path: Path, variables: dict[str, str]
) -> None:
    """A file's content is the value, without byte order mark and surrounding white space."""
    more = {"HIS_SMS_SERVER_TIMEZONE": "Europe/Vilnius", "HIS_SMS_CA_FILE": "/ca.pem"}
    environment(variables | more)
    direct = settings_of()
    environment(dict.fromkeys(variables | more, ""))
    environment(dict(as_files(variables | more, tmp_path)))
    settings = settings_of()
    assert {**settings, "auth": None} == {**direct, "auth": None}
    assert settings["base_url"] == "https://sms.test/"
    read = bearer_of if variables is BEARER else azure_ad_of
    assert read(settings["auth"]) == read(direct["auth"])


def test_overrides_win(environment: SetEnvironment) -> None:
    """An argument stands for its variable, which is not even looked up."""
    environment(BEARER | {"HIS_SMS_SERVER_TIMEZONE": "Nowhere", "HIS_SMS_CA_FILE_FILE": "/does/not/exist"})
    overrides: dict[str, Any] = {
        "base_url": "https://other.test/api",
        "server_timezone": VILNIUS,
        "verify": None,
        "auth": BearerAuth("other"),
        "timeout": 5.0,
    }
    assert settings_of(**overrides) == overrides
    client = SmsClient.from_env(**overrides)
    assert client.base_url == "https://other.test/api"
    assert client.server_timezone is VILNIUS


def test_auth_as_an_argument_needs_no_variables(environment: SetEnvironment) -> None:
    """Both kinds in the environment are no problem if neither is asked for."""
    environment(BEARER | AZURE_AD)
    assert bearer_of(settings_of(auth=BearerAuth("other"))["auth"]) == "Bearer other"


def test_an_empty_environment() -> None:
    """Both things that are missing are named at once."""
    text = problems()
    assert "HIS_SMS_BASE_ADDRESS is missing" in text
    assert "HIS_SMS_TOKEN is missing" in text
    assert "HIS_SMS_CLIENT_ID" in text


def test_empty_variables_count_as_missing(environment: SetEnvironment) -> None:
    """Compose files set variables to nothing."""
    environment(dict.fromkeys(BEARER | AZURE_AD, ""))
    text = problems()
    assert "HIS_SMS_BASE_ADDRESS is missing" in text
    assert "HIS_SMS_TOKEN is missing" in text


@pytest.mark.parametrize("name", [name for name in AZURE_AD if name != "HIS_SMS_BASE_ADDRESS"])
def test_both_kinds_of_authorization(environment: SetEnvironment, name: str) -> None:
    """A token beside any key of Azure AD is an error that names both."""
    environment(BEARER | {name: AZURE_AD[name]})
    text = problems()
    assert f"HIS_SMS_TOKEN and {name} are both set" in text


@pytest.mark.parametrize("name", ["HIS_SMS_CLIENT_ID", "HIS_SMS_CLIENT_SECRET", "HIS_SMS_SCOPE", "HIS_SMS_TENANT"])
def test_a_missing_key_of_azure_ad(environment: SetEnvironment, name: str) -> None:
    """Each is named by its variable."""
    environment(AZURE_AD | {name: ""})
    assert name in problems()


@pytest.mark.parametrize("aad_instance", ["", "https://login.test/{0}"])
def test_all_missing_keys_of_azure_ad(environment: SetEnvironment, aad_instance: str) -> None:
    """All that is missing is named at once, the tenant too if there is a place for it."""
    environment({"HIS_SMS_CLIENT_ID": "some-client", "HIS_SMS_AAD_INSTANCE": aad_instance})
    found = problems()
    for name in ("BASE_ADDRESS", "CLIENT_SECRET", "SCOPE", "TENANT"):
        assert f"HIS_SMS_{name}" in found


def test_all_wrong_values_at_once(environment: SetEnvironment) -> None:
    """Wrong values are named together with each other, and with what is missing."""
    environment({"HIS_SMS_BASE_ADDRESS": "http://sms.test/", "HIS_SMS_SERVER_TIMEZONE": "Europe/Nowhere"})
    found = problems()
    for name in ("BASE_ADDRESS", "SERVER_TIMEZONE", "TOKEN"):
        assert f"HIS_SMS_{name}" in found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HIS_SMS_BASE_ADDRESS", "http://sms.test/"),
        ("HIS_SMS_BASE_ADDRESS", "sms.test"),
        ("HIS_SMS_BASE_ADDRESS", "https://user:secret@sms.test/"),
        ("HIS_SMS_BASE_ADDRESS", "https://sms.test/?key=secret"),
        ("HIS_SMS_TOKEN", "my secret"),
        ("HIS_SMS_TOKEN", "secretą"),
        ("HIS_SMS_TOKEN", "secret\n"),
        ("HIS_SMS_SERVER_TIMEZONE", "Europe/Nowhere"),
        ("HIS_SMS_SERVER_TIMEZONE", "../UTC"),
    ],
)
def test_a_wrong_value(environment: SetEnvironment, name: str, value: str) -> None:
    """It is named by its variable, and not shown."""
    environment(BEARER | {name: value})
    text = problems()
    assert name in text
    assert value not in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HIS_SMS_AAD_INSTANCE", "http://login.test/{0}"),
        ("HIS_SMS_AAD_INSTANCE", "https://login.test"),
        ("HIS_SMS_CLIENT_ID", " "),
        ("HIS_SMS_CLIENT_SECRET", " "),
        ("HIS_SMS_SCOPE", " "),
    ],
)
def test_a_wrong_key_of_azure_ad(environment: SetEnvironment, name: str, value: str) -> None:
    """It is named by its variable."""
    environment(AZURE_AD | {name: value})
    assert name in problems()


ALL = [
    *AZURE_AD,
    "HIS_SMS_TOKEN",
    "HIS_SMS_SERVER_TIMEZONE",
    "HIS_SMS_CA_FILE",
]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "binary"])
def test_a_file_that_cannot_be_read(environment: SetEnvironment, tmp_path: Path, name: str, kind: str) -> None:
    """It is named by its variable; neither its path nor its content is shown."""
    path = tmp_path / "the-secret"
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b" \r\n" if kind == "empty" else b"\xff\xfe\x00secret")
    environment((BEARER if name == "HIS_SMS_TOKEN" else AZURE_AD) | {name: "", f"{name}_FILE": str(path)})
    assert f"{name}_FILE names a" in problems()


@pytest.mark.parametrize("name", ALL)
def test_a_variable_beside_its_file(environment: SetEnvironment, tmp_path: Path, name: str) -> None:
    """Nobody can know which of the two is meant."""
    path = tmp_path / "file"
    path.write_text("secret")
    variables = BEARER if name == "HIS_SMS_TOKEN" else AZURE_AD
    environment(variables | {name: variables.get(name, "some-value"), f"{name}_FILE": str(path)})
    assert f"{name} and {name}_FILE are both set" in problems()


def test_no_frame_shows_an_argument(environment: SetEnvironment) -> None:
    """A proxy's password shows neither when a variable is missing nor when something is wrong."""
    assert problems(proxy="http://user:secret@proxy.test")
    environment({"HIS_SMS_BASE_ADDRESS": "https://user:secret@sms.test/"})
    assert problems()
    environment(BEARER | {"HIS_SMS_SERVER_TIMEZONE": "Nowhere"})
    assert problems(proxy="http://user:secret@proxy.test")
    environment({"HIS_SMS_SERVER_TIMEZONE": "Europe/Vilnius"})
    assert problems(proxy="http://user:secret@proxy.test", timeout=0.0) == "timeout must be greater than 0"


@pytest.mark.parametrize("base_url", ["https://user:secret@sms.test/", "https://sms.test/?key=secret"])
def test_a_client_that_cannot_be_made_shows_nothing(base_url: str) -> None:
    """Half made, it can be shown by an error tracker, and hides its address."""
    with pytest.raises(ConfigurationError, match="HIS_SMS_BASE_ADDRESS") as caught:
        SmsClient(base_url, auth=BearerAuth("SomeToken"), proxy="http://user:secret@proxy.test")
    assert_hidden(caught.value)


@pytest.mark.spec("2.2.2", "2.2.3")
@pytest.mark.anyio
async def test_the_token_is_sent(environment: SetEnvironment) -> None:
    """A client from the environment authorizes its requests."""
    environment(BEARER)
    server = FakeServer()
    async with SmsClient.from_env(transport=httpx.MockTransport(server)) as client:
        await client.list_numbers()
    assert server.requests[0].headers["Authorization"] == "Bearer SomeToken"
