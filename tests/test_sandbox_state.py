"""The stand-in's memory and rules, without a server."""

import threading
from datetime import UTC, datetime
from zoneinfo import ZoneInfoNotFoundError

import attrs
import pytest

from his_sms_async.sandbox import Patient, Refused, Sandbox, SandboxClock, SandboxMessage, demo_answer
from his_sms_async.sandbox._clock import ticks_of

HOSPITAL = "37000000001"
PATIENT = "37000000002"
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
    now = iter([0, *(tick for tick in (50, 30, 30, 70) for _ in range(3)), *[100] * 9])
    sandbox = Sandbox(timezone="UTC", clock=lambda: next(now))
    next(now)
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
