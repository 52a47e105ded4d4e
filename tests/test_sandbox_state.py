"""The stand-in's memory and rules, without a server."""

import asyncio
import gc
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfoNotFoundError

import anyio
import attrs
import pytest
from waiting import until, waits

from his_sms_async.sandbox import (
    NothingArrived,
    Patient,
    Refused,
    Sandbox,
    SandboxClock,
    SandboxMessage,
    demo_answer,
)
from his_sms_async.sandbox._clock import ticks_of
from his_sms_async.sandbox.faults import FutureStamp, LateRows, StaleAnswer

HOSPITAL = "37000000001"
PATIENT = "37000000002"
OTHER = "37000000003"
SECOND = 10_000_000


def remind(sandbox: Sandbox, recipient: str = PATIENT, sender: str = HOSPITAL) -> SandboxMessage:
    """Send the reminder of the specification."""
    return sandbox.send(sender=sender, recipient=recipient, text="Will You come?", external_key=27342)


def test_sent_message_is_remembered_as_delivered() -> None:
    """A message from the hospital gets an Id, distinct stamps, and is Delivered at once."""
    sandbox = Sandbox()
    message = remind(sandbox)
    assert sandbox.messages == sandbox.sent == (message,)
    assert sandbox.received == ()
    assert (message.id, message.type, message.state) == (1, "Outgoing", "Delivered")
    assert (message.sender, message.recipient) == (HOSPITAL, PATIENT)
    assert (message.text, message.external_key, message.reply_to_id) == ("Will You come?", 27342, None)
    assert message.created_ticks < message.updated_ticks


def test_patient_writes_to_the_hospital() -> None:
    """A received message is Incoming, with the reminder it answers if there is one."""
    sandbox = Sandbox()
    reminder = remind(sandbox)
    reply = sandbox.receive(sender=PATIENT, recipient=HOSPITAL, text="Yes", reply_to=reminder.id)
    unprompted = sandbox.receive(sender=PATIENT, recipient=HOSPITAL, text="Hello")
    assert sandbox.received == (reply, unprompted)
    assert {(message.patient, message.hospital) for message in sandbox.messages} == {(PATIENT, HOSPITAL)}
    assert (reply.type, reply.reply_to_id, reply.external_key) == ("Incoming", reminder.id, None)
    assert unprompted.reply_to_id is None
    assert [message.id for message in sandbox.messages] == [1, 2, 3]


@pytest.mark.parametrize("sender", ["37000000002", "+37000000001", "", "RSL_OTHER"])
def test_foreign_owner_is_refused(sender: str) -> None:
    """Only the hospital's own numbers and names send, and only to them patients write."""
    sandbox = Sandbox()
    with pytest.raises(Refused, match="not one of the hospital's numbers") as caught:
        remind(sandbox, sender=sender)
    assert caught.value.error_code == "InvalidMessageOwner"
    with pytest.raises(Refused) as caught:
        sandbox.receive(sender=PATIENT, recipient=sender, text="Yes")
    assert caught.value.error_code == "InvalidMessageOwner"
    assert sandbox.messages == ()


@pytest.mark.parametrize(
    "number", ["", "123456", "1234567890123456", "3700000000a", "37000 000002", "+", "٣٧٠٠٠٠٠٠٠٠٢"]
)
def test_what_is_no_phone_number_is_refused(number: str) -> None:
    """A phone number is 7 to 15 digits; the refusal does not repeat what it was instead."""
    sandbox = Sandbox()
    with pytest.raises(Refused) as caught:
        remind(sandbox, recipient=number)
    assert caught.value.error_code == "InvalidClientNumber"
    assert caught.value.reason == "To is not a phone number"
    with pytest.raises(Refused) as caught:
        sandbox.receive(sender=number, recipient=HOSPITAL, text="Yes")
    assert caught.value.error_code == "InvalidClientNumber"


@pytest.mark.parametrize("number", ["1234567", "123456789012345", "+37000000002"])
def test_phone_number_may_have_a_plus(number: str) -> None:
    """7 and 15 digits are the bounds, and a plus may stand before them."""
    assert remind(Sandbox(), recipient=number).recipient == number


def test_text_that_no_encoding_can_write_is_refused() -> None:
    """Half a surrogate pair would break every later answer that lists it."""
    with pytest.raises(Refused, match="surrogate") as caught:
        Sandbox().receive(sender=PATIENT, recipient=HOSPITAL, text="Yes \ud83d")
    assert caught.value.error_code == "Internal"


