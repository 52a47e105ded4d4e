"""The sandbox's page in a real browser: a phone for every patient, by mouse, by keyboard, and for everyone."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import anyio
import httpx
import pytest
from browser import NARROW, NO_SERVER, REFUSED, WIDE, barriers, is_connected, phone, running_browser
from playwright.sync_api import Browser, Page, expect
from waiting import heeding_interrupts

from his_sms_async import BearerAuth, IncomingPoller, MemoryStore, Message, SendReceipt, SmsClient
from his_sms_async.sandbox import RunningSandbox, Sandbox
from his_sms_async.sandbox.faults import Backlog, Status

HOSPITAL = "37000000001"
PATIENT = "37000000002"
ANOTHER = "37000000003"
QUESTION = "You are registered on 2026-03-10 (Tu) 07:00. Will You come?"
SEVERAL_SECONDS = 10.0

T = TypeVar("T")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests here, each with a fresh profile in it."""
    with running_browser() as running:
        yield running


@pytest.fixture
def sandbox() -> Sandbox:
    """A sandbox of the test's own."""
    return Sandbox()


@pytest.fixture
def server(sandbox: Sandbox) -> Iterator[RunningSandbox]:
    """Its server."""
    with sandbox.serve() as running:
        yield running


def run_async(act: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run it in a loop of its own: Playwright's is running in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(anyio.run, act).result(SEVERAL_SECONDS)


def send(server: RunningSandbox) -> SendReceipt:
    """Send the question to the patient with the library's client."""

    async def act() -> SendReceipt:
        async with SmsClient(server.url, auth=BearerAuth("sandbox-token")) as client:
            return await client.send(sender=HOSPITAL, recipient=PATIENT, text=QUESTION, external_key=27342)

    return run_async(act)


def receive(server: RunningSandbox, receipt: SendReceipt) -> Message:
    """Receive the first reply with the library's poller."""

    async def act() -> Message:
        async with (
            SmsClient(server.url, auth=BearerAuth("sandbox-token"), server_timezone="Europe/Vilnius") as client,
            IncomingPoller(client, start=receipt.created_at, store=MemoryStore(), interval=0.05) as poller,
        ):
            async for message in poller:
                return message
        pytest.fail("the poller ended")

    return run_async(act)


def remind(sandbox: Sandbox, text: str = QUESTION, *, to: str = PATIENT, sender: str = HOSPITAL) -> int:
    """Send from Python without a client, and return the Id."""
    return sandbox.send(sender=sender, recipient=to, text=text, external_key=1).id


def tab_until(page: Page, selector: str, *, key: str = "Tab") -> None:
    """Press Tab until what has the focus fits, at most as often as there could be controls on the way."""
    for _ in range(120):
        page.keyboard.press(key)
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"{selector} cannot be reached by {key}")


def focused(page: Page) -> str:
    """Return the id of what has the focus."""
    return str(page.evaluate("document.activeElement.id"))


def test_reminder_is_answered_in_the_page(browser: Browser, sandbox: Sandbox, server: RunningSandbox) -> None:
    """What the client sends appears without a reload, and what is answered there reaches the poller."""
    with phone(browser, server.url) as page:
        page.evaluate("window.sameDocument = true")
        receipt = send(server)
        page.get_by_role("link", name=PATIENT).click()
        expect(page.get_by_role("log")).to_contain_text(QUESTION)
        expect(page.get_by_role("log")).to_contain_text(f"Id {receipt.id}")
        expect(page.get_by_role("log")).to_contain_text("ExternalKey 27342")
        page.get_by_role("textbox", name="Answer as the patient").fill("Taip, būsiu")
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".message.patient")).to_contain_text("Taip, būsiu")
        assert page.evaluate("window.sameDocument")
    message = receive(server, receipt)
    assert (message.text, message.sender, message.reply_to_id) == ("Taip, būsiu", PATIENT, receipt.id)


