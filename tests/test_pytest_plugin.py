"""The pytest plugin, in this suite and in suites of its own: pytester writes them, and runs some as processes."""

import sys
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from his_sms_async import RequestRejected, SmsClient
from his_sms_async.sandbox import NothingArrived, RunningSandbox, Sandbox

REMINDER: dict[str, Any] = {
    "sender": "37000000001",
    "recipient": "37000000002",
    "text": "Will You come?",
    "external_key": 5,
}

# What the suites below have in common.
HEAD = f"""
    from datetime import UTC, datetime

    import anyio
    import pytest

    from his_sms_async.sandbox.faults import Status

    REMINDER = {REMINDER}

    async def remind(sandbox, client):
        sandbox.patient("37000000002").replies("Yes")
        async with client:
            receipt = await client.send(**REMINDER)
            reminder = await sandbox.arrival(to="37000000002", external_key=5)
            assert reminder.id == receipt.id
            assert reminder.created_ticks > 0
            (reply,) = await client.list_messages(date_from=receipt.created_at)
            assert (reply.text, reply.reply_to_id) == ("Yes", receipt.id)
            assert reply.updated_at.tzinfo is sandbox.zone
"""


# --- in this suite --------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_client_must_be_opened(sms_client: SmsClient) -> None:
    """The fixture leaves that to the test, and a call before it says how."""
    with pytest.raises(RuntimeError, match="use SmsClient inside `async with`"):
        await sms_client.list_numbers()
    async with sms_client as client:
        assert len(await client.list_numbers()) == 3


def test_address_is_a_base_address(sms_sandbox_url: str, sms_sandbox_server: RunningSandbox) -> None:
    """It is plain HTTP on this machine, and ends in a slash as the specification's BaseAddress does."""
    assert sms_sandbox_url == f"http://127.0.0.1:{sms_sandbox_server.port}/"
    assert httpx.get(f"{sms_sandbox_url}control/ready", trust_env=False).status_code == 200


def test_failed_wait_tells_what_did_arrive(sms_sandbox: Sandbox) -> None:
    """Number, ExternalKey and text: the failure of a test need not be debugged."""
    sms_sandbox.send(**REMINDER)
    with pytest.raises(NothingArrived) as caught:
        sms_sandbox.wait_for(to="37000000003", timeout=0)
    assert str(caught.value).splitlines() == [
        "no SMS to '37000000003' arrived within 0 s; what did arrive:",
        "  message 1 to 37000000002, external_key 5: 'Will You come?'",
    ]


@pytest.mark.sms_sandbox(timezone="Asia/Tokyo", numbers={"37000000077": 1})
@pytest.mark.anyio
async def test_marker_takes_arguments_of_the_sandbox(sms_sandbox: Sandbox, sms_client: SmsClient) -> None:
    """And the client follows."""
    assert sms_client.server_timezone == ZoneInfo("Asia/Tokyo")
    async with sms_client as client:
        with pytest.raises(RequestRejected):
            await client.send(sender="37000000001", recipient="37000000002", text="?", external_key=1)
        await client.send(sender="37000000077", recipient="37000000002", text="?", external_key=2)
    assert [message.external_key for message in sms_sandbox.sent] == [2]


@pytest.mark.sms_sandbox(tls=True)
@pytest.mark.anyio
async def test_marker_asks_for_https(sms_sandbox_url: str, sms_client: SmsClient) -> None:
    """With a certificate that the client trusts."""
    assert sms_sandbox_url.startswith("https://localhost:")
    async with sms_client as client:
        assert len(await client.list_numbers()) == 3


@pytest.mark.sms_sandbox(clock=lambda: 636_000_000_000_000_000)
def test_clock_of_the_users_own_is_left_alone(sms_sandbox: Sandbox) -> None:
    """Only the sandbox's own can be reset."""
    assert sms_sandbox.clock() == 636_000_000_000_000_000


@pytest.mark.sms_sandbox(strict=True)
@pytest.mark.xfail(raises=pytest.fail.Exception, strict=True)
def test_strict_test_fails_in_its_call(sms_sandbox: Sandbox) -> None:
    """So it is a failure of the test, which pytest can expect, and not an error of its teardown."""
    sms_sandbox.send(**REMINDER)


# --- suites as processes of their own -------------------------------------------------------------------