def test_change_of_state_moves_the_change_date_only() -> None:
    """`set_state` gives a new value with a later UpdatedAt; any word is taken."""
    sandbox = Sandbox()
    before = remind(sandbox)
    after = sandbox.set_state(before.id, "Teleported")
    assert sandbox.messages == (after,)
    assert after.state == "Teleported"
    assert after.created_ticks == before.created_ticks
    assert after.updated_ticks > before.updated_ticks
    assert before.state == "Delivered"


def test_state_that_no_encoding_can_write_is_refused() -> None:
    """It would break every later answer that lists it."""
    sandbox = Sandbox()
    message = remind(sandbox)
    with pytest.raises(ValueError, match="surrogate"):
        sandbox.set_state(message.id, "\ud83d")
    with pytest.raises(ValueError, match="surrogate"):
        sandbox.change_many(lambda _: True, state="\ud83d")
    assert sandbox.messages == (message,)


def test_state_of_an_unknown_message_cannot_be_changed() -> None:
    """A wrong Id is an error that names it."""
    with pytest.raises(LookupError, match="there is no message 7"):
        Sandbox().set_state(7, "Seen")


def test_all_stamps_are_distinct() -> None:
    """With the clock untouched no two stamps fall on one tick."""
    sandbox = Sandbox(patients={"*": "Yes"})
    for _ in range(100):
        remind(sandbox)
    stamps = [stamp for m in sandbox.messages for stamp in (m.created_ticks, m.updated_ticks)]
    assert len(set(stamps)) == len(stamps) == 400


def test_clock_can_be_any_callable() -> None:
    """Stamps are what `clock` returns, so a test makes ties at will."""
    message = remind(Sandbox(clock=lambda: 42))
    assert (message.created_ticks, message.updated_ticks) == (42, 42)


def test_changes_are_listed_inclusively_and_sorted_by_change_date() -> None:
    """`changed_since` compares UpdatedAt in wall clock ticks, not less than, and orders ties by Id."""
    now = iter([*(tick for tick in (50, 30, 30, 70) for _ in range(3)), *[100] * 9])
    sandbox = Sandbox(timezone="UTC", clock=lambda: next(now), magic_numbers=False)
    for _ in range(4):
        sandbox.receive(sender=PATIENT, recipient=HOSPITAL, text="Yes")
    assert [m.id for m in sandbox.changed_since("Incoming", 0)] == [2, 3, 1, 4]
    assert [m.id for m in sandbox.changed_since("Incoming", 50)] == [1, 4]
    assert [m.id for m in sandbox.changed_since("Incoming", 51)] == [4]
    assert sandbox.changed_since("Incoming", 71) == sandbox.changed_since("Outgoing", 0) == []


def test_autumn_hour_is_compared_and_sorted_by_the_wall_clock() -> None:
    """A server without offsets puts a change of the second 03:10 before one of the first 03:50."""
    clock = SandboxClock()
    sandbox = Sandbox(clock=clock)
    clock.set(datetime(2019, 10, 27, 0, 50, tzinfo=UTC))
    first = sandbox.receive(sender=PATIENT, recipient=HOSPITAL, text="Yes")
    clock.set(datetime(2019, 10, 27, 1, 10, tzinfo=UTC))
    second = sandbox.receive(sender=PATIENT, recipient=HOSPITAL, text="No")
    half_past_three = ticks_of(datetime(2019, 10, 27, 3, 30, tzinfo=UTC))
    assert [m.id for m in sandbox.changed_since("Incoming", 0)] == [second.id, first.id]
    assert [m.id for m in sandbox.changed_since("Incoming", half_past_three)] == [first.id]


def test_patient_answers_every_reminder() -> None:
    """A scripted answer comes at once, from the reminded number to the one that reminded, as its reply."""
    sandbox = Sandbox()
    sandbox.patient(PATIENT).replies("Yes")
    reminders = [remind(sandbox), remind(sandbox, sender="37000000000")]
    remind(sandbox, recipient="37000000003")
    assert [(m.sender, m.recipient, m.text, m.reply_to_id) for m in sandbox.received] == [
        (PATIENT, reminders[0].sender, "Yes", reminders[0].id),
        (PATIENT, reminders[1].sender, "Yes", reminders[1].id),
    ]


def test_patient_is_the_same_with_and_without_plus() -> None:
    """A script for a number also answers reminders to that number with a plus, in the form they had."""
    sandbox = Sandbox()
    sandbox.patient(PATIENT).replies("Yes")
    remind(sandbox, recipient=f"+{PATIENT}")
    assert sandbox.received[0].sender == f"+{PATIENT}"
    assert sandbox.patient(f"+{PATIENT}") is sandbox.patient(PATIENT)


