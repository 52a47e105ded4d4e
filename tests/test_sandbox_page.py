"""What the server sends of the sandbox's page: HTML, files and events. How it works in a browser: test_browser."""

import itertools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from html.parser import HTMLParser

import attrs
import httpx
import pytest
from waiting import until

from his_sms_async.sandbox import MAGIC_NUMBERS, RunningSandbox, Sandbox, _page
from his_sms_async.sandbox._clock import real_ticks
from his_sms_async.sandbox._conversations import Conversations
from his_sms_async.sandbox._fault_json import fault_kinds
from his_sms_async.sandbox._html import View
from his_sms_async.sandbox._page import _state_of
from his_sms_async.sandbox.faults import (
    Backlog,
    BulkUpdate,
    Duplicates,
    FutureStamp,
    Happening,
    Reset,
    Status,
)

HOSPITAL = "37000000001"
PATIENT = "37000000002"
AUTHORIZED = {"Authorization": "Bearer sandbox-token"}
STATIC = ("phone.css", "phone.js", "morph.js", "segments.js", "theme.js", "icon.svg")


class Reader(HTMLParser):
    """Gathers the text of a page, its elements, and what is wrong with their nesting."""

    VOID = frozenset({"meta", "link", "img", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.feed(html)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str, value: str | None = None) -> list[dict[str, str | None]]:
        """Return the attributes of all elements that have one, of that value if given."""
        return [
            attributes
            for _, attributes in self.elements
            if name in attributes and value in (None, attributes[name])
        ]


@pytest.fixture
def sandbox() -> Sandbox:
    """A sandbox whose clock stands in the evening of 2026-03-09 in Vilnius."""
    sandbox = Sandbox()
    sandbox.settable_clock.freeze()
    sandbox.settable_clock.set(datetime(2026, 3, 9, 15, 2, 3, tzinfo=UTC))
    return sandbox


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[httpx.Client]:
    """A client of its server, without a token: the page needs none."""
    with sandbox.serve() as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        yield client


def page(client: httpx.Client, query: str = "") -> Reader:
    """Read the whole page."""
    answer = client.get(f"/phone/{query}")
    assert answer.status_code == 200
    return Reader(answer.text)


def remind(sandbox: Sandbox, text: str = "Will You come?", *, to: str = PATIENT, sender: str = HOSPITAL) -> int:
    """Send, and return the Id."""
    return sandbox.send(sender=sender, recipient=to, text=text, external_key=27342).id


def rows(reader: Reader) -> list[str]:
    """Return the keys of the listed conversations and messages, as they stand."""
    return [
        key
        for attributes in reader.all("data-key")
        if (key := attributes["data-key"] or "").startswith(("patient-", "hit-"))
    ]


def messages(reader: Reader) -> list[str | None]:
    """Return the ids of the messages of a thread, as they stand."""
    return [one["id"] for one in reader.all("id") if (one["id"] or "").startswith("message-")]


# The frame


def test_browser_is_led_to_the_page(client: httpx.Client) -> None:
    """Whoever opens the server's address in a browser sees the page, with or without its slash."""
    for path in ("/", "/phone"):
        answer = client.get(path, headers={"Accept": "text/html"}, follow_redirects=True)
        assert answer.url.path == "/phone/"
        assert "Nothing is really sent" in answer.text
        assert answer.headers["Cache-Control"] == "no-store"


def test_page_names_no_other_host_and_has_nothing_inline(sandbox: Sandbox, client: httpx.Client) -> None:
    """The policy forbids both: the page asks for files beside it, and has no script, style or handler in it."""
    remind(sandbox)
    for tab in ("journal", "faults", "clock", "numbers"):
        answer = client.get(f"/phone/?patient={PATIENT}&tab={tab}")
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        reader = Reader(answer.text)
        for tag, attributes in reader.elements:
            assert "style" not in attributes
            assert not [name for name in attributes if name.startswith("on")]
            assert tag != "style"
            for name in ("src", "href"):
                address = attributes.get(name) or "?"
                assert address.startswith(("static/", "?", "#")), address
        assert [attributes["src"] for tag, attributes in reader.elements if tag == "script"] == [
            "static/theme.js",
            "static/phone.js",
        ]


def test_every_file_that_is_named_is_there(client: httpx.Client) -> None:
    """What the page and its modules name can be had, typed so that browsers take it."""
    named = {
        one[key]
        for one in page(client).all("src") + page(client).all("href")
        for key in one
        if key in ("src", "href")
    }
    wanted = {name.removeprefix("static/") for name in named if name and name.startswith("static/")}
    for name in STATIC:
        answer = client.get(f"/phone/static/{name}")
        assert answer.status_code == 200
        wanted.update(re.findall(r'from "\./([^"]+)"', answer.text))
        kind = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}[name.rpartition(".")[2]]
        assert answer.headers["Content-Type"].startswith(kind)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert wanted == set(STATIC)


