"""Makes the pictures of the sandbox's page in docs/: the same each time, for time and texts are fixed."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import attrs
from browser import NARROW, WIDE, phone, running_browser
from PIL import Image
from playwright.sync_api import Browser, Page

from his_sms_async.sandbox import Sandbox
from his_sms_async.sandbox.faults import Duplicates, Status

_EVENING: Final = datetime(2026, 3, 9, 15, 2, tzinfo=UTC)  # 17:02 in Vilnius, the day before the visits
_SENDER: Final = "37000000001"
_REMINDERS: Final = (
    ("37061200417", "A. Kazlauskienė", "07:20", "Yes, thank you! Do I have to come without breakfast?"),
    ("37000000003", "J. Ozols", "07:40", "No"),
    ("37068840992", "L. Kalna", "08:00", None),
    ("37000000103", "P. Liepa", "08:20", None),
    ("37060031845", "M. Egle", "08:40", "Taip, ateisiu. Ačiū!"),
)


def demo() -> Sandbox:
    """Return a sandbox in the middle of an evening of reminders."""
    sandbox = Sandbox(random_seed=1)
    clock = sandbox.settable_clock
    clock.freeze()
    clock.set(_EVENING)
    sandbox.patient("37068840992").receives("Enroute", "Delivered", after=3600)
    for key, (number, _, at, answer) in enumerate(_REMINDERS, start=27338):
        _remind(sandbox, number, f"You are registered on 2026-03-10 (Tu) {at}. Will You come?", key)
        clock.advance(47)
        if answer is not None:
            reminder = sandbox.sent[-1]
            sandbox.patient(number).writes(answer, reply_to=reminder.id)
            _noted(sandbox, "GET", "/?type=Incoming&dateFrom=2026-03-09%2017:00:00.0000000", seconds=0.009)
            clock.advance(34)
    sandbox.patient("37000000002").replies("Yes", after=2)
    _remind(sandbox, "37000000002", "You are registered on 2026-03-10 (Tu) 07:00. Will You come?", 27343)
    clock.advance(151)
    sandbox.send(
        sender="RSL_HOSP",
        recipient="37000000002",
        text="Please bring Your ID card and the results of blood tests.",
        external_key=27344,
    )
    _noted(sandbox, "POST", "/", body='{"Id": null, "From": "RSL_HOSP", "To": "37000000002"}', seconds=0.014)
    clock.advance(64)
    sandbox.patient("37000000002").writes("Ar galiu ateiti su dukra? Ji padės išversti.", to=_SENDER)
    clock.advance(31)
    sandbox.patient("37000000002").stays_silent()
    _remind(sandbox, "37000000002", "Yes, of course. See You tomorrow at 07:00!", 27345)
    sandbox.faults.add(Status(503, times=3, request="list"))
    sandbox.faults.add(Duplicates())
    _noted(
        sandbox,
        "GET",
        "/?type=Incoming&dateFrom=2026-03-09%2017:05:12.4410000",
        seconds=0.003,
        status=503,
        faults=("status",),
        outcome="a fault that is switched on",
    )
    clock.advance(10)
    _noted(sandbox, "GET", "/?type=Incoming&dateFrom=2026-03-09%2017:05:12.4410000", seconds=0.011)
    return sandbox


def _remind(sandbox: Sandbox, number: str, text: str, key: int) -> None:
    body = f'{{"Id": null, "From": "{_SENDER}", "To": "{number}", "Text": "{text}", "ExternalKey": {key}}}'
    sandbox.send(sender=_SENDER, recipient=number, text=text, external_key=key)
    _noted(sandbox, "POST", "/", body=body, seconds=0.012)


def _noted(
    sandbox: Sandbox,
    method: str,
    target: str,
    *,
    seconds: float,
    body: str = "",
    status: int = 200,
    faults: tuple[str, ...] = (),
    outcome: str = "",
) -> None:
    headers = {"authorization": "Bearer sandbox-token"} | ({"content-type": "application/json"} if body else {})
    exchange = sandbox.journal.begin(
        at=sandbox.clock(), method=method, target=target, headers=headers, body=body.encode()
    )
    sandbox.journal.end(attrs.evolve(exchange, status=status, seconds=seconds, faults=faults, outcome=outcome))


def picture(
    browser: Browser, url: str, path: Path, address: str, *, width: int, scheme: Literal["light", "dark"]
) -> None:
    """Write the picture of a page to `path`, two pixels for one."""
    with phone(browser, url, address, width=width, scheme=scheme, scale=2) as page:
        _settle(page)
        page.screenshot(path=path)
    with Image.open(path) as full:
        full.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _settle(page: Page) -> None:
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def main(folder: Path) -> None:
    """Write all pictures."""
    folder.mkdir(exist_ok=True)
    patient = "?patient=37000000002"
    with running_browser() as browser, demo().serve(port=8025) as server:
        url = server.url
        picture(browser, url, folder / "phone-light.png", patient, width=WIDE, scheme="light")
        picture(browser, url, folder / "phone-dark.png", f"{patient}&tab=faults", width=WIDE, scheme="dark")
        picture(browser, url, folder / "phone-narrow.png", patient, width=NARROW, scheme="light")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs"))
