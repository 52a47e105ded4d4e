"""A real browser for tests of the sandbox's page: the chromium that is installed, driven by Playwright."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

import pytest

pytest.importorskip("playwright.sync_api", reason="no browser: pip install playwright, apt-get install chromium")

from axe_playwright_python.base import AXE_SCRIPT  # type: ignore[import-untyped]
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

WIDE: Final = 1280
NARROW: Final = 390
NO_SERVER: Final = "net::ERR_|Failed to fetch"
REFUSED: Final = "responded with a status of 4"


_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-lcd-text",  # so that pictures are the same each time
    "--font-render-hinting=none",
]

expect.set_options(timeout=10_000)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run the browser that is installed, or skip the test."""
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no browser: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def phone(
    browser: Browser,
    url: str,
    address: str = "",
    *,
    width: int = WIDE,
    scheme: Literal["light", "dark"] = "light",
    scale: float = 1,
    expected: str | None = None,
) -> Iterator[Page]:
    """Open the page of the sandbox at `url`, and find at the end that it told of no error and asked nobody else.

    Args:
        browser: Where it is opened.
        url: Of the server.
        address: What follows ``/phone/``.
        width: Of the window, in pixels.
        scheme: The colours that the system prefers.
        scale: Pixels of the screen for one of the page.
        expected: A pattern of what the browser may complain about.
    """
    context = browser.new_context(
        viewport={"width": width, "height": 844 if width == NARROW else 800},
        color_scheme=scheme,
        device_scale_factor=scale,
        reduced_motion="reduce",
    )
    page = context.new_page()
    problems: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not (expected and re.search(expected, message.text)):
            problems.append(f"{message.type}: {message.text}")

    def on_request(request: Request) -> None:
        if not request.url.startswith(url):
            problems.append(f"asked {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(f"uncaught: {error}"))
    page.on("request", on_request)
    try:
        page.goto(f"{url}/phone/{address}")
        is_connected(page)
        yield page
    finally:
        context.close()
    if problems:
        pytest.fail("the page has problems: " + "; ".join(problems))


def is_connected(page: Page) -> None:
    """Wait until the page hears from the server."""
    expect(page.locator("#connection")).to_have_text("Connected")


def barriers(page: Page) -> list[str]:
    """Return what axe finds that keeps people from using the page, in light and in dark, one line each.

    The page must be in light, and is so afterwards.
    """
    if page.evaluate("typeof axe === 'undefined'"):  # once for each document
        page.evaluate(AXE_SCRIPT)
    lines = _broken_rules(page, "light")
    _recolour(page, "dark")
    lines += _broken_rules(page, "dark")
    _recolour(page, "light")
    return lines


def _broken_rules(page: Page, scheme: str) -> list[str]:
    script = "async () => (await axe.run({resultTypes: ['violations']})).violations"
    return [
        f"{scheme}, {one['id']}: {node['target']} {node['failureSummary']}"
        for one in page.evaluate(script)
        for node in one["nodes"]
    ]


def _recolour(page: Page, scheme: Literal["light", "dark"]) -> None:
    """Let the system prefer other colours, and wait until everything has them."""
    before = page.evaluate("getComputedStyle(document.body).color")
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(
        """before => getComputedStyle(document.body).color !== before
          && !document.getAnimations().some(one => one instanceof CSSTransition)""",
        arg=before,
    )