def test_unchanged_file_is_not_sent_again(client: httpx.Client) -> None:
    """A browser keeps a file, asks each time, and is told when it is still the same."""
    first = client.get("/phone/static/phone.js")
    assert first.headers["Cache-Control"] == "no-cache"
    again = client.get("/phone/static/phone.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get("/phone/static/phone.js", headers={"If-None-Match": '"another"'})
    assert (other.status_code, other.content) == (200, first.content)


@pytest.mark.parametrize("name", ["nothing.js", "../_page.py", "%2e%2e/_page.py", "..%2f_page.py"])
def test_no_other_file_can_be_had(client: httpx.Client, name: str) -> None:
    """Only the page's own files are served."""
    assert client.get(f"/phone/static/{name}").status_code == 404


@pytest.mark.anyio
async def test_page_needs_no_event_loop_of_asyncio(sandbox: Sandbox) -> None:
    """Called in the same process, the page answers under trio too."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(sandbox.app), base_url="http://127.0.0.1"
    ) as client:
        answer = await client.get("/phone/")
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/phone/", "/phone/fragments", "/phone/events", "/phone/static/phone.js"])
def test_pages_of_other_sites_get_nothing(client: httpx.Client, path: str) -> None:
    """A request that another origin's page makes is refused, also that for the stream."""
    assert client.get(path, headers={"Origin": "http://127.0.0.1:1"}).status_code == 403


def test_fragments_are_what_the_page_shows(sandbox: Sandbox, client: httpx.Client) -> None:
    """The parts that are fetched anew are those of the page, so that a fresh page changes nothing."""
    remind(sandbox)
    query = f"?patient={PATIENT}&tab=numbers&q=e"
    whole = client.get(f"/phone/{query}").text
    parts = Reader(client.get(f"/phone/fragments{query}").text)
    for part in re.findall(r'<(?:div|section) id="(?:status|conversations|thread|panel-numbers)".*?>', whole):
        assert part in client.get(f"/phone/fragments{query}").text
    assert [one["id"] for one in parts.all("id") if one["id"] in ("status", "conversations", "thread")] == [
        "status",
        "conversations",
        "thread",
    ]
    assert len(parts.all("role", "tabpanel")) == 1


# The conversations


def test_without_messages_the_page_shows_how_to_send_one(client: httpx.Client) -> None:
    """The empty page has a command that sends a first SMS to this very server."""
    text = page(client).text
    assert "No SMS yet" in text
    assert re.search(rf"curl [^\n]*{client.base_url}", text)
    assert "A phone for every patient" in text


def test_newest_conversation_comes_first(sandbox: Sandbox, client: httpx.Client) -> None:
    """Patients stand in the order of their last messages, each once, whether its number has a plus or not."""
    remind(sandbox, to="37000000003")
    remind(sandbox, to="+37000000004")
    remind(sandbox, to="37000000005")
    sandbox.receive(sender="37000000004", recipient=HOSPITAL, text="Yes")
    assert rows(page(client)) == ["patient-37000000004", "patient-37000000005", "patient-37000000003"]
    assert messages(page(client, "?patient=%2B37000000004")) == ["message-2", "message-4"]


def test_row_tells_when_and_what(sandbox: Sandbox, client: httpx.Client) -> None:
    """A row has the time of today, the day of this year or the whole date, who wrote, and what became of it."""
    clock = sandbox.settable_clock
    clock.set(datetime(2025, 12, 31, 12, tzinfo=UTC))
    remind(sandbox, to="37000000003")
    clock.set(datetime(2026, 3, 1, 12, tzinfo=UTC))
    sandbox.set_state(remind(sandbox, "A" * 200, to="37000000004"), "Expired")
    clock.set(datetime(2026, 3, 9, 15, 2, tzinfo=UTC))
    sandbox.receive(sender="37000000005", recipient=HOSPITAL, text="Yes")
    text = page(client).text
    for told in ("2025-12-31", "1 Mar", "17:02", "Patient: Yes", f"Hospital: {'A' * 120}", "Expired"):
        assert told in text
    assert "A" * 121 not in text


def test_search_finds_numbers_texts_and_states(sandbox: Sandbox, client: httpx.Client) -> None:
    """Numbers lead to patients; a part of a text in any case, and the beginning of a state, to messages."""
    remind(sandbox, "You are registered for a BLOOD test", to="37000000003")
    sandbox.set_state(remind(sandbox, "Short", to="37000000004"), "Undeliverable")
    assert rows(page(client, "?q=000003")) == ["patient-37000000003"]
    assert rows(page(client, "?q=%2B370%200000%200004")) == ["patient-37000000004"]
    assert rows(page(client, "?q=undel")) == ["hit-2"]
    found = client.get("/phone/?q=blood").text
    assert rows(Reader(found)) == ["hit-1"]
    assert "… d for a <mark>BLOOD</mark> test" in found
    assert "<mark>Sho</mark>rt" in client.get("/phone/?q=sho").text
    assert "Found 0 patients and 1 message." in Reader(found).text


def test_search_without_success_offers_a_new_patient(sandbox: Sandbox, client: httpx.Client) -> None:
    """What was not found can be opened if it is a phone number, and only then."""
    remind(sandbox)
    nothing = page(client, "?q=zebra")
    assert "No number, text or state has this in it." in nothing.text
    assert "as a patient" not in nothing.text
    number = page(client, "?q=37099999999")
    assert "Open 37099999999 as a patient" in number.text
    assert number.all("href", "?patient=37099999999&q=37099999999")


def test_long_lists_are_capped(sandbox: Sandbox, client: httpx.Client) -> None:
    """Of many conversations and hits the newest 200 are sent, and it is said how many more there are."""
    Backlog(1002).happen(sandbox)
    everything = page(client)
    assert len(rows(everything)) == 200
    assert "and 800 older conversations: search finds them" in everything.text
    assert rows(everything)[0] == "patient-37060000001"
    some = page(client, "?q=yes")
    assert len(rows(some)) == 200
    assert rows(some)[0] == "hit-1002"
    assert "and 468 older messages" in some.text


def test_reset_is_noticed_even_if_all_looks_the_same(sandbox: Sandbox) -> None:
    """As many messages with the same Ids and stamps are others after a reset, and changes are no reset."""
    conversations = Conversations(sandbox)
    remind(sandbox, to="37000000003")
    assert [one.number for one in conversations.find().conversations] == ["37000000003"]
    BulkUpdate("Seen").happen(sandbox)
    (message,) = conversations.thread("37000000003").messages
    assert message.state == "Seen"
    sandbox.reset()
    remind(sandbox, to="37000000004")
    assert [one.number for one in conversations.find().conversations] == ["37000000004"]
    sandbox.reset()
    assert conversations.find().conversations == []


# One patient's thread


def test_thread_tells_all_of_each_message(sandbox: Sandbox, client: httpx.Client) -> None:
    """Sender, text, time in the server's zone, Id, ExternalKey, state, and which reminder a reply is to."""
    reminder = remind(sandbox)
    sandbox.settable_clock.advance(24 * 3600)
    sandbox.patient(PATIENT).writes("Yes", reply_to=reminder)
    sandbox.patient(PATIENT).writes("Hello", to="37000000000")
    sandbox.set_state(reminder, "Seen")
    sandbox.set_state(3, "Expired")
    reader = page(client, f"?patient={PATIENT}")
    assert messages(reader) == ["message-1", "message-2", "message-3"]
    for told in (
        "Monday, 9 March 2026",
        "Tuesday, 10 March 2026",
        f"From {HOSPITAL}Will You come?17:02Id 1ExternalKey 27342",
        "Seen, change the state of message 1",
        "Reply to Id 1 Will You come?Yes17:02Id 2to 37000000001",
        "Hello17:02Id 3to 37000000000Expired",
    ):
        assert told in reader.text
    assert reader.all("title", "2026-03-09T17:02:03.0000000+02:00")
    assert reader.all("title", "Since 2026-03-10 17:02:03")
    assert reader.all("data-jump", "1")


def test_patient_without_messages_can_be_opened(client: httpx.Client) -> None:
    """Any number has a thread, so that a patient can write first."""
    reader = page(client, "?patient=37000000099")
    assert "No messages yet." in reader.text
    assert not reader.all("id", "composer")[0].keys() & {"hidden"}
    assert [
        option["value"] for option in reader.all("value") if option["value"] in ("37000000000", "RSL_HOSP")
    ] == ["37000000000"]


def test_sender_name_cannot_be_answered(sandbox: Sandbox, client: httpx.Client) -> None:
    """A reminder that came from a name has no Reply, and says why."""
    remind(sandbox, sender="RSL_HOSP")
    reader = page(client, f"?patient={PATIENT}")
    assert "RSL_HOSP · a name, cannot be answered" in reader.text
    assert not reader.all("data-reply")
    assert not reader.all("data-hospital")


def test_long_thread_is_capped_and_a_link_leads_to_what_is_older(sandbox: Sandbox, client: httpx.Client) -> None:
    """The newest 300 messages are sent, or those around the one that the address names."""
    for number in range(1, 401):
        remind(sandbox, f"Reminder {number}")
    newest = page(client, f"?patient={PATIENT}&message=400")
    assert (len(messages(newest)), messages(newest)[-1]) == (300, "message-400")
    assert "100 earlier messages are not shown: search finds them" in newest.text
    older = page(client, f"?patient={PATIENT}&message=50")
    assert (len(messages(older)), messages(older)[0]) == (300, "message-30")
    assert "29 earlier messages are not shown" in older.text
    assert "71 later messages: to the newest" in older.text
    nowhere = page(client, f"?patient={PATIENT}&message=4000")
    assert messages(nowhere) == messages(newest)
    sandbox.patient(PATIENT).writes("Late", reply_to=1)
    assert "Reply to Id 1Late" in page(client, f"?patient={PATIENT}").text


def test_rules_of_a_patient_are_told_and_asking_names_nobody(sandbox: Sandbox, client: httpx.Client) -> None:
    """The thread says what the patient does by itself, and looking at it does not make the number a known one."""

    def told() -> str:
        (button,) = page(client, f"?patient={PATIENT}").all("id", "rules")
        assert button["data-states"]
        return page(client, f"?patient={PATIENT}").text.split(f"Patient {PATIENT}")[1].split("Change what")[0]

    assert told() == "Delivered · no answer by itself"
    remind(sandbox)
    assert len(sandbox.unexpected()) == 1
    patient = sandbox.patient(PATIENT)
    patient.receives("Enroute", "Delivered", after=60)
    patient.replies("Yes", after=2.5)
    assert told() == "Enroute → Delivered after 60 s · answers “Yes” after 2.5 s"
    patient.replies(lambda reminder: reminder.text)
    assert told() == "Enroute → Delivered after 60 s · answers by a rule"
    patient.stays_silent()
    assert told() == "Enroute → Delivered after 60 s · no answer by itself"
    sandbox.patient("*").replies("No")
    sandbox.patient("*").receives("Seen")
    text = page(client, "?patient=37000000003").text
    assert "Seen · answers “No”" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>&amp;", "<script>alert(1)</script>&amp;"),
        ("a\x00b\x1f\x7f", "a␀b␟\ufffd"),
        ("\u202eright", "\u202eright"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
    ],
)
def test_text_stays_text(sandbox: Sandbox, client: httpx.Client, text: str, shown: str) -> None:
    """Markup is escaped, and what could not be seen has a sign."""
    remind(sandbox, text)
    sandbox.patient(PATIENT).writes(text)
    reader = page(client, f"?patient={PATIENT}")
    assert reader.text.count(shown) >= 3  # the row, and both messages
    assert len([tag for tag, _ in reader.elements if tag == "script"]) == 2


