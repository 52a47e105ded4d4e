"""What the stand-in keeps in a file, and what it begins with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from his_sms_async.sandbox import Sandbox, SandboxMessage, UnusableFile
from his_sms_async.sandbox._file import message_from_json, message_to_json

HOSPITAL = "37000000001"
PATIENT = "37000000002"
YES: Mapping[str, Any] = {"sender": PATIENT, "recipient": HOSPITAL, "text": "Yes"}


def remind(sandbox: Sandbox) -> SandboxMessage:
    """Send a reminder."""
    return sandbox.send(
        sender=HOSPITAL, recipient=PATIENT, text="Ar ateisite, „ąž“?\n\u2028👍", external_key=27342
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a sandbox may keep its messages."""
    return tmp_path / "messages.jsonl"


def test_messages_outlive_the_sandbox(path: Path) -> None:
    """Another sandbox on the same file has all messages, in their last states, in the same order."""
    sandbox = Sandbox(file=path)
    sandbox.patient(PATIENT).replies("Yes")
    reminder = remind(sandbox)
    remind(sandbox)
    sandbox.set_state(reminder.id, "Seen")
    sandbox.pile_up(3)
    before = sandbox.messages
    again = Sandbox(file=str(path))
    assert again.messages == before
    assert [message.state for message in again.sent] == ["Seen", "Delivered"]


def test_ids_count_on(path: Path) -> None:
    """No Id is given twice, however often the sandbox is started."""
    for expected in range(1, 4):
        assert remind(Sandbox(file=path)).id == expected
    assert len(Sandbox(file=path).messages) == 3


def test_file_is_made_with_the_first_message(path: Path) -> None:
    """A file that is not there, or empty, is a sandbox without messages."""
    assert Sandbox(file=path).messages == ()
    path.touch()
    sandbox = Sandbox(file=path)
    remind(sandbox)
    assert path.read_bytes().count(b"\n") == 1


def test_unanswered_reminder_is_answered_after_a_restart(path: Path) -> None:
    """A patient that is told to reply answers the last reminder of the file, and only once."""
    reminder = remind(Sandbox(file=path))
    for _ in range(2):
        (answer,) = Sandbox(file=path, patients={PATIENT: "Yes"}).received
        assert answer.reply_to_id == reminder.id


@pytest.mark.parametrize("length", [1, 5, 40, -2])
def test_torn_last_line_is_dropped(path: Path, length: int) -> None:
    """A crash in the middle of writing loses that message only, and the next one is written whole."""
    sandbox = Sandbox(file=path)
    first = remind(sandbox)
    whole = path.read_bytes()
    remind(sandbox)
    path.write_bytes(whole + path.read_bytes()[len(whole) :][:length])
    again = Sandbox(file=path)
    assert again.messages == (first,)
    assert path.read_bytes() == whole
    second = remind(again)
    assert Sandbox(file=path).messages == (first, second)


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"secret diary\n", 1, "it is not JSON"),
        (b"secret diary", 1, "it is not JSON"),
        (b'{"name": "secret diary"', 1, "it is not JSON"),
        (b"\n", 1, "it is not JSON"),
        (b"\xff secret\n", 1, "it is not JSON"),
        (b"[" * 100_000 + b"\n", 1, "it is not JSON"),
        (b'{"secret": 1}\n', 1, "a message has the fields id, type, sender"),
        (b'["secret"]\n', 1, "a message has the fields id, type, sender"),
        (b"GOOD{}\n", 2, "a message has the fields"),
        (b"GOODsecret\nGOOD", 2, "it is not JSON"),
        (b"GOODsecret", 2, "it is not JSON"),
    ],
)
def test_foreign_file_is_refused_and_left_alone(path: Path, content: bytes, line: int, reason: str) -> None:
    """The error names the file and the line and shows nothing of it; not a byte of the file changes."""
    remind(Sandbox(file=path))
    content = content.replace(b"GOOD", path.read_bytes())
    path.write_bytes(content)
    with pytest.raises(UnusableFile) as caught:
        Sandbox(file=path)
    assert str(caught.value).startswith(f"{path}, line {line}: {reason}")
    assert "secret" not in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("id", "1", "id must be an integer"),
        ("id", True, "id must be an integer"),
        ("id", 1.0, "id must be an integer"),
        ("id", None, "id must be an integer"),
        ("type", "Both", "type must be Incoming or Outgoing"),
        ("type", 1, "type must be a text"),
        ("sender", None, "sender must be a text"),
        ("recipient", 5, "recipient must be a text"),
        ("text", ["Yes"], "text must be a text"),
        ("text", "\ud800", "text has half a surrogate pair, which no encoding can write"),
        ("state", 2, "state must be a text"),
        ("created_ticks", "now", "created_ticks must be an integer"),
        ("created_ticks", -1, "created_ticks is beyond the calendar"),
        ("updated_ticks", 10**19, "updated_ticks is beyond the calendar"),
        ("reply_to_id", "1", "reply_to_id must be an integer"),
        ("external_key", 1.5, "external_key must be an integer"),
    ],
)
def test_field_that_does_not_fit_is_named(path: Path, field: str, value: Any, reason: str) -> None:
    """In a file with its line, in a seed with its place, and without its value."""
    sandbox = Sandbox(file=path)
    remind(sandbox)
    fields = message_to_json(sandbox.messages[0]) | {field: value}
    path.write_text(json.dumps(fields) + "\n", encoding="ascii")
    with pytest.raises(UnusableFile) as caught:
        Sandbox(file=path)
    assert str(caught.value) == f"{path}, line 1: {reason}"
    with pytest.raises(ValueError, match="message 2 of the seed") as refused:
        Sandbox(seed=[YES, {**fields, "id": 7, field: value}])
    assert str(refused.value) == f"message 2 of the seed: {reason}"


