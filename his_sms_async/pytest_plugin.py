"""A pytest plugin: the stand-in for the SMS server as fixtures of your own tests.

    @pytest.mark.anyio  # or pytest.mark.asyncio
    async def test_a_no_is_received(sms_sandbox: Sandbox, sms_client: SmsClient) -> None:
        sms_sandbox.patient("37000000003").replies("No")
        async with sms_client as client:
            await remind_all(client)  # yours
            await sms_sandbox.arrival(to="37000000003", text="Will You come?")
            ...

pytest loads it wherever this library is installed; ``-p no:his_sms_async`` leaves it out. Its fixtures need the
extra ``sandbox``, and load the web server when the first of them is used.

One server per process and set of options is served on a free port of 127.0.0.1, so it works with pytest-xdist.
Before each test that uses it the sandbox is as new, and its clock tells the real time.

``@pytest.mark.sms_sandbox(...)`` on a test, a class or a module (``pytestmark``) takes ``strict``, ``tls`` (serve
https) and the arguments of `Sandbox`, as in ``@pytest.mark.sms_sandbox(timezone="Europe/Riga")``. A strict test
fails if a request of it was refused, other than by a fault, or if an SMS went to a number that it does not name,
by `Sandbox.patient`, `wait_for`, `arrival` or ``patients``. The setting ``sms_sandbox_strict = true`` makes all
tests strict that do not say ``strict=False``.
"""

import ssl
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from ._auth import BearerAuth
from ._client import SmsClient

if TYPE_CHECKING:  # the stand-in is imported when a test wants it
    from .sandbox import RunningSandbox, Sandbox

__all__ = ["sms_client", "sms_sandbox", "sms_sandbox_server", "sms_sandbox_url"]

_MARKER: Final = "sms_sandbox"
_INI: Final = "sms_sandbox_strict"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting."""
    text = "fail tests after which the sandbox met refused requests or SMS to unnamed numbers, as strict=True does"
    parser.addini(_INI, text, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Add the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(strict=False, tls=False, **options): what the fixtures of his_sms_async serve. strict=True"
        " fails a test that sends to numbers it does not name, or is refused by the SMS server"
        f" ({_INI} for all tests); tls=True serves https; options are the arguments of Sandbox.",
    )


@attrs.define(eq=False)
class _Watch:
    """The sandbox of a test that runs."""

    sandbox: "Sandbox"
    is_strict: bool
    has_passed: bool = False

    def judge(self) -> None:
        """Fail the test if it is strict and something unexpected happened."""
        unexpected = self.sandbox.unexpected() if self.is_strict else []
        if unexpected:
            head = "strict: the SMS server refused a request, or a number was never named in this test:"
            pytest.fail("\n".join([head, *(f"  {line}" for line in unexpected)]), pytrace=False)


_WATCH: Final = pytest.StashKey[_Watch]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Judge a test that passed: here that is a failure of the test, and not an error of its teardown."""
    __tracebackhide__ = True
    result = yield
    watch = item.stash.get(_WATCH, None)
    if watch is not None:
        watch.judge()
        watch.has_passed = True
    return result


@attrs.frozen(eq=False)
class _Servers:
    """The servers of this process, started when they are first wanted."""

    _stack: ExitStack
    _running: list[tuple[Mapping[str, Any], "RunningSandbox"]] = attrs.field(init=False, factory=list)

    def serving(self, options: Mapping[str, Any], *, tls: bool) -> "RunningSandbox":
        """Return the server that was started with these options, or start it."""
        wanted = {"tls": tls, **options}
        for has, server in self._running:
            if has == wanted:
                return server
        from .sandbox import Sandbox  # noqa: PLC0415 -- most processes that load this plugin need none

        try:
            server = self._stack.enter_context(Sandbox(**options).serve(tls=tls))
        except ModuleNotFoundError as missing:
            pytest.fail(
                "the fixtures of his_sms_async need its extra 'sandbox': pip install 'his_sms_async[sandbox]'"
                f" (there is no module {missing.name!r})",
                pytrace=False,
            )
        self._running.append((wanted, server))
        return server


@pytest.fixture(scope="session")
def _sms_sandbox_servers() -> Iterator[_Servers]:
    """The servers of this process; they end with its session."""
    with ExitStack() as stack:
        yield _Servers(stack)


@pytest.fixture
def sms_sandbox_server(
    request: pytest.FixtureRequest, _sms_sandbox_servers: _Servers
) -> "Iterator[RunningSandbox]":
    """The running server of `sms_sandbox`, with its `port`, and if `tls=True` its `ca_file` and `aad_instance`."""
    options: dict[str, Any] = {}
    for marker in request.node.iter_markers(_MARKER):  # the closest comes first
        if marker.args:
            pytest.fail(f"write the arguments of the marker {_MARKER} with their names", pytrace=False)
        options = {**marker.kwargs, **options}
    is_strict = options.pop("strict", request.config.getini(_INI))
    server = _sms_sandbox_servers.serving(options, tls=options.pop("tls", False))
    sandbox = server.sandbox
    if "clock" not in options:
        sandbox.settable_clock.reset()
    sandbox.reset()
    watch = request.node.stash[_WATCH] = _Watch(sandbox, is_strict)
    yield server
    if watch.has_passed:
        watch.judge()  # what other fixtures did at their end


@pytest.fixture
def sms_sandbox(sms_sandbox_server: "RunningSandbox") -> "Sandbox":
    """A stand-in for the SMS server (his_sms_async.sandbox.Sandbox), as new, served on a free port of 127.0.0.1.

    Tell its patients what to do by `sms_sandbox.patient("37000000002").replies("Yes")`, let things go wrong by
    `sms_sandbox.faults.add(Status(503, times=2))`, and see what was sent by `sms_sandbox.wait_for(to=...)`, in
    async code `await sms_sandbox.arrival(to=...)`. `@pytest.mark.sms_sandbox(strict=True)` fails the test if a
    request was refused or an SMS went to a number that it does not name.
    """
    return sms_sandbox_server.sandbox


@pytest.fixture
def sms_sandbox_url(sms_sandbox_server: "RunningSandbox") -> str:
    """The BaseAddress of `sms_sandbox`, like http://127.0.0.1:49152/, for code that makes its own client.

    Its token is `sms_sandbox.token`, and its server_timezone `sms_sandbox.timezone`.
    """
    return f"{sms_sandbox_server.url}/"


@pytest.fixture
def sms_client(sms_sandbox_server: "RunningSandbox", sms_sandbox_url: str) -> SmsClient:
    """An SmsClient of `sms_sandbox`, not yet open: the test opens it, in the event loop that it runs in.

        async def test_numbers(sms_client):
            async with sms_client as client:
                assert await client.list_numbers()

    So it is the same with pytest-asyncio, with anyio on each of its backends, and in a sync test that calls
    `anyio.run`. It has the static token of the sandbox and knows its zone.
    """
    sandbox = sms_sandbox_server.sandbox
    return SmsClient(
        sms_sandbox_url,
        auth=BearerAuth(sandbox.token or ""),
        server_timezone=sandbox.zone,
        # Without TLS no certificate is looked at, and to read all that are trusted takes 30 ms.
        verify=sms_sandbox_server.ca_file or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
