"""Values that no `repr` shows, so that neither a log nor an error tracker's list of locals can."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Hidden(Generic[T]):
    """Holds a secret, a phone number, a text or a body; only `reveal()` gives it out."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """Return the value; the caller keeps it out of every local variable that outlives the expression."""
        return self._value

    def __repr__(self) -> str:
        return "<hidden>"
