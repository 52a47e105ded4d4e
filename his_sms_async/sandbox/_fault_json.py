"""Faults by the names of their kinds, and as the JSON of the control API."""

from collections.abc import Mapping
from typing import Any

from . import faults
from ._fault import AnyFault, fault_name


def fault_kinds() -> Mapping[str, type[AnyFault]]:
    """Return all kinds of faults by the names they have in the control API, in the order of `faults`."""
    return {
        fault_name(value): value
        for value in vars(faults).values()
        if isinstance(value, type) and issubclass(value, AnyFault) and value.__module__ == faults.__name__
    }


def fault_from(description: Mapping[str, Any]) -> AnyFault:
    """Make a fault from JSON like ``{"kind": "status", "status": 429, "times": 3}``.

    Raises:
        ValueError: The kind or an option is unknown, or a value does not fit; the text says which.
    """
    options = dict(description)
    name = options.pop("kind", None)
    kind = fault_kinds().get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"kind must be one of {', '.join(fault_kinds())}")
    known = kind.option_names()
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{name} has no option {unknown[0]!r}, but {', '.join(known) or 'none'}")
    return kind(**options)


def fault_to_json(fault: AnyFault) -> Mapping[str, Any]:
    """Return the description from which `fault_from` makes it again."""
    return {"kind": fault_name(type(fault))} | {name: getattr(fault, name) for name in fault.option_names()}