def test_all_kinds_of_tests_on_two_workers(pytester: pytest.Pytester) -> None:
    """Sync, pytest-asyncio and anyio on both backends; each worker has a server, and each test a new sandbox."""
    pytester.makeini(
        """
        [pytest]
        addopts = --strict-markers --strict-config
        asyncio_mode = strict
        asyncio_default_fixture_loop_scope = function
        filterwarnings = error
        """
    )
    pytester.makepyfile(
        HEAD
        + """
    def test_sync(sms_sandbox, sms_client):
        anyio.run(remind, sms_sandbox, sms_client)

    @pytest.mark.asyncio
    async def test_asyncio(sms_sandbox, sms_client):
        await remind(sms_sandbox, sms_client)

    @pytest.mark.anyio
    async def test_anyio(sms_sandbox, sms_client):
        await remind(sms_sandbox, sms_client)

    @pytest.mark.parametrize("number", range(40))
    def test_alone(number, sms_sandbox, sms_sandbox_server, worker_id, pytestconfig):
        sandbox = sms_sandbox
        assert sandbox.messages == ()
        assert sandbox.unexpected() == []
        assert [*sandbox.faults, *sandbox.journal] == []
        assert sandbox.token_requests == 0
        assert not sandbox.clock.is_frozen
        assert abs(sandbox.clock() / 10_000_000 - 62_135_596_800 - datetime.now(UTC).timestamp()) < 5
        assert sandbox.send(**REMINDER).id == 1
        assert sandbox.received == ()  # no patient answers

        sandbox.patient("37000000002").replies("No")
        sandbox.faults.add(Status(503))
        sandbox.clock.advance(86400)
        sandbox.clock.freeze()
        (pytestconfig.rootpath / f"{worker_id}.{sms_sandbox_server.port}.served").touch()
    """
    )
    result = pytester.runpytest_subprocess("-n", "2", "-q")
    result.assert_outcomes(passed=44)
    served = [path.name.split(".") for path in pytester.path.glob("*.served")]
    assert sorted(worker for worker, _, _ in served) == ["gw0", "gw1"]
    assert len({port for _, port, _ in served}) == 2


def test_entry_point_loads_little_and_auto_mode(pytester: pytest.Pytester) -> None:
    """The web server is loaded by the fixtures, and not with the plugin; an async fixture may open the client."""
    pytester.makeini(
        """
        [pytest]
        asyncio_mode = auto
        asyncio_default_fixture_loop_scope = function
        filterwarnings = error
        """
    )
    pytester.makepyfile(
        """
        import sys

        import pytest

        WEB = ("starlette", "uvicorn", "htpy", "trustme", "his_sms_async.sandbox")

        def test_loaded_by_pytest(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("his_sms_async")
            assert [name for name in WEB if name in sys.modules] == []

        @pytest.fixture
        async def client(sms_client):
            async with sms_client as client:
                yield client

        async def test_auto(client, sms_sandbox):
            assert len(await client.list_numbers()) == len(sms_sandbox.numbers)
            assert "starlette" in sys.modules
        """
    )
    pytester.runpytest_subprocess("-q").assert_outcomes(passed=2)


# --- suites in this process -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CI server is not looked for: with one, pytest tells each failure at length once more."""
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run the suite that was written; pytest-asyncio would warn of settings that it has not.

    Without settings of its own it would take those of this project, if its folder is inside of it.
    """
    if not (pytester.path / "tox.ini").exists():
        pytester.makeini("[pytest]\n")
    return pytester.runpytest_inprocess("-p", "no:asyncio", "-q", *options)


STRICTNESS = (
    HEAD
    + """
    import httpx

    def test_unnamed(sms_sandbox):
        sms_sandbox.send(**REMINDER)

    def test_refused(sms_sandbox_url):
        assert httpx.get(sms_sandbox_url, params={"type": "Numbers"}, trust_env=False).status_code == 401

    def test_fault(sms_sandbox, sms_sandbox_url):
        sms_sandbox.faults.add(Status(401))
        assert httpx.get(sms_sandbox_url, params={"type": "Numbers"}, trust_env=False).status_code == 401

    def test_named(sms_sandbox, sms_client):
        anyio.run(remind, sms_sandbox, sms_client)

    def test_fails_by_itself(sms_sandbox):
        sms_sandbox.send(**REMINDER)
        assert 1 == 2

    def test_skips_itself(sms_sandbox):
        sms_sandbox.send(**REMINDER)
        pytest.skip("no time")

    @pytest.fixture
    def late(sms_sandbox):
        yield
        sms_sandbox.send(**REMINDER)

    def test_late(late):
        pass

    def test_without():
        pass

    @pytest.mark.sms_sandbox(strict={other})
    class TestMarked:
        def test_marked(self, sms_sandbox):
            sms_sandbox.send(**REMINDER)

        @pytest.mark.sms_sandbox(timezone="Europe/Riga")
        def test_both(self, sms_sandbox):
            sms_sandbox.send(**REMINDER)

        @pytest.mark.sms_sandbox(strict={own})
        def test_closer(self, sms_sandbox):
            sms_sandbox.send(**REMINDER)