def test_answer_can_take_its_time() -> None:
    """A delayed answer is there when the clock has come to it, stamped with the time it was due."""
    clock = SandboxClock()
    clock.freeze()
    sandbox = Sandbox(clock=clock)
    sandbox.patient(PATIENT).replies("Yes", after=60)
    reminder = remind(sandbox)
    clock.advance(59.9999999)
    assert not sandbox.received
    clock.advance(3600)
    (answer,) = sandbox.received
    assert answer.created_ticks == answer.updated_ticks == reminder.updated_ticks + 60 * SECOND


def test_answers_that_are_due_come_before_what_happens_next() -> None:
    """Ids follow the order in which things happened, also if nobody looked in between."""
    clock = SandboxClock()
    sandbox = Sandbox(clock=clock)
    sandbox.patient(PATIENT).replies("late", after=20)
    sandbox.patient("37000000003").replies("soon", after=10)
    remind(sandbox)
    remind(sandbox, recipient="37000000003")
    clock.advance(60)
    sandbox.receive(sender=PATIENT, recipient=HOSPITAL, text="last")
    assert [message.text for message in sandbox.received] == ["soon", "late", "last"]
    created = [message.created_ticks for message in sandbox.messages]
    assert created == sorted(created)


def test_answer_can_be_a_rule() -> None:
    """A rule sees the reminder and returns a text, or None for no answer."""
    sandbox = Sandbox()
    sandbox.patient(PATIENT).replies(lambda reminder: f"{reminder.text} {reminder.external_key}")
    sandbox.patient("37000000003").replies(lambda reminder: None)
    remind(sandbox)
    remind(sandbox, recipient="37000000003")
    assert [message.text for message in sandbox.received] == ["Will You come? 27342"]


def test_everyone_else_answers_unless_a_patient_has_own_orders() -> None:
    """The script of ``*`` holds for all that were told nothing, and not for one that stays silent."""
    sandbox = Sandbox(patients={"*": "No", "37000000003": "Yes"})
    sandbox.patient("37000000004").stays_silent()
    sandbox.patient("37000000005")
    for last_digit in (2, 3, 4, 5):
        remind(sandbox, recipient=f"3700000000{last_digit}")
    assert [(m.sender[-1], m.text) for m in sandbox.received] == [("2", "No"), ("3", "Yes"), ("5", "No")]


def test_last_reminder_that_waits_is_answered_once() -> None:
    """A patient told to reply answers the last reminder if that has no answer, and no earlier one."""
    sandbox = Sandbox()
    remind(sandbox)
    last = remind(sandbox)
    remind(sandbox, recipient=OTHER)
    patient = sandbox.patient(PATIENT)
    for text in ("Yes", "No"):
        patient.replies(text)
    assert [(m.text, m.reply_to_id) for m in sandbox.received] == [("Yes", last.id)]
    remind(sandbox)
    assert [m.text for m in sandbox.received] == ["Yes", "No"]


def test_answer_on_its_way_is_an_answer() -> None:
    """While a delayed answer waits for its time, another order does not make a second one."""
    clock = frozen_clock()
    sandbox = Sandbox(clock=clock)
    remind(sandbox)
    sandbox.patient(PATIENT).replies("Yes", after=60)
    sandbox.patient(PATIENT).replies("No")
    assert not sandbox.received
    clock.advance(60)
    assert [m.text for m in sandbox.received] == ["Yes"]


def test_answer_to_a_reminder_that_waits_takes_its_time_from_now() -> None:
    """What was sent an hour ago is not answered in the past."""
    clock = frozen_clock()
    sandbox = Sandbox(clock=clock)
    remind(sandbox)
    clock.advance(3600)
    now = clock()
    sandbox.patient(PATIENT).replies("Yes", after=5)
    clock.advance(10)
    assert [m.created_ticks for m in sandbox.received] == [now + 5 * SECOND]


def test_reminder_that_was_answered_by_hand_does_not_wait() -> None:
    """An SMS that a patient wrote as its reply is an answer; an unprompted one is none."""
    sandbox = Sandbox()
    patient = sandbox.patient(PATIENT)
    reminder = remind(sandbox)
    patient.writes("Who is that?")
    patient.writes("Yes", reply_to=reminder.id)
    patient.replies("No")
    assert [m.text for m in sandbox.received] == ["Who is that?", "Yes"]


def test_patient_writes_to_whom_it_should() -> None:
    """By default to the hospital's first phone number, or to that of the message replied to."""
    sandbox = Sandbox(numbers={"WARD": 1, HOSPITAL: 2, "37000000000": 3})
    reminder = remind(sandbox, sender="37000000000")
    patient = sandbox.patient(PATIENT)
    assert patient.writes("Hello").recipient == HOSPITAL
    assert patient.writes("Yes", reply_to=reminder.id).recipient == "37000000000"
    assert patient.writes("Hello", to="37000000000").sender == PATIENT
    with pytest.raises(LookupError, match="there is no message 99"):
        patient.writes("Yes", reply_to=99)
    with pytest.raises(Refused):
        patient.writes("Yes", to=OTHER)