def test_half_a_character_breaks_nothing(client: httpx.Client) -> None:
    """What is not Unicode, or means nothing, in an address is replaced or left out, and not an error."""
    assert "\ufffd" in page(client, "?patient=%ff&q=%00&message=x&tab=x").text


def test_address_is_read_and_written() -> None:
    """Links keep the search and the tab, and go to another patient, message or panel."""
    view = View.of({"patient": " +370 ", "q": "a&b", "tab": "faults", "message": "12", "pane": "tools"})
    assert (view.patient, view.search, view.tab, view.message, view.pane) == ("+370", "a&b", "faults", 12, "tools")
    assert view.link() == "?patient=%2B370&q=a%26b&tab=faults"
    assert view.link(patient="", tab="journal") == "?q=a%26b&tab=journal&pane=tools"
    assert view.link(message=3) == "?patient=%2B370&message=3&q=a%26b&tab=faults"
    assert View.of({"message": "1" * 19}).message is None
    assert [View.of({}).pane, View.of({"patient": "1"}).pane] == ["list", "thread"]


# The tools


def test_journal_tells_of_each_request(sandbox: Sandbox, client: httpx.Client) -> None:
    """Newest first: what was asked, how it was answered, what struck, and the command that asks it again."""
    assert "No request yet." in page(client).text
    sandbox.faults.add(Status(503, times=1))
    body = '{"Id": null, "From": "37000000001", "To": "37000000002", "Text": "It\'s <b>", "ExternalKey": 1}'
    headers = {**AUTHORIZED, "Content-Type": "application/json"}
    assert client.post("/", content=body, headers=headers).status_code == 503
    assert client.get("/?type=Numbers", headers=AUTHORIZED).status_code == 200
    with sandbox.faults.during(Reset()), pytest.raises(httpx.TransportError):
        client.get("/?type=Numbers", headers=AUTHORIZED)
    waiting = sandbox.journal.begin(at=sandbox.clock(), method="GET", target="/?a=<b>", headers={}, body=b"")
    first = next(iter(sandbox.journal))
    reader = page(client)
    text = reader.text
    assert "4 requests, newest first" in text
    places = [
        text.index(told)
        for told in ("…GET /?a=<b>17:02:03under way", "no answerGET", "200GET", "503POST / to 37000000002")
    ]
    assert places == sorted(places)
    assert "sandbox-token" not in text
    assert body in text
    assert first.as_curl(str(client.base_url).rstrip("/")) in text
    assert reader.all("data-copy", first.as_curl(str(client.base_url).rstrip("/")))
    assert "status" in text.split("503POST")[1].split("As curl")[0]
    sandbox.journal.end(attrs.evolve(waiting, seconds=2.34, status=200))
    assert "2.3 s" in page(client).text


