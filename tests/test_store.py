"""The contract of a poller's store, kept in memory, in SQLite and in PostgreSQL, with each kind of engine."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from databases import SQL_KINDS, Place, combinations, place as new_place
from fakes import FakeServer

from his_sms_async import ConfigurationError, PositionMismatch
from his_sms_async._store import Attempt, Delta, Marks, Outcome, Quarantined, Saved, Settlement

pytestmark = pytest.mark.anyio

NAME, SERVER = "incoming", "https://a/"
MARKS = Marks(start=1, low=5, caught_up=7, swept_at=9.0)
SETTLEMENT = Settlement(key=(1, 2, ""), created=3, updated=4, states=("Delivered",), by="me:1")
CHANGE = attrs.evolve(SETTLEMENT, key=(1, 2, "9 Seen"), updated=9, states=("Delivered", "Gesehen, 'ä'"))
REJECTED = attrs.evolve(SETTLEMENT, key=(2, 2, ""), outcome=Outcome.REJECTED, reason="neither yes nor no")
ATTEMPT = Attempt(key=(3, 2, ""), created=3, updated=6 * 10**17, number=1)
ROWS = (
    Quarantined(key="digest", created=None, updated=4, reason="Messages[0].Id is missing", asked_from=1),
    Quarantined(key=17, created=3, updated=None, reason="Text", asked_from=1, is_new=False),
)
ALL = Delta(marks=MARKS, settlements=(SETTLEMENT, CHANGE, REJECTED), attempts=(ATTEMPT,), quarantined=ROWS)


@pytest.fixture(params=combinations("memory", *SQL_KINDS))
def combination(request: pytest.FixtureRequest) -> Any:
    """A backend, and a kind of store that works on it."""
    return request.param


@pytest.fixture
def anyio_backend(combination: tuple[str, str]) -> str:
    """The backend."""
    return combination[0]


@pytest.fixture
async def place(
    combination: tuple[str, str], request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Place]:
    """An empty store of the kind."""
    async with new_place(combination[1], request, tmp_path) as made:
        yield made


async def opened(store: Any, name: str = NAME) -> Saved:
    """What a store holds when it is opened, as a poller that leads sees it."""
    saved = await store.open(name, SERVER)
    assert isinstance(saved, Saved)
    return saved


def facts(saved: Saved) -> tuple[Any, ...]:
    """What is stored, in an order that can be compared."""
    return (
        saved.marks,
        {one.key: one for one in saved.settlements},
        {one.key: one for one in saved.attempts},
        {one.key: one for one in saved.quarantine},
    )


async def stored(place: Place) -> tuple[Any, ...]:
    """What is there after a restart."""
    store = place.store()
    try:
        return facts(await opened(store))
    finally:
        await store.close(NAME)


async def test_what_was_saved_is_there_when_it_is_opened_again(place: Place) -> None:
    """All facts come back exactly; at first there is no position."""
    store = place.store()
    assert facts(await opened(store)) == (None, {}, {}, {})
    assert not await store.save(NAME, ALL)
    await store.close(NAME)

    assert await stored(place) == facts(
        Saved(marks=MARKS, settlements=ALL.settlements, attempts=ALL.attempts, quarantine=ROWS)
    )


async def test_saving_twice_does_no_harm(place: Place) -> None:
    """A write whose answer was lost is repeated; an attempt and a malformed row replace what was there."""
    store = place.store()
    await opened(store)
    again = attrs.evolve(ATTEMPT, number=2)
    for delta in (ALL, ALL, Delta(marks=MARKS, attempts=(again,), quarantined=ROWS)):
        assert not await store.save(NAME, delta)
    await store.close(NAME)

    _, settlements, attempts, quarantine = await stored(place)
    assert set(settlements) == {one.key for one in ALL.settlements}
    assert attempts == {again.key: again}
    assert set(quarantine) == {"digest", 17}


async def test_a_version_is_settled_once(place: Place) -> None:
    """Another's settlement stands: neither a settlement nor an attempt is written beside it, and both are told."""
    store = place.store()
    await opened(store)
    await store.save(NAME, ALL)
    other = attrs.evolve(SETTLEMENT, by="other:1", updated=8)
    late = attrs.evolve(ATTEMPT, key=CHANGE.key, number=3)

    assert await store.save(NAME, Delta(settlements=(other,), attempts=(late,))) == {
        SETTLEMENT.key: SETTLEMENT,
        CHANGE.key: CHANGE,
    }
    assert await store.settled(NAME, [SETTLEMENT.key, (1, 2, "other"), (9, 9, "")]) == {SETTLEMENT.key: SETTLEMENT}
    await store.close(NAME)
    _, settlements, attempts, _ = await stored(place)
    assert settlements[SETTLEMENT.key] == SETTLEMENT
    assert attempts == {ATTEMPT.key: ATTEMPT}