def test_message_is_the_same_as_json_and_back() -> None:
    """Every field survives, and what is not to be kept begins anew."""
    message = remind(Sandbox())
    assert message_from_json(json.loads(json.dumps(message_to_json(message)))) == message


def test_reset_empties_the_file(path: Path) -> None:
    """After a reset nothing of before comes back."""
    sandbox = Sandbox(file=path)
    remind(sandbox)
    sandbox.reset()
    assert path.read_bytes() == b""
    remind(sandbox)
    assert [message.id for message in Sandbox(file=path).messages] == [1]


# Seed


def test_seed_is_what_a_sandbox_begins_with() -> None:
    """Sender, recipient and text are enough: the rest is an incoming message of now, with the next Id."""
    sandbox = Sandbox(seed=[YES, {**YES, "text": "No"}])
    first, second = sandbox.received
    assert (first.sender, first.recipient, first.text) == (PATIENT, HOSPITAL, "Yes")
    assert (first.id, first.state, first.reply_to_id, first.external_key) == (1, "Delivered", None, None)
    assert first.created_ticks == first.updated_ticks < second.created_ticks
    assert second.id == 2


def test_seed_can_say_all() -> None:
    """Every field can be given; Ids count on from the greatest, and a change date not given is the other."""
    sandbox = Sandbox(
        seed=[
            {**YES, "id": 40, "created_ticks": 637_090_493_018_072_824, "state": "Seen", "reply_to_id": 39},
            {**YES, "type": "Outgoing", "sender": HOSPITAL, "recipient": PATIENT, "external_key": 5},
            {**YES, "id": 7},
        ]
    )
    first, second, third = sandbox.messages
    assert first.created_ticks == first.updated_ticks == 637_090_493_018_072_824
    assert (first.state, first.reply_to_id) == ("Seen", 39)
    assert (second.id, second.type, second.external_key, third.id) == (41, "Outgoing", 5, 7)
    assert remind(sandbox).id == 42


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({}, "a message has the fields id, type, sender, recipient, text"),
        ({**YES, "note": "x"}, "a message has the fields"),
        ({**YES, "id": 1}, "there is another one with the id 1"),
    ],
)
def test_seed_that_is_wrong_is_an_error_at_once(message: Mapping[str, Any], reason: str) -> None:
    """The error tells which message it is."""
    with pytest.raises(ValueError, match="message 2 of the seed: ") as caught:
        Sandbox(seed=[YES, message])
    assert str(caught.value).removeprefix("message 2 of the seed: ").startswith(reason)


def test_reset_brings_the_seed_back() -> None:
    """As new is with the seed."""
    sandbox = Sandbox(seed=[YES])
    remind(sandbox)
    sandbox.reset()
    assert [(message.id, message.text) for message in sandbox.messages] == [(1, "Yes")]


def test_file_wins_over_the_seed(path: Path) -> None:
    """A seed is for a file that holds nothing yet; what is in the file afterwards is not seeded again."""
    first = Sandbox(file=path, seed=[YES])
    remind(first)
    again = Sandbox(file=path, seed=[{**YES, "text": "No"}])
    assert again.messages == first.messages
    again.reset()
    assert [message.text for message in Sandbox(file=path).messages] == ["No"]


def test_what_was_there_at_the_beginning_did_not_arrive() -> None:
    """A test that waits, and a strict one, are about what is sent, not about the seed or the file."""
    sandbox = Sandbox(seed=[{**YES, "type": "Outgoing", "recipient": PATIENT}])
    assert sandbox.unexpected() == []
    with pytest.raises(AssertionError, match="what did arrive: nothing"):
        sandbox.wait_for(timeout=0)