def test_long_journal_is_capped(sandbox: Sandbox, client: httpx.Client) -> None:
    """The newest hundred requests are sent, and it is said where the others are."""
    for number in range(101):
        sandbox.journal.begin(at=sandbox.clock(), method="GET", target=f"/?{number}.", headers={}, body=b"")
    text = page(client).text
    assert "GET /?100." in text
    assert "GET /?0." not in text
    assert "and 1 older one, in GET /control/journal" in text


def test_every_fault_can_be_switched_on(sandbox: Sandbox, client: httpx.Client) -> None:
    """Each kind has its name, what it does, a switch or a button, and an entry for each of its options."""
    reader = page(client, "?tab=faults")
    forms = {form["data-kind"] for form in reader.all("data-kind")}
    assert forms == set(fault_kinds())
    for name, kind in fault_kinds().items():
        is_once = issubclass(kind, Happening)
        switches = [one for one in reader.all("role", "switch") if one["aria-labelledby"] == f"fault-{name}"]
        assert len(switches) == (0 if is_once else 1)
        assert len(reader.all("id", f"fault-{name}-doc")) == 1
        entries = {one["id"] for one in reader.all("name") if "id" in one}
        for option in kind.option_names():
            if option != "request" or len(getattr(kind, "acts_on", ())) > 1:
                assert f"fault-{name}-{option}" in entries
    groups = [
        "Instead of the answer",
        "What becomes of the answer",
        "Rows of a list",
        "What patients write",
        "Tokens",
        "Happens once",
    ]
    places = [reader.text.index(group) for group in groups]
    assert places == sorted(places)