def test_nobody_can_write_to_a_hospital_without_a_phone() -> None:
    """With sender names only there is no number to write to."""
    sandbox = Sandbox(numbers={"WARD": 1})
    with pytest.raises(Refused, match="only names"):
        sandbox.patient(PATIENT).writes("Hello")
    with pytest.raises(Refused, match="only names"):
        sandbox.pile_up(1)


def test_message_goes_through_its_states() -> None:
    """The first state is there at once, each other at the exact tick that it is due, whoever looks when."""
    clock = frozen_clock()
    sandbox = Sandbox(clock=clock)
    sandbox.patient(PATIENT).receives("Accepted", "Enroute", "Delivered", after=60)
    reminder = remind(sandbox)
    assert reminder.state == "Accepted"
    clock.advance(59.9999999)
    assert sandbox.sent == (reminder,)
    clock.advance(0.0000001)
    assert (sandbox.sent[0].state, sandbox.sent[0].updated_ticks) == (
        "Enroute",
        reminder.updated_ticks + 60 * SECOND,
    )
    clock.advance(1000)
    assert sandbox.sent[0].state == "Delivered"
    assert sandbox.sent[0].updated_ticks == reminder.updated_ticks + 120 * SECOND
    assert sandbox.sent[0].created_ticks == reminder.created_ticks
    assert sandbox.next_due is None


def test_next_event_is_known() -> None:
    """`next_due` is the seconds to go, 0 when something is due and nobody has looked, and asking does nothing."""
    clock = frozen_clock()
    sandbox = Sandbox(clock=clock)
    assert sandbox.next_due is None
    sandbox.patient(PATIENT).replies("Yes", after=60)
    remind(sandbox)
    clock.advance(15)
    assert sandbox.next_due == 45
    clock.advance(100)
    assert sandbox.next_due == 0
    assert len(sandbox.messages) == 2
    assert sandbox.next_due is None


@pytest.mark.parametrize("state", ["Undeliverable", "Rejected", "Expired", "Deleted", "Unsent"])
def test_patient_that_gets_no_sms_does_not_answer(state: str) -> None:
    """Neither a reminder that will not be delivered, nor one that waits and was not."""
    clock = frozen_clock()
    sandbox = Sandbox(clock=clock, patients={PATIENT: "Yes"})
    patient = sandbox.patient(PATIENT)
    patient.receives("Enroute", state, after=60)
    remind(sandbox)
    patient.replies("Yes")
    clock.advance(60)
    patient.replies("Yes")
    assert sandbox.sent[0].state == state
    assert sandbox.received == ()


def test_everyone_elses_states_hold_for_who_has_none() -> None:
    """`receives` of ``*`` is for all that were told nothing of the kind."""
    sandbox = Sandbox()
    sandbox.patient("*").receives("Unknown")
    sandbox.patient(OTHER).receives("Seen")
    sandbox.patient(PATIENT).replies("Yes")
    assert [remind(sandbox, recipient=number).state for number in (PATIENT, OTHER)] == ["Unknown", "Seen"]


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), 1e10])
def test_delay_that_never_ends_is_refused(after: float) -> None:
    """Seconds are at least 0, and decades at most."""
    patient = Sandbox().patient(PATIENT)
    with pytest.raises(ValueError, match="after must be a number of seconds from 0 to 1000000000"):
        patient.replies("Yes", after=after)
    with pytest.raises(ValueError, match="after must be a number of seconds"):
        patient.receives("Enroute", "Delivered", after=after)


def test_order_that_cannot_be_carried_out_is_refused() -> None:
    """No state at all, or texts that no encoding can write."""
    patient = Sandbox().patient(PATIENT)
    with pytest.raises(ValueError, match="at least one state"):
        patient.receives()
    with pytest.raises(ValueError, match="surrogate"):
        patient.receives("Delivered", "\ud83d")
    with pytest.raises(ValueError, match="surrogate"):
        patient.replies("\ud83d")


def test_rule_that_answers_nonsense_is_a_bug_of_the_rule() -> None:
    """A ValueError tells it; the reminder has been taken."""
    sandbox = Sandbox(patients={PATIENT: lambda reminder: "\ud83d"})
    with pytest.raises(ValueError, match="surrogate"):
        remind(sandbox)
    assert len(sandbox.sent) == 1