"""
)


def test_strict_setting(pytester: pytest.Pytester, sms_sandbox: Sandbox) -> None:
    """Tests fail with a list of what was unexpected, those that failed anyway with their own error only."""
    pytester.makeini("[pytest]\nsms_sandbox_strict = true\n")
    pytester.makepyfile(STRICTNESS.replace("{other}", "False").replace("{own}", "True"))
    result = run(pytester)
    result.assert_outcomes(failed=4, passed=6, skipped=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_late*",
            "strict: the SMS server refused a request, or a number was never named in this test:",
            "  message 1 to 37000000002, external_key 5: 'Will You come?'",
            "*_ test_unnamed _*",
            "strict: the SMS server refused a request, or a number was never named in this test:",
            "  message 1 to 37000000002, external_key 5: 'Will You come?'",
            "*_ test_refused _*",
            "strict: the SMS server refused a request, or a number was never named in this test:",
            "  request *, GET /?type=Numbers: 401, the bearer token is missing or not accepted",
            "*_ test_fails_by_itself _*",
            "*assert 1 == 2*",
        ]
    )
    assert result.stdout.str().count("strict: the SMS server refused") == 4


def test_strict_marker(pytester: pytest.Pytester, sms_sandbox: Sandbox) -> None:
    """Without the setting only marked tests are strict, and a closer marker adds to that of the class, or wins."""
    pytester.makepyfile(STRICTNESS.replace("{other}", "True").replace("{own}", "False"))
    result = run(pytester)
    result.assert_outcomes(failed=3, passed=7, skipped=1)
    result.stdout.fnmatch_lines_random(["*_ TestMarked.test_marked _*", "*_ TestMarked.test_both _*"])


def test_server_is_kept_as_long_as_the_options_are_the_same(
    pytester: pytest.Pytester, sms_sandbox: Sandbox
) -> None:
    """One for each set of options, however many tests; a wrong marker is an error that says so."""
    pytester.makepyfile(
        """
        import pytest

        PORTS = []

        def test_plain(sms_sandbox_server):
            PORTS.append(sms_sandbox_server.port)

        @pytest.mark.sms_sandbox(timezone="Europe/Riga")
        def test_other(sms_sandbox_server):
            PORTS.append(sms_sandbox_server.port)

        @pytest.mark.sms_sandbox(strict=True)
        def test_plain_again(sms_sandbox_server):
            PORTS.append(sms_sandbox_server.port)
            assert PORTS[0] == PORTS[2] != PORTS[1]

        @pytest.mark.sms_sandbox(True)
        def test_unnamed_argument(sms_sandbox_server):
            pass

        @pytest.mark.sms_sandbox(stric=True)
        def test_wrong_argument(sms_sandbox_server):
            pass
        """
    )
    result = run(pytester)
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(
        [
            "write the arguments of the marker sms_sandbox with their names",
            "E *TypeError: *unexpected keyword argument 'stric'",
        ]
    )


def test_missing_extra_is_named(
    pytester: pytest.Pytester, sms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each test that wants the sandbox errs with one sentence, and none is skipped."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    pytester.makepyfile(
        "def test_one(sms_sandbox): pass\ndef test_two(sms_client): pass\ndef test_three(): pass\n"
    )
    result = run(pytester)
    result.assert_outcomes(passed=1, errors=2)
    sentence = (
        "the fixtures of his_sms_async need its extra 'sandbox': pip install 'his_sms_async[[]sandbox]'"
        " (there is no module 'uvicorn')"
    )
    result.stdout.fnmatch_lines([sentence, sentence])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_marker_and_fixtures_are_documented(pytester: pytest.Pytester, sms_sandbox: Sandbox) -> None:
    """`--markers` and `--fixtures` show them."""
    run(pytester, "--markers").stdout.fnmatch_lines(["@pytest.mark.sms_sandbox(strict=False, *): *"])
    shown = run(pytester, "--fixtures").stdout
    shown.fnmatch_lines_random(
        [
            "sms_sandbox_server -- *",
            "sms_sandbox -- *",
            "    A stand-in for the SMS server *",
            "sms_sandbox_url -- *",
            "    The BaseAddress of `sms_sandbox`*",
            "sms_client -- *",
            "    An SmsClient of `sms_sandbox`, not yet open*",
        ]
    )
    shown.no_fnmatch_line("*_sms_sandbox_servers*")