def test_entry_of_an_option_fits_its_type(client: httpx.Client) -> None:
    """Numbers, choices, texts and yes-or-no have each their own kind of entry, with what it is by itself."""
    reader = page(client, "?tab=faults")

    def entry(id_: str) -> dict[str, str | None]:
        (one,) = reader.all("id", id_)
        return one

    assert entry("fault-status-status") | {"type": "number", "value": "503"} == entry("fault-status-status")
    assert entry("fault-latency-seconds") | {"step": "any", "value": "2"} == entry("fault-latency-seconds")
    assert entry("fault-status-taken")["type"] == "checkbox"
    assert entry("fault-unknown-state-state")["list"] == "states"
    assert entry("fault-status-number")["value"] == ""
    options = [one["value"] for tag, one in reader.elements if tag == "option"]
    for choice in ("InvalidMessageOwner", "mixed", "token", "Teleported"):
        assert (choice in options) == (choice != "Teleported")


def test_active_faults_are_on_top(sandbox: Sandbox, client: httpx.Client) -> None:
    """What is switched on is listed with its options, how often it struck and what is left, and an Off."""
    assert "no fault is on" in page(client, "?tab=faults").text
    sandbox.faults.add(Status(502, times=3))
    sandbox.faults.add(Duplicates(number="370\x00"))
    sandbox.faults.add(Status(503, every=2, times=1))
    for wanted in (502, 502):
        assert client.get("/?type=Numbers", headers=AUTHORIZED).status_code == wanted
    reader = page(client, "?tab=faults")
    assert "3 faults switched on" in reader.text
    assert "status status=502, times=3struck 2 times1 left" in reader.text
    assert "duplicates number=370␀not struck yet" in reader.text
    assert "status status=503, times=1, every=2struck onceOff" in reader.text
    assert [one["data-off"] for one in reader.all("data-off")] == ["1", "2", "3"]
    assert [one["data-ids"] for one in reader.all("aria-checked", "true")] == ["1 3", "2"]
    assert "3faultsfaults switched on" in reader.text