def test_rule_that_fails_is_told_of_as_a_change() -> None:
    """Who listens hears of the reminder that was taken, though the call failed."""

    def rule(reminder: SandboxMessage) -> str:
        raise RuntimeError("a bug")

    sandbox = Sandbox(patients={PATIENT: rule})
    before = sandbox.changes.count
    with pytest.raises(RuntimeError, match="a bug"):
        remind(sandbox)
    assert sandbox.changes.count > before


def test_rules_are_told_and_asking_changes_nothing() -> None:
    """`rules` tells states, answer and delay; a number asked about is not named by that."""
    sandbox = Sandbox(patients={PATIENT: "Yes"}, answer_after=2)
    sandbox.patient(OTHER).receives("Seen")
    delivery, answer, after = sandbox.rules(PATIENT)
    assert (tuple(delivery.states), answer, after) == (("Delivered",), "Yes", 2 * SECOND)
    delivery, answer, after = sandbox.rules(f"+{OTHER}")
    assert (tuple(delivery.states), answer, after) == (("Seen",), None, 0)
    sandbox.rules("37000000004")
    remind(sandbox, recipient="37000000004")
    assert len(sandbox.unexpected()) == 1


# A clock that steps


def frozen_clock() -> SandboxClock:
    """Return a clock that moves only when it is told to."""
    clock = SandboxClock()
    clock.freeze()
    return clock


def test_step_back_does_not_delay_what_is_on_its_way() -> None:
    """What takes a minute takes a minute of the server's time, however its clock is set meanwhile."""
    clock = frozen_clock()
    sandbox = Sandbox(clock=clock)
    sandbox.patient(PATIENT).receives("Enroute", "Delivered", after=60)
    sandbox.patient(PATIENT).replies("Yes", after=60)
    remind(sandbox)
    clock.advance(20)
    assert sandbox.next_due == 40
    clock.advance(-3600)
    assert sandbox.next_due == 40
    assert not sandbox.received
    clock.advance(40)
    now = clock()
    assert [m.created_ticks for m in sandbox.received] == [now]
    assert (sandbox.sent[0].state, sandbox.sent[0].updated_ticks) == ("Delivered", now)
    assert sandbox.sent[0].updated_ticks < sandbox.sent[0].created_ticks


def test_late_row_shows_when_the_server_has_run_so_long() -> None:
    """A row whose commit is late appears after its time, also if the clock steps back, with its early stamp."""
    clock = frozen_clock()
    sandbox = Sandbox(clock=clock)
    with sandbox.faults.during(LateRows(seconds=60)):
        late = sandbox.patient(PATIENT).writes("Yes")
    prompt = sandbox.patient(OTHER).writes("No")
    assert sandbox.changed_since("Incoming", 0) == [prompt]
    clock.advance(59)
    assert sandbox.changed_since("Incoming", 0) == [prompt]
    clock.advance(-3600)
    assert sandbox.changed_since("Incoming", 0) == [prompt]
    clock.advance(1)
    assert sandbox.changed_since("Incoming", 0) == [late, prompt]


def test_late_change_shows_the_version_before_it() -> None:
    """Until a late change is visible, the message is listed as it was."""
    clock = frozen_clock()
    sandbox = Sandbox(clock=clock)
    message = sandbox.patient(PATIENT).writes("Yes")
    with sandbox.faults.during(LateRows(seconds=60)):
        changed = sandbox.set_state(message.id, "Seen")
    assert sandbox.messages == (changed,)
    assert sandbox.changed_since("Incoming", 0) == [message]
    clock.advance(60)
    assert sandbox.changed_since("Incoming", 0) == [changed]


def test_stale_answer_is_of_the_time_that_the_server_has_run() -> None:
    """A replica that is behind shows neither what is new nor what has changed, whatever steps back."""
    clock = frozen_clock()
    sandbox = Sandbox(clock=clock)
    stale = [StaleAnswer(seconds=60)]
    old = sandbox.patient(PATIENT).writes("Yes")
    assert sandbox.changed_since("Incoming", 0, stale) == []
    clock.advance(60)
    assert sandbox.changed_since("Incoming", 0, stale) == [old]
    clock.advance(-3600)
    changed = sandbox.set_state(old.id, "Seen")
    new = sandbox.patient(OTHER).writes("No")
    assert sandbox.changed_since("Incoming", 0, stale) == [old]
    assert sandbox.changed_since("Incoming", 0) == [changed, new]


def test_stamp_of_a_fault_does_not_move_the_answer() -> None:
    """Faults of stamps are for what patients write: the answer comes in its time, with the stamp of the fault."""
    clock = frozen_clock()
    sandbox = Sandbox(clock=clock, patients={PATIENT: "Yes"}, answer_after=60)
    sandbox.faults.add(FutureStamp(seconds=3600))
    reminder = remind(sandbox)
    clock.advance(60)
    (answer,) = sandbox.received
    assert answer.updated_ticks == reminder.updated_ticks + 3660 * SECOND


