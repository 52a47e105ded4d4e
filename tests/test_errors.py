"""The errors: their tree, what they carry, and what they do not show."""

import copy
import inspect
import pickle
import re
from datetime import UTC, datetime
from typing import Any

import pytest

import his_sms_async
from his_sms_async import (
    AlreadySettled,
    AuthenticationError,
    ConfigurationError,
    ConnectionFailed,
    ErrorCode,
    InvalidClientNumber,
    InvalidMessageOwner,
    LeaseLost,
    PermissionDenied,
    PositionMismatch,
    ProtocolError,
    RateLimited,
    RequestRejected,
    SendOutcomeUnknown,
    ServerFailure,
    ServerTimeout,
    SmsError,
    StoreError,
    UnsupportedStoreFormat,
    _errors,
)
from his_sms_async._errors import ForeignError, bare, foreign
from his_sms_async._hidden import Hidden

TREE: dict[type[SmsError], tuple[type[BaseException], ...]] = {
    SmsError: (Exception,),
    ConfigurationError: (SmsError, ValueError),
    AuthenticationError: (SmsError,),
    PermissionDenied: (SmsError,),
    RequestRejected: (SmsError,),
    InvalidMessageOwner: (RequestRejected,),
    InvalidClientNumber: (RequestRejected,),
    RateLimited: (SmsError,),
    ServerFailure: (SmsError,),
    ConnectionFailed: (SmsError,),
    ServerTimeout: (SmsError,),
    ProtocolError: (SmsError,),
    SendOutcomeUnknown: (SmsError,),
    StoreError: (SmsError,),
    AlreadySettled: (StoreError,),
    LeaseLost: (StoreError,),
    PositionMismatch: (StoreError,),
    UnsupportedStoreFormat: (StoreError,),
}
RETRYABLE = {RateLimited, ServerFailure, ConnectionFailed, ServerTimeout}
SINCE = datetime(2026, 3, 10, 10, 0, tzinfo=UTC)
NEEDED: dict[type[SmsError], dict[str, Any]] = {
    SendOutcomeUnknown: {"external_key": 27342, "since": SINCE},
}
OWN: dict[type[SmsError], dict[str, Any]] = {
    RateLimited: {"retry_after": 2.5},
    ServerFailure: {"retry_after": 2.5},
    ProtocolError: {"index": 3, "field": "CreatedAt"},
    SendOutcomeUnknown: NEEDED[SendOutcomeUnknown],
}
FACTS: dict[str, Any] = {"http_status": 502, "status_code": "Bad Gateway", "error_code": ErrorCode.INTERNAL}


def test_the_tree_is_as_the_contract_says() -> None:
    """Each class has its place, and each is public."""
    assert {cls: cls.__bases__ for cls in TREE} == TREE
    defined = {
        member
        for _, member in inspect.getmembers(_errors, inspect.isclass)
        if issubclass(member, SmsError) and member.__module__ == _errors.__name__
    }
    assert defined == set(TREE)
    assert all(getattr(his_sms_async, cls.__name__) is cls for cls in TREE)
    assert {cls.__name__ for cls in TREE} <= set(his_sms_async.__all__)