def test_clock_is_told(sandbox: Sandbox, client: httpx.Client) -> None:
    """The panel has the server's time, day, zone and offset, whether it stands, and runs or stops it."""
    text = page(client, "?tab=clock").text
    for told in ("17:02:03", "Monday, 9 March 2026", "Europe/Vilnius", "UTC+02:00", "stopped", "Run"):
        assert told in text
    sandbox.settable_clock.unfreeze()
    text = page(client, "?tab=clock").text
    assert "running" in text
    assert "Stop" in text


def test_clock_that_cannot_be_set_has_no_buttons() -> None:
    """A clock of the program's own is told, but not offered to be set."""
    with Sandbox(clock=real_ticks).serve() as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        reader = page(client, "?tab=clock")
    assert "it cannot be set here" in reader.text
    assert not reader.all("data-clock")


def test_numbers_to_know_are_listed(client: httpx.Client) -> None:
    """Magic numbers lead to their conversations, and the hospital's stand with their OperatorNumberId."""
    reader = page(client, "?tab=numbers")
    for magic in MAGIC_NUMBERS:
        assert reader.all("href", f"?patient={magic.number}&tab=numbers")
        assert f"{magic.number}{magic.meaning}" in reader.text
    assert "RSL_HOSP7" in reader.text
    with Sandbox(magic_numbers=False).serve() as server:
        off = Reader(httpx.get(f"{server.url}/phone/?tab=numbers", trust_env=False).text)
    assert "They are switched off in this sandbox" in off.text


# The stream of events


@contextmanager
def listening(url: str) -> Iterator[Iterator[str]]:
    """Open the stream, and yield the lines that come by it."""
    with (
        httpx.Client(trust_env=False, timeout=50) as client,
        client.stream("GET", f"{url}/phone/events") as answer,
    ):
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        yield answer.iter_lines()


def next_id(lines: Iterator[str]) -> int:
    """Return the id of the next event."""
    return int(next(line for line in lines if line.startswith("id: ")).removeprefix("id: "))