# Many messages


def test_answers_pile_up() -> None:
    """A backlog is of incoming messages of many patients, a tenth of a second apart, the last one now."""
    clock = frozen_clock()
    sandbox = Sandbox(clock=clock)
    first = remind(sandbox)
    sandbox.pile_up(2000)
    piled = sandbox.received
    assert [m.id for m in piled] == list(range(first.id + 1, first.id + 2001))
    assert [m.updated_ticks for m in piled] == [clock() - (1999 - i) * SECOND // 10 for i in range(2000)]
    assert len({m.sender for m in piled}) == 1000
    assert {m.recipient for m in piled} == {"37000000000"}
    assert sandbox.changed_since("Incoming", 0) == list(piled)


def test_many_are_changed_in_one_statement() -> None:
    """All that are picked get one UpdatedAt, and a state if there is one to get."""
    sandbox = Sandbox()
    sandbox.pile_up(10)
    before = sandbox.messages
    sandbox.change_many(lambda message: message.id <= 5, state=None)
    sandbox.change_many(lambda message: message.id == 5, state="Deleted")
    assert len({m.updated_ticks for m in sandbox.messages[:4]}) == 1
    assert sandbox.messages[0].updated_ticks > before[-1].updated_ticks
    assert [m.state for m in sandbox.messages] == ["Delivered"] * 4 + ["Deleted"] + ["Delivered"] * 5
    assert sandbox.messages[5:] == before[5:]


# Waiting for what the hospital sends


def start(work: Callable[[], object]) -> threading.Thread:
    """Do something in another thread."""
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_each_message_is_returned_once() -> None:
    """Whoever waits gets the oldest that nobody got and that fits."""
    sandbox = Sandbox()
    first, second, third = (remind(sandbox, recipient) for recipient in (PATIENT, OTHER, PATIENT))
    assert sandbox.wait_for(to=f"+{OTHER}") == second
    assert sandbox.wait_for() == first
    assert sandbox.wait_for(text="come", external_key=27342) == third
    with pytest.raises(NothingArrived, match=r"\(returned before\)"):
        sandbox.wait_for(timeout=0)


def test_message_is_returned_as_it_is_now() -> None:
    """With the state that it has by now."""
    sandbox = Sandbox()
    reminder = remind(sandbox)
    sandbox.set_state(reminder.id, "Seen")
    assert sandbox.wait_for().state == "Seen"


def test_threads_that_wait_get_one_message_each() -> None:
    """The first that waits for what is sent gets it, and no two get the same."""
    sandbox = Sandbox()
    got: list[SandboxMessage] = []
    threads = []
    for number in range(1, 9):
        threads.append(start(lambda: got.append(sandbox.wait_for(timeout=50))))
        until(lambda number=number: waits(sandbox) == number)  # type: ignore[misc]
    picky = start(lambda: got.append(sandbox.wait_for(to=OTHER, timeout=50)))
    until(lambda: waits(sandbox) == 9)
    sent = [remind(sandbox) for _ in range(8)]
    for thread in threads:
        thread.join()
    assert sorted(message.id for message in got) == [message.id for message in sent]
    last = remind(sandbox, recipient=OTHER)
    picky.join()
    assert got[-1] == last


def test_waiting_in_vain_tells_what_arrived() -> None:
    """The failure is an AssertionError that lists what was sent: number, key and text."""
    sandbox = Sandbox()
    with pytest.raises(AssertionError) as caught:
        sandbox.wait_for(timeout=0.01)
    assert str(caught.value) == "no SMS at all arrived within 0.01 s; what did arrive: nothing"
    remind(sandbox)
    sandbox.wait_for()
    remind(sandbox, recipient=OTHER)
    with pytest.raises(NothingArrived) as caught:
        sandbox.wait_for(to=PATIENT, text="Hello", external_key=0, timeout=0)
    assert str(caught.value).splitlines() == [
        f"no SMS to '{PATIENT}', text 'Hello', external_key 0 arrived within 0 s; what did arrive:",
        f"  message 1 to {PATIENT}, external_key 27342: 'Will You come?' (returned before)",
        f"  message 2 to {OTHER}, external_key 27342: 'Will You come?'",
    ]


def test_failure_of_a_test_that_sent_much_can_be_read() -> None:
    """The newest hundred are listed."""
    sandbox = Sandbox()
    for _ in range(103):
        remind(sandbox)
    with pytest.raises(NothingArrived) as caught:
        sandbox.wait_for(to=OTHER, timeout=0)
    _, earlier, *listed = str(caught.value).splitlines()
    assert earlier == "  3 earlier ones"
    assert [line.split()[1] for line in listed] == [str(number) for number in range(4, 104)]


def test_who_waits_through_a_reset_gets_what_comes_after_it() -> None:
    """A reset takes away what was sent, and nobody's patience."""
    sandbox = Sandbox()
    got: list[SandboxMessage] = []
    remind(sandbox, recipient=OTHER)
    thread = start(lambda: got.append(sandbox.wait_for(to=PATIENT, timeout=50)))
    until(lambda: waits(sandbox) == 1)
    sandbox.reset()
    remind(sandbox, recipient=OTHER)
    remind(sandbox)
    thread.join()
    assert [message.recipient for message in got] == [PATIENT]
    assert sandbox.wait_for(to=OTHER).id == 1
    with pytest.raises(NothingArrived):
        sandbox.wait_for(to=OTHER, timeout=0)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_waiting_that_would_block_an_event_loop_is_refused(backend: str) -> None:
    """In a coroutine `wait_for` returns what is there, and raises instead of waiting."""
    sandbox = Sandbox()

    async def converse() -> None:
        remind(sandbox)
        assert sandbox.wait_for().id == 1
        with pytest.raises(RuntimeError, match=r"await arrival\(\.\.\.\) instead"):
            sandbox.wait_for()
        with pytest.raises(NothingArrived):
            sandbox.wait_for(timeout=0)

    anyio.run(converse, backend=backend)
    assert waits(sandbox) == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_arrival_waits_without_blocking(backend: str) -> None:
    """What is there is returned at once, what is sent later, by this loop or a thread, as soon as it is sent."""
    sandbox = Sandbox()
    got: list[SandboxMessage] = []

    async def wait() -> None:
        got.append(await sandbox.arrival(text="come", timeout=50))

    async def converse() -> None:
        first = remind(sandbox)
        assert await sandbox.arrival() == first
        for send in (remind, lambda sandbox: start(lambda: remind(sandbox)).join()):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                assert waits(sandbox) == 1
                send(sandbox)
        with pytest.raises(NothingArrived, match=r"within 0\.01 s"):
            await sandbox.arrival(timeout=0.01)

    anyio.run(converse, backend=backend)
    assert [message.id for message in got] == [2, 3]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_arrival_that_is_cancelled_takes_no_message_along(backend: str) -> None:
    """Also if the message came in the very moment of the cancellation: who waits next gets it, oldest first."""
    sandbox = Sandbox()

    async def converse() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sandbox.arrival)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
            remind(sandbox)
            remind(sandbox)
        assert [(await sandbox.arrival()).id for _ in range(2)] == [1, 2]

    anyio.run(converse, backend=backend)
    assert waits(sandbox) == 0


