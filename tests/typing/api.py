"""A user's program, for the type checkers alone: each public name is used as the README tells."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import assert_type

from sqlalchemy import Engine, MetaData
from sqlalchemy.ext.asyncio import AsyncSession

import his_sms_async as his
from his_sms_async import sandbox, sql


class Provider:
    """A token provider of one's own."""

    async def token(self, *, force: bool) -> str:
        return "fresh" if force else "kept"


async def client() -> None:
    """Authorization, sending and reading."""
    provider: his.TokenProvider = Provider()
    for auth in (
        his.BearerAuth("token"),
        his.TokenAuth(provider),
        his.MsalAuth(client_id="", client_secret="", scope="", tenant=None),
    ):
        async with his.SmsClient("https://SMSServer/", auth=auth, server_timezone="Europe/Vilnius") as sms:
            receipt = await sms.send(sender="1", recipient="2", text="Will you come?", external_key=1)
            assert_type(receipt, his.SendReceipt)
            assert_type(receipt.created_at, datetime)
            messages = await sms.list_messages(his.MessageType.OUTGOING, date_from=datetime.now(UTC))
            assert_type(messages, list[his.Message])
            numbers: Sequence[his.OperatorNumber] = await sms.list_numbers()
            assert_type(numbers[0].number, str)
    async with his.SmsClient.from_env(timeout=5.0) as sms:
        assert_type(sms, his.SmsClient)


async def poll(sms: his.SmsClient) -> None:
    """Three ways to consume."""
    store: his.Store = his.MemoryStore()
    poller = his.IncomingPoller(sms, start="now", store=store, on_malformed=print, max_attempts=3)
    async with poller as entered:
        assert_type(entered, his.IncomingPoller)
        async for message in poller:
            assert_type(message, his.Message)
            assert_type(message.state, his.MessageState | str)
            assert_type(message.revision, his.Revision)
            assert_type(message.reply_to_id, int | None)
        async for delivery in poller.deliveries(max_in_flight=4):
            assert_type(delivery, his.Delivery)
            assert_type(delivery.change, his.Change | None)
            async with delivery as message:
                assert_type(message, his.Message)
            await delivery.ack()
            await delivery.release(delay=1.0)
            await delivery.reject("no such appointment")
        health = poller.health()
        assert_type(health, his.PollerHealth)
        assert_type(health.last_ok_age, float | None)

        async def handle(message: his.Message) -> None:
            del message

        await poller.run(handle, concurrency=2)


async def keep(sms: his.SmsClient, engine: Engine, tx: AsyncSession) -> None:
    """The store in SQL."""
    store = sql.SqlStore(engine, prefix="sms_", schema=None, lease=30.0)
    any_store: his.Store = sql.SqlStore("sqlite:///replies.db")
    del any_store
    await store.create_tables()
    assert_type(store.metadata, MetaData)
    assert_type(store.ddl(), str)
    assert_type(await store.requeue("incoming", id=1), int)
    await store.adopt("incoming", sms)
    async with his.IncomingPoller(sms, start="now", store=store) as poller:
        async for delivery in poller.deliveries():
            await delivery.ack(tx)


def errors(error: his.SmsError) -> int | None:
    """Each error tells what to do."""
    match error:
        case his.SendOutcomeUnknown(external_key=key):
            return key
        case his.RateLimited(retry_after=seconds):
            assert_type(seconds, float | None)
        case his.InvalidMessageOwner() | his.InvalidClientNumber() | his.RequestRejected():
            assert_type(error.retryable, bool)
        case his.ConfigurationError() | his.AuthenticationError() | his.PermissionDenied():
            return error.http_status
        case his.ServerFailure() | his.ConnectionFailed() | his.ServerTimeout():
            assert_type(error.error_code, int | str | None)
        case his.ProtocolError(index=index, field=field):
            assert_type(field, str | None)
            return index
        case his.AlreadySettled() | his.LeaseLost() | his.PositionMismatch() | his.UnsupportedStoreFormat():
            pass
        case his.StoreError() | _:
            assert_type(his.ErrorCode(500), his.ErrorCode)
    return None


def values() -> None:
    """Values and the stand-in."""
    message = his.OutgoingMessage(sender="1", recipient="2", text="Will you come?", external_key=1)
    assert_type(message.external_key, int)
    assert_type(sandbox.Sandbox(), sandbox.Sandbox)