def test_event_comes_at_once_and_after_each_change(sandbox: Sandbox, client: httpx.Client) -> None:
    """Whoever opens the stream is told to look, and again after a change, by which thread soever."""
    with listening(str(client.base_url).rstrip("/")) as lines:
        first = next_id(lines)
        remind(sandbox)
        second = next_id(lines)
        assert second > first
        client.post("/control/messages", json={"from": PATIENT, "text": "Yes"})
        assert next_id(lines) > second


def test_burst_of_changes_is_few_events(sandbox: Sandbox, client: httpx.Client) -> None:
    """Hundreds of changes in a moment are told by a handful of events, and the last of them by the last."""
    with listening(str(client.base_url).rstrip("/")) as lines:
        next_id(lines)
        for _ in range(300):
            remind(sandbox)
        events = 1
        while next_id(lines) < sandbox.changes.count:
            events += 1
        assert events < 30


def test_event_comes_when_something_is_due(client: httpx.Client, sandbox: Sandbox) -> None:
    """An answer that waits for the clock is made and told when it is due, though nobody asks for it."""
    sandbox.settable_clock.unfreeze()
    sandbox.patient(PATIENT).replies("Yes", after=0.2)
    with listening(str(client.base_url).rstrip("/")) as lines:
        next_id(lines)
        remind(sandbox)
        told = sandbox.changes.count
        while next_id(lines) <= told:
            pass
        assert len(sandbox._mailbox.messages) == 2


def test_event_comes_when_the_clock_is_moved(client: httpx.Client, sandbox: Sandbox) -> None:
    """A clock that is set in Python, which tells nobody, is noticed, whether it stands or runs."""
    with listening(str(client.base_url).rstrip("/")) as lines:
        first = next_id(lines)
        sandbox.settable_clock.advance(60)
        assert next_id(lines) == first
        sandbox.settable_clock.unfreeze()
        assert next_id(lines) == first


def test_nothing_new_is_not_told(client: httpx.Client, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server looks again and again, but an event comes only if there is something to see."""
    looks, has_looked = itertools.count(), threading.Event()

    def look(of: Sandbox) -> tuple[int, object]:
        if next(looks) >= 2:
            has_looked.set()
        return _state_of(of)

    monkeypatch.setattr(_page, "_state_of", look)
    with listening(str(client.base_url).rstrip("/")) as lines:
        first = next_id(lines)
        assert has_looked.wait(20)
        remind(sandbox)
        assert next_id(lines) > first


def test_stream_ends_with_the_client(client: httpx.Client, sandbox: Sandbox) -> None:
    """When a page is closed, nobody listens for it any more."""
    with listening(str(client.base_url).rstrip("/")) as lines:
        next_id(lines)
        assert len(sandbox.changes._listeners) == 1
    until(lambda: not sandbox.changes._listeners)


def test_stream_ends_with_the_server(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    """A server that stops hangs up on open pages at once, without a word in the log."""
    ended = threading.Event()
    opened = threading.Event()

    def look(server: RunningSandbox) -> None:
        with listening(server.url) as lines:
            next_id(lines)
            opened.set()
            try:
                for _ in lines:
                    pass
            except (httpx.ReadError, httpx.RemoteProtocolError):  # and no timeout
                ended.set()

    with sandbox.serve() as server:
        thread = threading.Thread(target=look, args=(server,))
        thread.start()
        assert opened.wait(20)
    thread.join(20)  # far below the time limit of the stream
    assert ended.is_set()
    assert sandbox.changes._listeners == []
    remind(sandbox)
    assert caplog.records == []


def test_head_of_the_stream_is_only_a_head(client: httpx.Client) -> None:
    """A HEAD request does not open a stream that never ends."""
    answer = client.head("/phone/events")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/event-stream")


def test_future_stamps_can_be_shown(sandbox: Sandbox, client: httpx.Client) -> None:
    """A message that is stamped later than now stands in the order it came, with its own day."""
    sandbox.faults.add(FutureStamp(400 * 86400.0, times=1))
    sandbox.receive(sender=PATIENT, recipient=HOSPITAL, text="From the future")
    remind(sandbox)
    reader = page(client, f"?patient={PATIENT}")
    assert messages(reader) == ["message-1", "message-2"]
    assert "Tuesday, 13 April 2027" in reader.text