def test_loop_that_is_gone_hinders_nobody() -> None:
    """A loop that was closed while a coroutine of it waited is no error of the thread that sends."""
    sandbox = Sandbox()
    loop = asyncio.new_event_loop()
    task = loop.create_task(sandbox.arrival())
    loop.run_until_complete(asyncio.sleep(0))
    assert waits(sandbox) == 1
    loop.close()
    assert remind(sandbox).id == 1
    del task
    gc.collect()


# What a strict test objects to


def test_number_that_nobody_named_is_unexpected() -> None:
    """An SMS to a number that the test did not name is told of; naming is by any way, with or without plus."""
    sandbox = Sandbox(patients={"37000000004": "Yes"})
    for last_digit in range(2, 8):
        remind(sandbox, recipient=f"3700000000{last_digit}")
    sandbox.wait_for(to=PATIENT)
    sandbox.patient(f"+{OTHER}")

    async def wait() -> None:
        await sandbox.arrival(to="37000000005")

    anyio.run(wait)
    assert sandbox.unexpected() == [
        "message 6 to 37000000006, external_key 27342: 'Will You come?'",
        "message 7 to 37000000007, external_key 27342: 'Will You come?'",
    ]
    sandbox.patient("*")
    assert sandbox.unexpected() == []


def test_reset_forgets_what_was_named() -> None:
    """Each test names its own."""
    sandbox = Sandbox()
    sandbox.patient(PATIENT)
    sandbox.reset()
    remind(sandbox)
    assert len(sandbox.unexpected()) == 1


def test_nobody_answers_a_sender_name() -> None:
    """A phone cannot write to a name, so a reminder from one gets no answer."""
    sandbox = Sandbox(patients={"*": "Yes"})
    remind(sandbox, sender="RSL_HOSP")
    assert sandbox.received == ()