def test_reminder_is_answered_by_keyboard_alone(browser: Browser, server: RunningSandbox) -> None:
    """Everything on the way from the list to the answer is reached, used and left by keys."""
    with phone(browser, server.url) as page:
        receipt = send(server)
        expect(page.locator(".row")).to_have_count(1)
        tab_until(page, ".row")
        page.keyboard.press("Enter")
        expect(page.locator("#text")).to_be_focused()
        page.keyboard.type("Yes,")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("gladly")
        page.keyboard.press("Enter")
        expect(page.locator(".message.patient .text")).to_have_text("Yes,\ngladly")
        expect(page.locator("#text")).to_have_value("")
        page.keyboard.press("Escape")
        expect(page.locator(".row")).to_be_focused()
        expect(page.locator("#composer")).to_be_hidden()
    message = receive(server, receipt)
    assert (message.text, message.reply_to_id) == ("Yes,\ngladly", receipt.id)


def test_keys_lead_through_the_whole_page(browser: Browser, sandbox: Sandbox, server: RunningSandbox) -> None:
    """The skip link, tabs, switches, dialogs and the scrolling of the log obey the usual keys."""
    for number in range(30):
        remind(sandbox, f"Reminder {number}")
    with phone(browser, server.url, f"?patient={PATIENT}") as page:
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#phone")).to_be_focused()
        page.locator("#text").fill("several\nlines\nthat\nmake\nthe log smaller")
        expect(page.locator(".message").last).to_be_in_viewport(ratio=1)  # it is not covered by them
        page.locator("#phone").focus()
        tab_until(page, "#log")
        end = page.evaluate("document.activeElement.scrollTop")
        page.keyboard.press("PageUp")
        page.wait_for_function("end => document.activeElement.scrollTop < end", arg=end)
        tab_until(page, "[role=tab]")
        page.keyboard.press("ArrowRight")
        assert focused(page) == "tab-faults"
        page.keyboard.press("End")
        assert focused(page) == "tab-numbers"
        page.keyboard.press("ArrowRight")
        assert focused(page) == "tab-journal"
        page.keyboard.press("ArrowRight")
        expect(page.locator("#panel-faults")).to_be_visible()
        tab_until(page, "[data-kind=hang] [role=switch]")
        page.keyboard.press("Space")
        expect(page.locator("[data-kind=hang] [role=switch]")).to_have_attribute("aria-checked", "true")
        assert [type(switch.fault).__name__ for switch in sandbox.faults] == ["Hang"]
        page.keyboard.press("Space")
        expect(page.locator("[data-kind=hang] [role=switch]")).to_have_attribute("aria-checked", "false")
        tab_until(page, "#reset", key="Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(page.locator("#reset")).to_be_focused()
    assert len(sandbox.messages) == 30


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_nobody_is_kept_out(browser: Browser, sandbox: Sandbox, server: RunningSandbox, width: int) -> None:
    """No barrier is found by axe, in light and dark, on a phone and a large screen, whatever is open."""
    with phone(browser, server.url, width=width) as page:
        assert barriers(page) == []  # nothing there yet
        remind(sandbox)
        sandbox.set_state(remind(sandbox, sender="RSL_HOSP"), "Undeliverable")
        sandbox.set_state(remind(sandbox, to=ANOTHER), "Enroute")
        sandbox.patient(PATIENT).writes("Yes", reply_to=1)
        sandbox.faults.add(Status(503, times=3))
        httpx.post(server.url, json={"To": PATIENT}, trust_env=False)
        page.get_by_role("link", name=PATIENT).click()
        expect(page.locator(".message")).to_have_count(3)
        assert barriers(page) == []
        page.locator("#rules").click()
        assert barriers(page) == []
        page.keyboard.press("Escape")
        page.goto(f"{server.url}/phone/?patient={PATIENT}&pane=tools&q=e")
        for tab in ("journal", "faults", "clock", "numbers"):
            page.locator(f"#tab-{tab}").click()
            expect(page.locator(f"#panel-{tab} h2")).to_be_attached()
            for details in page.locator(f"#panel-{tab} summary").all()[:2]:
                details.click()
            assert barriers(page) == [], tab
        page.locator("#reset").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert barriers(page) == []


def test_page_comes_back_with_the_server(browser: Browser, sandbox: Sandbox) -> None:
    """A page says that the server is gone, tries again by itself, and then shows what it missed."""
    with ExitStack() as stack:
        with sandbox.serve() as first:
            remind(sandbox)
            page = stack.enter_context(phone(browser, first.url, f"?patient={PATIENT}", expected=NO_SERVER))
            page.locator("#text").fill("half a word")
        expect(page.get_by_role("status").first).to_have_text("Not connected, trying again")
        page.locator("#text").press("Enter")
        expect(page.locator("#composer [role=alert]")).to_have_text("The server cannot be reached.")
        remind(sandbox, "Sent meanwhile")
        stack.enter_context(sandbox.serve(port=first.port))
        is_connected(page)
        expect(page.get_by_role("log")).to_contain_text("Sent meanwhile")
        expect(page.locator("#text")).to_have_value("half a word")
        page.locator("#text").press("Enter")
        expect(page.locator(".message.patient")).to_contain_text("half a word")


def test_ctrl_c_ends_the_command_under_an_open_page(browser: Browser) -> None:
    """An open page with its stream does not hold up the end of the program, nor lets it complain."""
    command = [sys.executable, "-m", "his_sms_async.sandbox", "--port", "0"]
    with (
        heeding_interrupts(),
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            url = next(found[0] for line in process.stdout if (found := re.search(r"http://[0-9.]+:[0-9]+", line)))
            with phone(browser, url, expected=NO_SERVER) as page:
                process.send_signal(signal.SIGINT)
                _, complaint = process.communicate(timeout=SEVERAL_SECONDS)
                expect(page.locator("#connection")).to_have_text("Not connected, trying again")
        finally:
            process.kill()
    assert process.returncode == 130
    assert complaint == ""


HOSTILE = [
    "<script>window.struck = true</script><img src=x onerror='window.struck = true'>",
    "</textarea></option><style>*{display:none}</style>&lt;b&gt;&amp;amp;",
    "\u202eright to left\u202d and مرحبا بالعالم",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈" * 20,
    "a\x00b\x07c\x1bd",
    "W" * 10_000,
]


def test_texts_are_texts(browser: Browser, sandbox: Sandbox, server: RunningSandbox) -> None:
    """Whatever is written is shown as it is, runs nothing, and does not widen the page of a phone."""
    for text in HOSTILE:
        remind(sandbox, text)
        sandbox.patient(PATIENT).writes(text, reply_to=len(sandbox.messages))
    with phone(browser, server.url, width=NARROW) as page:
        expect(page.locator(".row")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW
        page.locator(".row").click()
        for number, text in enumerate(HOSTILE):
            visible = text.replace("\x00", "␀").replace("\x07", "␇").replace("\x1b", "␛")
            assert page.locator(".message.hospital .text").nth(number).text_content() == visible
            assert page.locator(".message.patient .text").nth(number).text_content() == visible
        for text in HOSTILE:
            page.locator("#text").fill(text)
            page.locator("#text").press("Enter")
            expect(page.locator("#text")).to_have_value("")
        expect(page.locator(".message.patient")).to_have_count(2 * len(HOSTILE))
        page.goto(f"{server.url}/phone/?q=W&patient=<script>window.struck=true</script>")
        expect(page.locator("#thread-title")).to_contain_text("<script>")
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW
        assert page.evaluate("document.body.scrollWidth") <= NARROW
        assert page.evaluate("window.struck") is None
    assert [message.text for message in sandbox.received[-len(HOSTILE) :]] == HOSTILE


class Elsewhere(BaseHTTPRequestHandler):
    """A page of another origin that tries to read and to write."""

    target = ""

    def do_GET(self) -> None:
        """Send the page."""
        script = """
          const results = [];
          const tried = (name, promise) => promise.then(
            answer => results.push(name + " " + answer), () => results.push(name + " refused"));
          const stream = new EventSource(TARGET + "/phone/events");
          const message = JSON.stringify({from: "37000000002", text: "forged"});
          Promise.all([
            tried("stream", new Promise((done, fail) => { stream.onopen = done; stream.onerror = fail; })),
            tried("read", fetch(TARGET + "/phone/fragments").then(r => r.text())),
            tried("opaque", fetch(TARGET + "/phone/fragments", {mode: "no-cors"}).then(r => r.type)),
            tried("json", fetch(TARGET + "/control/messages",
              {method: "POST", headers: {"Content-Type": "application/json"}, body: message})),
            tried("simple", fetch(TARGET + "/control/messages", {method: "POST", mode: "no-cors", body: message})
              .then(r => r.type)),
            tried("reset", fetch(TARGET + "/control/reset", {method: "POST", mode: "no-cors"}).then(r => r.type)),
          ]).then(() => { document.title = results.sort().join(", "); });
        """.replace("TARGET", f"'{self.target}'")
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(f"<script>{script}</script>".encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base's name
        """Log nothing."""


def test_page_of_another_origin_is_kept_out(browser: Browser, sandbox: Sandbox, server: RunningSandbox) -> None:
    """Another site's page in the same browser neither reads the stream nor writes, resets or sees anything."""
    remind(sandbox)
    handler = type("Handler", (Elsewhere,), {"target": server.url})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        context = browser.new_context()
        try:
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{other.server_port}/")
            expect(page).to_have_title(
                "json refused, opaque refused, read refused, reset refused, simple refused, stream refused"
            )
        finally:
            context.close()
            other.shutdown()
            thread.join()
    assert [message.text for message in sandbox.messages] == [QUESTION]


def test_fault_is_switched_on_strikes_and_is_in_the_journal(
    browser: Browser, sandbox: Sandbox, server: RunningSandbox
) -> None:
    """A click switches a fault on with its options; it strikes, is counted, and the journal tells of it."""
    with phone(browser, server.url, "?tab=faults", expected=REFUSED) as page:
        fault = page.locator("[data-kind=status]")
        fault.get_by_text("How often").click()
        fault.get_by_label("HTTP status").fill("999")
        fault.get_by_label("How many requests").fill("2")
        fault.get_by_role("switch").click()
        expect(fault.get_by_role("alert")).to_contain_text("status of status must be")
        fault.get_by_label("HTTP status").fill("502")
        fault.get_by_role("switch").click()
        expect(page.locator("#active-faults li")).to_contain_text("2 left")
        expect(fault.get_by_role("alert")).to_be_hidden()
        body = {"Id": None, "From": HOSPITAL, "To": PATIENT, "Text": "It's", "ExternalKey": 1}
        with httpx.Client(trust_env=False, headers={"Authorization": "Bearer sandbox-token"}) as client:
            assert client.post(server.url, json=body).status_code == 502
            expect(page.locator("#active-faults li")).to_contain_text("1 left")
            expect(page.locator("#active-faults li")).to_contain_text("struck once")
            page.get_by_role("tab", name="Journal").click()
            entry = page.locator(".exchange")
            expect(entry).to_contain_text("502")
            expect(entry.locator(".fault-name")).to_have_text("status")
            entry.locator("summary").click()
            page.context.grant_permissions(["clipboard-read", "clipboard-write"])
            entry.get_by_role("button", name="Copy as curl").click()
            expect(page.locator("#told")).to_have_text("Copied.")
            curl = page.evaluate("navigator.clipboard.readText()")
            assert curl == next(iter(sandbox.journal)).as_curl(server.url)
            assert client.post(server.url, json=body).status_code == 502
            assert client.post(server.url, json=body).status_code == 200
        expect(page.locator(".exchange")).to_have_count(3)
        expect(page.locator(".exchange").last).to_have_attribute("open", "")  # it stayed as it was
        page.get_by_role("button", name="Clear", exact=True).click()
        expect(page.locator(".exchange")).to_have_count(0)


def test_what_is_due_happens_by_itself(browser: Browser, sandbox: Sandbox, server: RunningSandbox) -> None:
    """States and answers that wait for the server's clock appear when it gets there, or is moved there."""
    with phone(browser, server.url, f"?patient={PATIENT}&tab=clock") as page:
        page.locator("#rules").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("States, one after another").fill("Enroute, Delivered")
        dialog.get_by_label("Seconds from one to the next").fill("3600")
        dialog.get_by_role("button", name="Let it be so").click()
        expect(dialog).to_be_hidden()
        expect(page.locator("#rules")).to_contain_text("Enroute → Delivered after 3600 s")
        page.locator("#rules").click()
        dialog.get_by_label("Text").fill("Ė, yes")
        dialog.get_by_label("Seconds until then").fill("0.3")
        dialog.get_by_role("button", name="Let it answer").click()
        expect(page.locator("#rules")).to_contain_text("answers “Ė, yes” after 0.3 s")
        remind(sandbox)
        state = page.locator(".message.hospital button.state")
        expect(state).to_contain_text("Enroute")
        expect(page.locator(".message.patient .text")).to_have_text("Ė, yes")
        page.get_by_role("button", name="+1 h").click()
        expect(state).to_contain_text("Delivered")
        page.locator("#rules").click()
        dialog.get_by_role("button", name="Stay silent").click()
        expect(page.locator("#rules")).to_contain_text("no answer by itself")


def test_state_is_changed_by_hand(browser: Browser, sandbox: Sandbox, server: RunningSandbox) -> None:
    """A message can have any state of the specification, and any other word."""
    remind(sandbox)
    with phone(browser, server.url, f"?patient={PATIENT}") as page:
        state, dialog = page.locator(".message button.state"), page.get_by_role("dialog")
        state.click()
        dialog.get_by_label("Delivery state").select_option("Undeliverable")
        dialog.get_by_role("button", name="Change").click()
        expect(state).to_contain_text("Undeliverable")
        expect(state).to_be_focused()
        state.click()
        dialog.get_by_label("Delivery state").select_option("another word")
        dialog.get_by_label("Word that the server writes").fill("Teleported")
        dialog.get_by_label("Word that the server writes").press("Enter")
        expect(state).to_contain_text("Teleported")
    assert sandbox.messages[0].state == "Teleported"


def test_unprompted_to_a_chosen_number_and_to_an_older_reminder(
    browser: Browser, sandbox: Sandbox, server: RunningSandbox
) -> None:
    """The answer is to the last reminder by itself, to an older one if that is chosen, or to none."""
    remind(sandbox, "First")
    remind(sandbox, "Second", sender="37000000000")
    remind(sandbox, "Nobody can answer this", sender="RSL_HOSP")
    with phone(browser, server.url, f"?patient={PATIENT}") as page:
        text, patients = page.locator("#text"), page.locator(".message.patient")
        expect(page.locator("#replying")).to_contain_text("Second")
        page.get_by_role("button", name="Reply to message 1").click()
        expect(page.locator("#replying")).to_contain_text("First")
        text.press_sequentially("one")
        text.press("Control+Enter")
        expect(patients).to_have_count(1)
        expect(page.locator("#replying")).to_contain_text("Second")
        page.get_by_role("button", name="Write unprompted").click()
        page.get_by_label("Unprompted, to").select_option("37000000001")
        text.fill("none")
        text.press("Enter")
        expect(patients).to_have_count(2)
        text.fill("two")
        text.press("Enter")
        expect(patients).to_have_count(3)
        patients.first.locator(".quote").click()
        expect(page.locator("#message-1")).to_have_attribute("data-ui-lit", "")
    assert [(one.text, one.recipient, one.reply_to_id) for one in sandbox.received] == [
        ("one", "37000000001", 1),
        ("none", "37000000001", None),
        ("two", "37000000000", 2),
    ]


def test_what_is_under_way_survives_news(browser: Browser, sandbox: Sandbox, server: RunningSandbox) -> None:
    """News neither take the focus nor the text being typed, move what is read, or are told more than once."""
    for number in range(40):
        remind(sandbox, f"Reminder {number}")
    with phone(browser, server.url, f"?patient={PATIENT}&tab=faults") as page:
        page.locator("#text").press_sequentially("half")
        page.locator("[data-kind=latency] summary").click()
        page.locator("#fault-latency-seconds").fill("7")
        page.evaluate("document.querySelector('#log').scrollTop = 100")
        page.evaluate("""() => {
          window.told = [];
          new MutationObserver(changes => changes.forEach(
            change => change.addedNodes.forEach(node => window.told.push(node.textContent))
          )).observe(document.querySelector("#log"), {childList: true});
        }""")
        remind(sandbox, "News", to=ANOTHER)
        sandbox.set_state(3, "Expired")
        remind(sandbox, "Reminder of today")
        expect(page.locator("#message-3 button.state")).to_contain_text("Expired")
        expect(page.locator("#newest")).to_be_visible()
        assert page.evaluate("window.told.length") == 1
        assert "Reminder of today" in page.evaluate("window.told[0]")
        assert page.evaluate("document.querySelector('#log').scrollTop") == 100
        expect(page.locator("#fault-latency-seconds")).to_have_value("7")
        expect(page.locator("#fault-latency-seconds")).to_be_focused()
        expect(page.locator("[data-kind=latency] details")).to_have_attribute("open", "")
        page.locator("#newest").click()
        expect(page.locator("#newest")).to_be_hidden()
        page.locator(".row").first.focus()
        remind(sandbox, "So this row moves", to=ANOTHER)
        expect(page.locator(".row").first).to_contain_text("So this row moves")
        assert page.evaluate("document.activeElement.className") == "row"


def test_drafts_and_history(browser: Browser, sandbox: Sandbox, server: RunningSandbox) -> None:
    """Each patient keeps what was being typed, and the browser's Back goes back."""
    remind(sandbox)
    remind(sandbox, to=ANOTHER)
    with phone(browser, server.url) as page:
        page.get_by_role("link", name=PATIENT).click()
        page.locator("#text").fill("to be continued")
        page.get_by_role("link", name=ANOTHER).click()
        expect(page.locator("#thread-title")).to_contain_text(ANOTHER)
        expect(page.locator("#text")).to_have_value("")
        page.go_back()
        expect(page.locator("#thread-title")).to_contain_text(PATIENT)
        expect(page).to_have_title(f"{PATIENT} · SMS sandbox")
        page.get_by_role("link", name=ANOTHER).click()
        page.get_by_role("link", name=PATIENT).click()
        expect(page.locator("#text")).to_have_value("to be continued")


def test_what_is_being_typed_outlives_history_and_links(
    browser: Browser, sandbox: Sandbox, server: RunningSandbox
) -> None:
    """Back and Forward of the browser, and a jump to a message, take nothing of what is being typed."""
    remind(sandbox)
    message = remind(sandbox, to=ANOTHER)
    with phone(browser, server.url, f"?patient={PATIENT}") as page:
        page.locator("#text").fill("for the first")
        page.get_by_role("link", name=ANOTHER).click()
        expect(page.locator("#thread-title")).to_contain_text(ANOTHER)
        page.locator("#text").fill("for the second")
        page.go_back()
        expect(page.locator("#thread-title")).to_contain_text(PATIENT)
        expect(page.locator("#text")).to_have_value("for the first")
        page.go_forward()
        expect(page.locator("#thread-title")).to_contain_text(ANOTHER)
        expect(page.locator("#text")).to_have_value("for the second")
        page.evaluate("id => { location.hash = `#message-${id}`; }", message)
        expect(page.locator(f"#message-{message}[data-ui-lit]")).to_be_visible()
        expect(page.locator("#text")).to_have_value("for the second")


def test_phone_shows_one_thing_at_a_time(browser: Browser, sandbox: Sandbox, server: RunningSandbox) -> None:
    """On a narrow screen the list, a thread and the tools take turns, each with a way back."""
    remind(sandbox)
    with phone(browser, server.url, width=NARROW) as page:
        page.locator(".row").click()
        expect(page.locator("#thread-title")).to_be_focused()
        expect(page.locator("#list")).to_be_hidden()
        page.locator("#to-tools").click()
        expect(page.locator("#phone")).to_be_hidden()
        expect(page.locator("#tab-journal")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.locator("#to-tools")).to_be_focused()
        expect(page.get_by_role("log")).to_be_visible()
        page.locator("#back").click()
        expect(page.locator(".row")).to_be_focused()
        expect(page.locator("#phone")).to_be_hidden()
        page.locator("#new summary").click()
        page.get_by_label("Phone number of a new patient").fill("+370 600 00001")
        page.keyboard.press("Enter")
        expect(page.locator("#thread-title")).to_contain_text("+37060000001")
        page.locator("#text").fill("Hello")
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".message.patient")).to_contain_text("Hello")
        expect(page.get_by_text("Nothing is really sent")).to_be_visible()


def test_search_finds_what_is_not_shown(browser: Browser, sandbox: Sandbox, server: RunningSandbox) -> None:
    """Of many messages the page shows the newest, and search and links lead to the others."""
    first = remind(sandbox, "The needle")
    Backlog(1001).happen(sandbox)
    for number in range(310):
        remind(sandbox, f"Reminder {number}")
    with phone(browser, server.url, f"?patient={PATIENT}") as page:
        expect(page.locator("#conversations .row")).to_have_count(200)
        expect(page.locator("#conversations .more")).to_contain_text("801 older conversations")
        expect(page.locator(".message")).to_have_count(300)
        page.get_by_role("searchbox").fill("needle")
        page.get_by_role("link", name="The needle").click()
        expect(page.locator(f"#message-{first}")).to_be_in_viewport()
        expect(page.locator(f"#message-{first}")).to_have_attribute("data-ui-lit", "")
        page.get_by_role("link", name="to the newest").click()
        expect(page.get_by_role("log")).to_contain_text("Reminder 309")
        page.get_by_role("searchbox").press("Escape")
        expect(page.locator("#conversations .row")).to_have_count(200)
        page.goto(f"{server.url}/phone/?patient={PATIENT}#message-{first}")
        expect(page.locator(f"#message-{first}")).to_be_in_viewport()


def test_all_is_cleared_after_a_question(browser: Browser, sandbox: Sandbox, server: RunningSandbox) -> None:
    """Clear all asks, forgets, and what comes then with the same Ids is shown as new."""
    remind(sandbox, "Old")
    with phone(browser, server.url, f"?patient={PATIENT}") as page:
        page.get_by_role("button", name="Clear all").click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("log")).to_contain_text("Old")
        page.get_by_role("button", name="Clear all").click()
        page.get_by_role("dialog").get_by_role("button", name="Clear all").click()
        expect(page.get_by_role("log")).to_contain_text("No messages yet")
        remind(sandbox, "New")
        expect(page.locator(".message .text")).to_have_text("New")


def test_clock_is_set_from_the_page(browser: Browser, sandbox: Sandbox, server: RunningSandbox) -> None:
    """The server's time is stopped, set, moved, and lead to the autumn night; a wrong instant is explained."""
    with phone(browser, server.url, "?tab=clock", expected=REFUSED) as page:
        panel, face = page.locator("#panel-clock"), page.locator("#panel-clock .face")
        panel.get_by_role("button", name="Stop").click()
        expect(panel).to_contain_text("stopped")
        panel.get_by_label("Set it to an instant").fill("tomorrow")
        panel.get_by_role("button", name="Set", exact=True).click()
        expect(panel.get_by_role("alert")).to_contain_text("must be an instant like")
        panel.get_by_label("Set it to an instant").fill("2026-03-10T07:00:00+02:00")
        panel.get_by_role("button", name="Set", exact=True).click()
        expect(face).to_have_text("07:00:00")
        panel.get_by_role("button", name="−1 h").click()
        expect(face).to_have_text("06:00:00")
        expect(page.locator("#status .face")).to_have_text("06:00:00")
        panel.get_by_role("button", name="Autumn night").click()
        expect(face).to_have_text("02:50:00")
        expect(panel).to_contain_text("26 October 2025")
        sandbox.settable_clock.advance(60)  # from Python, which tells nobody
        expect(face).to_have_text("02:51:00")
        panel.get_by_role("button", name="Run").click()
        expect(panel).to_contain_text("running")
        expect(face).not_to_have_text("02:51:00")


SEGMENTS: list[tuple[str, str, int, int, str]] = [
    ("", "GSM-7", 0, 0, ""),
    ("a" * 160, "GSM-7", 160, 1, ""),
    ("a" * 161, "GSM-7", 161, 2, ""),
    ("a" * 306, "GSM-7", 306, 2, ""),
    ("a" * 307, "GSM-7", 307, 3, ""),
    ("€" * 80, "GSM-7", 160, 1, ""),
    ("^{}\\[~]|€\f", "GSM-7", 20, 1, ""),
    ("a" * 152 + "€" + "a" * 152, "GSM-7", 306, 3, ""),  # the € is not split, so a part has 152
    ("ąčęėįšųūž", "UCS-2", 9, 1, "ąčęėįšųūž"),
    ("é" * 160, "GSM-7", 160, 1, ""),
    ("ė" + "a" * 69, "UCS-2", 70, 1, "ė"),
    ("ė" + "a" * 70, "UCS-2", 71, 2, "ė"),
    ("ė" + "a" * 133, "UCS-2", 134, 2, "ė"),
    ("🙂" * 35, "UCS-2", 70, 1, "🙂"),
    ("🙂" * 66, "UCS-2", 132, 2, "🙂"),  # 33 in each part: half of the 34th would fit
    ("🙂" * 67, "UCS-2", 134, 3, "🙂"),
    ("ėa[ė", "UCS-2", 4, 1, "ė"),
]


def test_parts_are_counted(browser: Browser, server: RunningSandbox) -> None:
    """Encoding, units, parts and what forces UCS-2 are those of GSM 03.38; nothing is split that must not be."""
    with phone(browser, server.url, f"?patient={PATIENT}") as page:
        counted = page.evaluate(
            """async texts => {
              const { segments } = await import(new URL("static/segments.js", document.baseURI));
              return texts.map(segments).map(one => [one.encoding, one.units, one.parts, one.forcing.join("")]);
            }""",
            [text for text, *_ in SEGMENTS],
        )
        assert counted == [list(wanted) for _, *wanted in SEGMENTS]
        page.locator("#text").press_sequentially("Taip, būsiu")  # key by key
        expect(page.locator("#segments")).to_have_text("UCS-2 · 11 of 70 · 1 SMS · “ū” needs UCS-2")


def test_theme_is_chosen_and_kept(browser: Browser, server: RunningSandbox) -> None:
    """The switch goes from light to dark, which stays so after a reload, and back."""
    with phone(browser, server.url) as page:
        scheme = "getComputedStyle(document.documentElement).colorScheme"
        page.get_by_role("button", name="Light or dark").click()
        assert page.evaluate(scheme) == "dark"
        page.reload()
        assert page.evaluate(scheme) == "dark"
        page.get_by_role("button", name="Light or dark").click()
        assert page.evaluate(scheme) == "light dark"