async def test_what_is_done_cured_or_forgotten_is_gone(place: Place) -> None:
    """Attempts end with a settlement, malformed rows are cured, and of a forgotten message all versions go."""
    store = place.store()
    await opened(store)
    await store.save(NAME, ALL)
    for _ in range(2):
        await store.save(
            NAME, Delta(marks=MARKS, forgotten=((1, 2),), done=(ATTEMPT.key,), cured=("digest", 17, "unknown"))
        )
    await store.close(NAME)

    assert await stored(place) == (MARKS, {REJECTED.key: REJECTED}, {}, {})


async def test_large_writes_are_whole(place: Place) -> None:
    """A first answer of thousands of rows is taken as seen in one write, and read back page by page."""
    many = tuple(attrs.evolve(SETTLEMENT, key=(number, number % 7, "")) for number in range(1234))
    store = place.store()
    await opened(store)
    await store.save(NAME, Delta(marks=MARKS, settlements=many))
    await store.save(NAME, Delta(marks=MARKS, forgotten=tuple(one.key[:2] for one in many[:600])))
    await store.close(NAME)

    assert set((await stored(place))[1]) == {one.key for one in many[600:]}


async def test_a_position_of_another_server_is_refused_until_it_is_adopted(place: Place) -> None:
    """The error names `adopt`, which is for a server that has moved."""
    store = place.store()
    await opened(store)
    await store.save(NAME, ALL)
    await store.close(NAME)
    client = FakeServer().client()
    with pytest.raises(PositionMismatch, match="adopt"):
        await store.open(NAME, client.base_url)

    with pytest.raises(ConfigurationError, match="no position named 'unknown'"):
        await store.adopt("unknown", client)
    await store.adopt(NAME, client)
    saved = await store.open(NAME, client.base_url)
    assert saved.marks == MARKS
    await store.close(NAME)


async def test_a_position_is_used_once_at_a_time(place: Place) -> None:
    """A second use of a name is refused with an error that names it; other names are others."""
    store = place.store()
    await opened(store)
    with pytest.raises(ConfigurationError, match="incoming"):
        await store.open(NAME, SERVER)
    assert (await opened(store, "Posteingang/1")).marks is None
    assert "incoming" in repr(store)
    await store.close("Posteingang/1")
    await store.close(NAME)


async def test_requeued_messages_are_told_until_they_are_handed_out(place: Place) -> None:
    """Only rejected messages can be requeued, by Id or all of them; then they can be settled again."""
    store = place.store()
    assert await store.requeue(NAME) == 0
    await opened(store)
    await store.save(NAME, ALL)
    assert await store.requeue(NAME, id=1) == 0
    assert await store.requeued(NAME) == ()
    assert await store.requeue(NAME, id=2) == 1
    assert await store.requeue(NAME) == 0
    (requeued,) = await store.requeued(NAME)
    assert requeued == Attempt(key=REJECTED.key, created=3, updated=4, number=0, requeued=True)

    # the rejection's own attempt has ended, which the store may be told only now
    await store.save(NAME, Delta(marks=MARKS, done=(REJECTED.key,)))
    assert await store.requeued(NAME) == (requeued,)
    handed_out = attrs.evolve(requeued, number=1)
    assert not await store.save(NAME, Delta(marks=MARKS, attempts=(handed_out,)))
    assert await store.requeued(NAME) == ()
    settled = attrs.evolve(REJECTED, outcome=Outcome.SETTLED, by="me:2", reason=None)
    assert not await store.save(NAME, Delta(settlements=(settled,), done=(settled.key,)))
    await store.close(NAME)
    assert (await stored(place))[1][settled.key] == settled
