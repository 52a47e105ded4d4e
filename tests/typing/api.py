"""A user's program, for the type checkers alone: each public name is used as the README tells."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, assert_type

from sqlalchemy import Engine, MetaData
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.types import ASGIApp

import his_sms_async as his
from his_sms_async import pytest_plugin, sandbox, sql
from his_sms_async.sandbox import faults


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
    """Values."""
    message = his.OutgoingMessage(sender="1", recipient="2", text="Will you come?", external_key=1)
    assert_type(message.external_key, int)


def rule(reminder: sandbox.SandboxMessage) -> str | None:
    """What a patient answers."""
    return "Yes" if reminder.external_key else None


async def stand_in() -> None:
    """The stand-in for the SMS server."""
    answers: dict[str, sandbox.Answer] = {"*": sandbox.demo_answer, "37000000002": "Yes", "37000000003": rule}
    server = sandbox.Sandbox(
        token="token",
        timezone="Europe/Vilnius",
        stamp_offsets="all",
        numbers={"37000000001": 9},
        patients=answers,
        answer_after=2.0,
        magic_numbers=False,
        clock=sandbox.SandboxClock(),
        file=Path("messages.jsonl"),
        seed=[{"sender": "1", "recipient": "2", "text": "No"}],
        random_seed=1,
        tenant="",
        client_id="",
        client_secret="",
        scope="",
        token_lifetime=3600,
    )
    assert_type(server.app, ASGIApp)
    assert_type(server.messages, tuple[sandbox.SandboxMessage, ...])
    assert_type(server.sent, tuple[sandbox.SandboxMessage, ...])
    assert_type(server.received, tuple[sandbox.SandboxMessage, ...])
    assert_type(server.token_requests, int)
    assert_type(server.unexpected(), list[str])
    assert_type(server.wait_for(to="2", text="come", external_key=1, timeout=5.0), sandbox.SandboxMessage)
    assert_type(await server.arrival(to="2"), sandbox.SandboxMessage)
    assert_type(server.set_state(1, "Seen"), sandbox.SandboxMessage)
    assert_type(server.journal, sandbox.Journal)
    for exchange in server.journal:
        assert_type(exchange, sandbox.Exchange)
        assert_type(exchange.status, int | None)
        assert_type(exchange.as_curl("http://127.0.0.1:8025"), str)
    server.revoke_tokens()
    server.reset()

    patient = server.patient("37000000002")
    assert_type(patient, sandbox.Patient)
    patient.replies("Yes", after=2)
    patient.replies(rule)
    patient.receives("Enroute", "Delivered", after=60)
    patient.stays_silent()
    assert_type(patient.writes("I am late", to="1", reply_to=1), sandbox.SandboxMessage)

    clock = server.settable_clock
    assert_type(clock, sandbox.SandboxClock)
    clock.set(datetime.now(UTC))
    clock.advance(-60)
    clock.freeze()
    assert_type(clock.is_frozen, bool)
    clock.unfreeze()
    clock.reset()
    assert_type(clock(), int)

    for magic in sandbox.MAGIC_NUMBERS:
        assert_type(magic.delivery, sandbox.Delivery)
        assert_type(magic, sandbox.MagicNumber)
        assert_type(magic.fault, faults.Fault | None)

    with server.serve(host="127.0.0.1", port=0, tls=True, allowed_hosts=["sms.example"]) as running:
        assert_type(running, sandbox.RunningSandbox)
        assert_type((running.url, running.port), tuple[str, int])
        assert_type(running.ca_file, str | None)
        assert_type(running.aad_instance, str)
        assert_type(running.sandbox, sandbox.Sandbox)
        running.wait()


def errors_of_the_stand_in(error: Exception) -> str:
    """Each error of the stand-in."""
    match error:
        case sandbox.Refused(reason=reason):
            return reason
        case sandbox.NothingArrived():
            assert_type(error.args, tuple[Any, ...])
        case sandbox.UnusableFile():
            pass
    return ""


def what_goes_wrong(server: sandbox.Sandbox) -> None:
    """Each fault, with what it takes of its own and in common."""
    assert_type(server.faults, sandbox.Faults)
    status = faults.Status(
        503, retry_after=2, taken=True, times=2, every=3, probability=0.5, number="2", request="send"
    )
    assert_type(server.faults.add(status), sandbox.Switch | None)
    server.faults.add(sandbox.faults.Reset())
    for on in server.faults:
        assert_type(on, sandbox.Switch)
        assert_type((on.id, on.struck, on.left), tuple[int, int, int | None])
        server.faults.remove(on)
    instead: Sequence[faults.Fault] = [
        faults.ErrorEnvelope("InvalidClientNumber", taken=True),
        faults.HtmlPage(status=502),
        faults.EmptyAnswer(),
        faults.Garbage(),
        faults.Reset(taken=True),
        faults.Hang(),
        faults.RateLimit(requests=5, seconds=10),
        faults.Refuse(None),
    ]
    answers: Sequence[faults.Fault] = [
        faults.Latency(2.0),
        faults.CutBody(),
        faults.MissingStatus(),
        faults.NumericEnums(),
        faults.CamelCase(),
        faults.Gzip(),
    ]
    rows: Sequence[faults.Fault] = [
        faults.MalformedRow(),
        faults.UnknownState("Teleported"),
        faults.Nulls(),
        faults.Offsets("mixed"),
        faults.TrimmedZeros(),
        faults.Unsorted(),
        faults.Duplicates(),
        faults.StaleAnswer(60),
    ]
    new: Sequence[faults.Fault] = [
        faults.LateRows(60),
        faults.Ties(),
        faults.FutureStamp(86400),
        faults.SkewedNode(-40),
        faults.ExpiredTokens(),
    ]
    with server.faults.during(*instead, *answers, *rows, *new):
        server.faults.clear()
    happenings: Sequence[faults.Happening] = [
        faults.RevokedTokens(),
        faults.ClockStep(-3600),
        faults.AutumnNight(minutes=10),
        faults.BulkUpdate(state=None),
        faults.ArchiveJob(hours=48, state="Deleted"),
        faults.Backlog(1000),
    ]
    for happening in happenings:
        server.faults.add(happening)


def fixtures() -> None:
    """The fixtures for pytest; tests take them by their names."""
    taken: Sequence[object] = [
        pytest_plugin.sms_sandbox,
        pytest_plugin.sms_sandbox_url,
        pytest_plugin.sms_sandbox_server,
        pytest_plugin.sms_client,
    ]
    del taken
