"""The store in memory, by the contract that every store keeps."""

import attrs
import pytest
from fakes import FakeServer

from his_sms_async import ConfigurationError, MemoryStore, PositionMismatch
from his_sms_async._store import Delta, Marks, Quarantined, Record, Status

pytestmark = pytest.mark.anyio

MARKS = Marks(start=1, low=5, caught_up=7, swept_at=9.0)
RECORD = Record(identity=(1, 2), created=3, updated=4, states=("Delivered",), attempt=0, status=Status.SETTLED)
ROW = Quarantined(key="digest", created=None, updated=4, reason="Messages[0].Id is missing", asked_from=1)


async def test_what_was_saved_is_there_when_it_is_opened_again() -> None:
    """Marks, records and quarantine come back; records replace each other; saving twice does no harm."""
    store = MemoryStore()
    await store.create_tables()
    assert await store.open("incoming", "https://a/") is None
    changed = attrs.evolve(RECORD, attempt=2)
    for delta in (
        Delta(marks=MARKS, records=(RECORD,), quarantined=(ROW,)),
        Delta(records=(changed,)),
        Delta(records=(changed,)),
    ):
        await store.save("incoming", delta)
    await store.close("incoming")

    saved = await store.open("incoming", "https://a/")
    assert saved is not None
    assert (saved.marks, saved.records, saved.quarantine) == (MARKS, (changed,), (ROW,))


async def test_what_is_forgotten_is_gone() -> None:
    """Forgotten records and cured rows leave; what is not there cannot leave, and does not mind."""
    store = MemoryStore()
    await store.open("incoming", "https://a/")
    await store.save("incoming", Delta(marks=MARKS, records=(RECORD,), quarantined=(ROW,)))
    for _ in range(2):
        await store.save("incoming", Delta(forgotten=(RECORD.identity,), cured=(ROW.key,)))
    await store.close("incoming")

    saved = await store.open("incoming", "https://a/")
    assert saved is not None
    assert (saved.marks, saved.records, saved.quarantine) == (MARKS, (), ())


async def test_a_position_of_another_server_is_refused_until_it_is_adopted() -> None:
    """The error names `adopt`, which is for a server that has moved."""
    store = MemoryStore()
    await store.open("incoming", "https://old/")
    await store.close("incoming")
    client = FakeServer().client()
    with pytest.raises(PositionMismatch, match="adopt"):
        await store.open("incoming", client.base_url)

    await store.adopt("unknown", client)
    await store.adopt("incoming", client)
    await store.open("incoming", client.base_url)


async def test_a_position_is_used_once_at_a_time() -> None:
    """A second use of a name is refused with an error that names it."""
    store = MemoryStore()
    await store.open("incoming", "https://a/")
    with pytest.raises(ConfigurationError, match="incoming"):
        await store.open("incoming", "https://a/")
    assert repr(store) == "MemoryStore(_in_use={'incoming'})"


async def test_requeued_messages_are_told_until_they_are_handed_out() -> None:
    """Only rejected messages can be requeued, by Id or all of them."""
    store = MemoryStore()
    await store.open("incoming", "https://a/")
    rejected = attrs.evolve(RECORD, identity=(2, 2), status=Status.REJECTED, reason="why")
    await store.save("incoming", Delta(marks=MARKS, records=(RECORD, rejected)))
    assert await store.requeue("incoming", id=1) == 0
    assert await store.requeue("incoming") == 1
    (requeued,) = await store.requeued("incoming")
    assert (requeued.identity, requeued.status) == ((2, 2), Status.REQUEUED)

    await store.save("incoming", Delta(records=(attrs.evolve(requeued, attempt=1),)))
    assert await store.requeued("incoming") == ()