def test_the_tree_is_as_drawn() -> None:
    """The drawing in the module's docstring has each class under its base."""
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (_errors.__doc__ or "").splitlines():
        found = re.match(r"    ((?:│   |    )*(?:[├└]── )?)([A-Z]\w+)\b", line)
        if found:
            del above[len(found[1]) // 4 :]
            drawn[found[2]] = above[-1] if above else "Exception"
            above.append(found[2])
    assert drawn == {cls.__name__: bases[0].__name__ for cls, bases in TREE.items()}


@pytest.mark.parametrize("cls", TREE)
def test_retryable_by_default(cls: type[SmsError]) -> None:
    """What may pass by itself and harms nobody when repeated is retryable; each error can say otherwise."""
    error = cls("text", **NEEDED.get(cls, {}))
    assert error.retryable is (cls in RETRYABLE)
    assert cls("text", retryable=True, **NEEDED.get(cls, {})).retryable is True
    assert cls("text", retryable=False, **NEEDED.get(cls, {})).retryable is False
    assert (error.http_status, error.status_code, error.error_code) == (None, None, None)
    assert cls.retryable is (cls in RETRYABLE)


@pytest.mark.parametrize("cls", TREE)
def test_errors_can_be_pickled_and_copied(cls: type[SmsError]) -> None:
    """Each class comes back from another process as it was, with every attribute."""
    error = cls("text", retryable=True, **FACTS, **OWN.get(cls, {}))
    error.add_note("a note")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is cls
        assert again.args == ("text",)
        assert (
            vars(again) == vars(error) == {"retryable": True, "__notes__": ["a note"], **FACTS, **OWN.get(cls, {})}
        )
    twin = copy.copy(error)
    assert (type(twin), str(twin), vars(twin)) == (cls, "text", vars(error))


def test_a_refused_setting_is_a_value_error() -> None:
    """Who catches ValueError for wrong arguments catches ours."""
    with pytest.raises(ValueError, match="timeout"):
        raise ConfigurationError("timeout must be greater than 0")


def test_optional_facts_default_to_none() -> None:
    """What the server did not say is None."""
    assert RateLimited("text").retry_after is None
    error = ProtocolError("text")
    assert (error.index, error.field) == (None, None)


def test_facts_are_not_shown() -> None:
    """An external key and a code are attributes; the text is all that is printed."""
    error = SendOutcomeUnknown("unknown", external_key=27342, since=SINCE, error_code="27342")
    assert (str(error), repr(error), error.args) == ("unknown", "SendOutcomeUnknown('unknown')", ("unknown",))
    assert (error.external_key, error.since, error.error_code) == (27342, SINCE, "27342")


@pytest.mark.parametrize(
    ("exception", "shown"),
    [
        (OSError("no route to host"), "OSError: no route to host"),
        (ValueError(), "ValueError"),
        (ValueError("illegal header line: bytearray(b'37000000002')"), "ValueError"),
        (ValueError('bad value "37000000002"'), "ValueError"),
        (KeyError("37000000002"), "KeyError"),
        (pickle.PicklingError("no"), "_pickle.PicklingError: no"),
    ],
)
def test_foreign_exceptions_are_told_without_quotations(exception: BaseException, shown: str) -> None:
    """Type and message are kept, but no message that quotes."""
    error = foreign(exception)
    assert type(error) is ForeignError
    assert str(error) == shown
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


def test_foreign_messages_can_be_dropped() -> None:
    """Of a user's token provider the type is told, and nothing else."""
    assert str(foreign(OSError("token abc"), message=False)) == "OSError"


def caught() -> SmsError:
    """An error that was raised while another one was handled, with all that it collected."""
    try:
        try:
            raise KeyError("37000000002")  # noqa: TRY301
        except KeyError:
            raise ServerFailure("failed", http_status=500)  # noqa: B904
    except ServerFailure as error:
        return error


def test_bare_strips_frames_and_context() -> None:
    """A stripped error is the same object, without frames, context and foreign cause."""
    error = caught()
    assert error.__traceback__ is not None
    assert error.__context__ is not None
    assert bare(error) is error
    assert vars(error)["http_status"] == 500
    carried: tuple[Any, ...] = (error.__traceback__, error.__cause__, error.__context__)
    assert carried == (None, None, None)


def test_bare_keeps_what_a_foreign_exception_said() -> None:
    """The cause that is given, or was there, stays if it is type and message alone."""
    cause = foreign(OSError("no route to host"))
    assert bare(caught(), cause).__cause__ is cause
    error = caught()
    error.__cause__ = cause
    assert bare(error).__cause__ is cause


@pytest.mark.parametrize("given", ["argument", "attribute"])
def test_bare_keeps_no_exception_of_others(given: str) -> None:
    """A cause with frames and values of its own does not stay."""
    error = caught()
    cause = KeyError("37000000002")
    if given == "attribute":
        error.__cause__ = cause
        bare(error)
    else:
        bare(error, cause)
    assert error.__cause__ is None or isinstance(error.__cause__, ForeignError)
    assert "37000000002" not in str(error.__cause__)


def test_hidden_values_are_not_shown() -> None:
    """A hidden value is given out by `reveal` alone."""
    hidden = Hidden("37000000002")
    assert hidden.reveal() == "37000000002"
    assert "37000000002" not in f"{hidden} {hidden!r} {[hidden]}"