@pytest.mark.parametrize(
    ("recipient", "text", "answer"),
    [
        ("37000000002", "Will You come?", "Yes"),
        ("37000000003", "Will You come?", "No"),
        ("37000000002", "You are expected.", None),
    ],
)
def test_demo_patients_answer_questions(recipient: str, text: str, answer: str | None) -> None:
    """The patients of the demo answer as those of the specification, and only when asked."""
    reminder = Sandbox().send(sender=HOSPITAL, recipient=recipient, text=text, external_key=1)
    assert demo_answer(reminder) == answer


def test_reset_makes_the_sandbox_as_new() -> None:
    """After a reset there is nothing of before: messages, answers under way, scripts, tokens, counts."""
    clock = SandboxClock()
    sandbox = Sandbox(patients={PATIENT: "Yes"}, answer_after=5, clock=clock)
    sandbox.patient("37000000003").replies("No")
    sandbox.patient(PATIENT).stays_silent()
    remind(sandbox, recipient="37000000003")
    form = {"grant_type": "client_credentials", "client_id": "his", "client_secret": "sandbox-secret"}
    token = sandbox.request_token("sandbox", form | {"scope": "api://sandbox/.default"}).body["access_token"]
    sandbox.reset()
    assert sandbox.messages == ()
    assert not sandbox.accepts(token)
    assert sandbox.token_requests == 0
    assert remind(sandbox).id == 1
    remind(sandbox, recipient="37000000003")
    clock.advance(6)
    assert [message.text for message in sandbox.received] == ["Yes"]


def test_patient_in_hand_outlives_a_reset() -> None:
    """A patient that a test holds forgets its orders, and takes new ones."""
    sandbox = Sandbox()
    patient = sandbox.patient(PATIENT)
    patient.replies("Yes")
    patient.receives("Seen")
    sandbox.reset()
    assert remind(sandbox).state == "Delivered"
    assert not sandbox.received
    patient.replies("No")
    assert [message.text for message in sandbox.received] == ["No"]


def test_change_is_told_to_who_listens() -> None:
    """Each change calls the listeners, until they stop to listen, from the thread that made it."""
    sandbox = Sandbox()
    heard: list[str] = []
    with sandbox.changes.listen(lambda: heard.append(threading.current_thread().name)):
        remind(sandbox)
        assert heard
        heard.clear()
        thread = start(lambda: remind(sandbox))
        thread.join()
        assert set(heard) == {thread.name}
        heard.clear()
        _ = sandbox.messages
        assert heard == []
    remind(sandbox)
    assert heard == []


def test_what_was_due_is_a_change() -> None:
    """Who looks, and so finds done what was due, tells the others."""
    clock = frozen_clock()
    sandbox = Sandbox(clock=clock, patients={PATIENT: "Yes"}, answer_after=60)
    remind(sandbox)
    clock.advance(60)
    heard: list[None] = []
    with sandbox.changes.listen(lambda: heard.append(None)):
        _ = sandbox.messages
    assert heard


def test_reset_leaves_the_clock_alone() -> None:
    """A clock that a test has set stays set."""
    clock = SandboxClock()
    clock.freeze()
    sandbox = Sandbox(clock=clock)
    before = clock()
    sandbox.reset()
    assert remind(sandbox).created_ticks == before


def test_nothing_shows_numbers_texts_or_secrets() -> None:
    """No `repr` of what the sandbox hands out tells whom it is about or what they wrote."""
    sandbox = Sandbox(patients={PATIENT: "Yes"})
    patient = sandbox.patient(PATIENT)
    shown = repr([sandbox, remind(sandbox), sandbox.received, patient])
    for secret in ("3700000000", "RSL_HOSP", "Will You", "Yes", "27342", "sandbox-token", "sandbox-secret"):
        assert secret not in shown
    assert isinstance(patient, Patient)


def test_unknown_zone_is_an_error_at_once() -> None:
    """A misspelt zone fails where it is given."""
    with pytest.raises(ZoneInfoNotFoundError):
        Sandbox(timezone="Europe/Wilna")


def test_offsets_are_all_or_none() -> None:
    """A misspelt option fails where it is given."""
    with pytest.raises(ValueError, match="stamp_offsets"):
        Sandbox(stamp_offsets="some")  # type: ignore[arg-type]


def test_options_stay_as_given() -> None:
    """A sandbox is set up once; what can be changed later has a method."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Sandbox().timezone = "UTC"  # type: ignore[misc]


def test_threads_can_use_it_at_once() -> None:
    """Eight threads that send and look lose nothing and get ids of their own."""
    sandbox = Sandbox(patients={"*": "Yes"})
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                remind(sandbox)
                assert len(sandbox.messages) % 2 == 0
        except BaseException as failure:  # noqa: BLE001 -- told to the test's thread
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [message.id for message in sandbox.messages] == list(range(1, 801))
