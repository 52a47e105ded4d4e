"""What the sandbox offers is what it takes: options of faults, phone numbers, and what the page says of both."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import attrs
import httpx
import pytest

from his_sms_async.sandbox import Sandbox
from his_sms_async.sandbox._clock import real_ticks
from his_sms_async.sandbox._fault import AnyFault
from his_sms_async.sandbox._fault_json import fault_from, fault_kinds, fault_to_json
from his_sms_async.sandbox._readme import FAULT_EXAMPLES
from his_sms_async.sandbox.faults import ExpiredTokens, Fault, MalformedRow, Offsets, Refuse, StaleAnswer, Ties

COMMON = tuple(field.name for field in attrs.fields(Fault))
LISTED = ("times", "every", "probability")


@pytest.fixture
def sandbox() -> Sandbox:
    """A sandbox of the test's own."""
    return Sandbox()


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[httpx.Client]:
    """A client of its server."""
    with sandbox.serve() as server, httpx.Client(base_url=server.url, trust_env=False) as running:
        yield running


@pytest.mark.parametrize("kind", fault_kinds().values(), ids=fault_kinds())
def test_a_fault_says_which_options_it_has(kind: type[AnyFault]) -> None:
    """Its JSON has these options and no other, and is taken as it stands."""
    description = fault_to_json(kind())
    assert list(description) == ["kind", *kind.option_names()]
    assert fault_from(description) == kind()


@pytest.mark.parametrize(
    ("kind", "common"),
    [
        (Offsets, LISTED),
        (MalformedRow, LISTED),
        (StaleAnswer, LISTED),
        (ExpiredTokens, LISTED),
        (Ties, (*LISTED, "number")),
        (Refuse, ()),
    ],
)
def test_options_that_a_kind_refuses_are_not_offered(
    client: httpx.Client, kind: type[Fault], common: tuple[str, ...]
) -> None:
    """The page has no entry for them, nor for a request where there is but one, and no empty box of entries."""
    (name,) = (name for name, one in fault_kinds().items() if one is kind)
    form = client.get("/phone/?tab=faults").text.partition(f'data-kind="{name}"')[2].partition("</form>")[0]
    assert [option for option in COMMON if f'id="fault-{name}-{option}"' in form] == list(common)
    assert ("<details" in form) is bool(common)


@pytest.mark.parametrize(
    ("description", "text"),
    [
        (
            {"kind": "offsets", "all": True},
            "offsets has no option 'all', but times, every, probability, request, which",
        ),
        (
            {"kind": "offsets", "number": None},
            "offsets has no option 'number', but times, every, probability, req",
        ),
        ({"kind": "refuse", "times": 3}, "refuse has no option 'times', but seconds"),
        (
            {"kind": "ties", "request": "list"},
            "ties has no option 'request', but times, every, probability, number",
        ),
    ],
)
def test_an_error_lists_what_a_kind_takes(client: httpx.Client, description: dict[str, object], text: str) -> None:
    """What is listed as an option is one."""
    answer = client.post("/control/faults", json=description)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(text)


def test_an_option_that_a_kind_refuses_is_refused_in_python() -> None:
    """The text names the option and the kind."""
    with pytest.raises(ValueError, match="number of offsets must be left out"):
        Offsets(number="37000000002")


@pytest.mark.parametrize("kind", list(fault_kinds()))
def test_the_readme_shows_the_keywords_of_a_kind(kind: str) -> None:
    """The line of Python has each option of the kind's own, but `taken` of those that answer something else."""
    own = set(fault_kinds()[kind].option_names()) - {*COMMON, "taken"}
    assert {option for option in own if f"{option}=" not in FAULT_EXAMPLES[kind]} == set()


@pytest.mark.parametrize(
    "number", ["abc", "", "123456", "1234567890123456", "++3700000", "٣٧٠٠٠٠٠٠٠٠٢", "RSL_HOSP"]
)
def test_a_patient_has_a_phone_number(sandbox: Sandbox, client: httpx.Client, number: str) -> None:
    """Nobody can tell a name what to answer, or write in its name; in the control API that is HTTP 400."""
    with pytest.raises(ValueError, match="a patient has a phone number"):
        sandbox.patient(number)
    if number:
        answer = client.post(f"/control/patients/{number}", json={"replies": "Yes"})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("a patient has a phone number")
    answer = client.post("/control/messages", json={"from": number, "text": "Yes"})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("a patient has a phone number")


def test_a_search_offers_only_phone_numbers_as_patients(client: httpx.Client) -> None:
    """What the page offers to open as a patient is a number that an SMS can be sent to."""
    assert "as a patient" in client.get("/phone/?q=37000000002").text
    assert "as a patient" not in client.get("/phone/", params={"q": "٣٧٠٠٠٠٠٠٠٠٢"}).text


def test_the_page_says_what_a_reset_forgets(client: httpx.Client, tmp_path: Path) -> None:
    """The file is named if there is one, because it is emptied too."""
    told = '<p id="reset-text">Messages, '
    assert f"{told}rules of patients" in client.get("/phone/").text
    with Sandbox(file=tmp_path / "messages").serve() as server:
        assert (
            f"{told}also in the file, rules of patients" in httpx.get(f"{server.url}/phone/", trust_env=False).text
        )


def test_a_message_that_nobody_changed_says_so() -> None:
    """The two stamps of a new message differ a little, as the server's do, which is no change of its state."""
    moments = count(real_ticks())
    sandbox = Sandbox(clock=lambda: next(moments))
    message = sandbox.send(sender="37000000001", recipient="37000000002", text="Coming?", external_key=1)
    assert message.updated_ticks > message.created_ticks
    with sandbox.serve() as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        assert 'title="Change the state"' in client.get("/phone/?patient=37000000002").text
        sandbox.set_state(message.id, "Seen")
        assert 'title="Since ' in client.get("/phone/?patient=37000000002").text
