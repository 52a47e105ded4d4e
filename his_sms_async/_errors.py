"""What can go wrong, split by what the caller can do about it.

    SmsError
    ├── ConfigurationError       mend the call or the setting; nothing was sent (also a ValueError)
    ├── AuthenticationError      mend the token or the client secret
    ├── PermissionDenied         ask for the right to use the SMS server
    ├── RequestRejected          the SMS server refuses this request for good
    │   ├── InvalidMessageOwner      … because of the sender (ErrorCode 600)
    │   └── InvalidClientNumber      … because of the recipient (ErrorCode 700)
    ├── RateLimited              try again after `retry_after` seconds
    ├── ServerFailure            try again later: the SMS server failed while it was read
    ├── ConnectionFailed         try again later: nothing reached the SMS server
    ├── ServerTimeout            try again later: the SMS server did not answer in time while it was read
    ├── ProtocolError            the answer is not what the specification promises
    ├── SendOutcomeUnknown       do not repeat: the SMS may have been sent
    └── StoreError               the poller's store
        ├── AlreadySettled           this message has had its effect; roll back
        ├── LeaseLost                another replica leads now
        ├── PositionMismatch         the stored position belongs to another SMS server
        └── UnsupportedStoreFormat   the store was written by another version

No error shows a phone number, a text, an external key or a token: not in `str`, `repr` or `args`, and not
in the local variables of the frames that its traceback carries.
"""

import copy
from collections.abc import Mapping
from datetime import datetime
from typing import Any


class SmsError(Exception):
    """Base of all errors of this package.

    Attributes:
        retryable: The same call may succeed later, and repeating it can do no harm.
        http_status: The HTTP status of the answer, if there was one.
        status_code: The `StatusCode` of the answer's Status, as the SMS server wrote it.
        error_code: The `ErrorCode` of the answer's Status: an `ErrorCode` where it is known, else as written.
    """

    retryable: bool = False
    http_status: int | None
    status_code: int | str | None
    error_code: int | str | None

    def __init__(
        self,
        message: str,
        *,
        retryable: bool | None = None,
        http_status: int | None = None,
        status_code: int | str | None = None,
        error_code: int | str | None = None,
    ) -> None:
        super().__init__(message)
        if retryable is not None:
            self.retryable = retryable
        self.http_status = http_status
        self.status_code = status_code
        self.error_code = error_code

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by attributes: subclasses have keyword arguments that `args` must not hold."""
        return _unpickled, (type(self), self.args, self.__dict__)


class ConfigurationError(SmsError, ValueError):
    """The call or a setting is wrong, and was refused before any I/O; the text names what to change."""


class AuthenticationError(SmsError):
    """The SMS server answered 401, or Azure AD refused to give a token."""


class PermissionDenied(SmsError):
    """The SMS server knows the caller and does not let it do this (403)."""


class RequestRejected(SmsError):
    """The SMS server refused the request; the same request will be refused again."""


class InvalidMessageOwner(RequestRejected):
    """ErrorCode 600: the sender is not one of the hospital's numbers."""


class InvalidClientNumber(RequestRejected):
    """ErrorCode 700: the recipient is not a number that an SMS can be sent to."""


class RateLimited(SmsError):
    """The SMS server asks to slow down (429); the request was not taken.

    Attributes:
        retry_after: Seconds that the server asks to wait, or None if it did not say.
    """

    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after


class ServerFailure(SmsError):
    """The SMS server failed while it was read (5xx, or ErrorCode 500).

    Attributes:
        retry_after: Seconds that the server asks to wait, or None if it did not say.
    """

    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after


class ConnectionFailed(SmsError):
    """Nothing reached the SMS server: no connection, no certificate that is trusted, or no token in time."""

    retryable = True


class ServerTimeout(SmsError):
    """The SMS server did not answer a read in time."""

    retryable = True


class ProtocolError(SmsError):
    """The answer is not what the specification promises.

    Attributes:
        index: The row in the answer's list, from 0, if one row is to blame.
        field: The field's name as the specification writes it, if one field is to blame.
    """

    def __init__(self, message: str, *, index: int | None = None, field: str | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.index = index
        self.field = field


class SendOutcomeUnknown(SmsError):
    """The SMS may or may not have been sent; sending it again could send it twice.

    Attributes:
        external_key: The key of the SMS, to look for it on the server.
        since: The SMS, if it was taken, was created on the server at or after this instant (aware, UTC).
    """

    external_key: int
    since: datetime

    def __init__(self, message: str, *, external_key: int, since: datetime, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.external_key = external_key
        self.since = since


class StoreError(SmsError):
    """The poller's store failed; `retryable` tells whether it may come back by itself."""


class AlreadySettled(StoreError):
    """This message was settled before: roll the transaction back, its effect stands already."""


class LeaseLost(StoreError):
    """Another replica leads now, and will deliver this message again."""


class PositionMismatch(StoreError):
    """The stored position belongs to another SMS server; `adopt` it, or use another name or store."""


class UnsupportedStoreFormat(StoreError):
    """The store was written in a format that this version does not know."""


class ForeignError(Exception):
    """What an exception from elsewhere said: its type and message, without its frames and values."""


def foreign(exception: BaseException, *, message: bool = True) -> ForeignError:
    """Keep of a foreign exception what holds no patient data.

    Libraries quote what they choke on (h11 the bytes of a header or status line, say), so a message with a
    quotation mark in it is dropped; `message=False` drops it in any case.
    """
    name = f"{type(exception).__module__}.{type(exception).__qualname__}".removeprefix("builtins.")
    text = str(exception)
    shown = text if message and not {"'", '"'} & set(text) else ""
    return ForeignError(f"{name}: {shown}" if shown else name)


def bare(error: SmsError, cause: BaseException | None = None) -> SmsError:
    """Strip an error of the frames and the context that it collected, which may hold what it must not show."""
    kept = error.__cause__ if cause is None else cause
    error.__cause__ = kept if isinstance(kept, ForeignError) else None
    error.__context__ = None
    return error.with_traceback(None)


def again(error: SmsError) -> SmsError:
    """The same error for another caller: each raises its own."""
    return bare(copy.copy(error), error.__cause__)


def _unpickled(cls: type[SmsError], args: tuple[Any, ...], attributes: Mapping[str, Any]) -> SmsError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(attributes)
    return error
