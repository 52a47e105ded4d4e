"""Nothing of ours blocks the event loop; that the tool would notice is shown too."""

from zoneinfo import ZoneInfo

import pytest
from blockbuster import BlockingError
from fakes import FakeServer

from his_sms_async import BearerAuth, ConfigurationError, IncomingPoller, MemoryStore, MsalAuth, SmsClient
from his_sms_async._settings import load_zone
from his_sms_async.sandbox import RunningSandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
def no_zone_in_memory() -> None:
    """The next use of a zone reads its file."""
    ZoneInfo.clear_cache()


@pytest.mark.usefixtures("no_zone_in_memory")
async def test_a_blocking_call_of_ours_would_be_found(anyio_backend: str) -> None:
    """On asyncio a file that our code reads on the loop fails the test."""
    if anyio_backend == "asyncio":
        with pytest.raises(BlockingError):
            load_zone("Europe/Riga")


@pytest.mark.usefixtures("no_zone_in_memory")
async def test_a_zone_by_name_is_read_in_a_thread() -> None:
    """Inside an event loop the constructor takes any name, and entering reads its file or refuses it."""
    async with SmsClient("https://sms.test/", auth=BearerAuth("token"), server_timezone="Europe/Riga") as client:
        assert client.server_timezone == ZoneInfo("Europe/Riga")
    with pytest.raises(ConfigurationError, match="server_timezone"):
        await SmsClient("https://sms.test/", auth=BearerAuth("token"), server_timezone="No/Where").__aenter__()


async def test_settings_are_read_without_the_zone_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """`from_env` inside an event loop leaves the zone to entering."""
    monkeypatch.setenv("HIS_SMS_BASE_ADDRESS", "https://sms.test/")
    monkeypatch.setenv("HIS_SMS_TOKEN", "token")
    monkeypatch.setenv("HIS_SMS_SERVER_TIMEZONE", "Europe/Riga")
    ZoneInfo.clear_cache()

    assert "closed" in repr(SmsClient.from_env())


@pytest.mark.sms_sandbox(tls=True, token=None)
async def test_sending_and_polling_with_msal_block_nothing(sms_sandbox_server: RunningSandbox) -> None:
    """TLS, Azure AD, a reminder and its reply, through real sockets."""
    server = sms_sandbox_server
    server.sandbox.patient("37000000002").replies("Yes")
    auth = MsalAuth(
        client_id="his",
        client_secret="sandbox-secret",
        scope="api://sandbox/.default",
        tenant="sandbox",
        aad_instance=server.aad_instance,
        verify=server.ca_file,
    )
    async with SmsClient(server.url, auth=auth, verify=server.ca_file, server_timezone="Europe/Vilnius") as client:
        receipt = await client.send(
            sender="37000000001", recipient="37000000002", text="Will you come?", external_key=1
        )
        async with IncomingPoller(client, start="everything", store=MemoryStore(), interval=0.05) as poller:
            message = await anext(aiter(poller))

    assert (message.text, message.reply_to_id) == ("Yes", receipt.id)


async def test_a_poller_can_be_entered_again() -> None:
    """One object, two lives: the second goes on where the first ended."""
    server = FakeServer()
    async with server.client() as client:
        poller = IncomingPoller(client, start="everything", store=MemoryStore())
        for _ in range(2):
            async with poller:
                assert poller.health().is_live
