"""The panel beside the thread: the journal of requests, the faults, the clock, and numbers to know."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin

import attrs
import htpy as h

from ._clock import SandboxClock
from ._fault import AnyFault, Fault, Happening, fault_name, first_sentence
from ._fault_json import fault_kinds
from ._fragments import clock_face
from ._html import TABS, Tab, View, alert, counted, day, local, shown, time_of
from ._journal import Exchange
from ._magic import MAGIC_NUMBERS
from ._messages import STATES
from ._state import Sandbox
from ._switchboard import Switch

EXCHANGES_SHOWN: Final = 100

_LABELS: Final[Mapping[str, str]] = {
    "times": "How many requests, then off",
    "every": "The first of every so many requests",
    "probability": "Probability, from 0 to 1",
    "number": "Only from or to this number",
    "request": "Only requests of this kind",
    "taken": "after the request was carried out",
    "retry_after": "Retry-After, seconds",
    "error_code": "ErrorCode",
    "status": "HTTP status",
}
_COMMON: Final = tuple(field.name for field in attrs.fields(Fault))
_GROUPS: Final = (
    "Instead of the answer",
    "What becomes of the answer",
    "Rows of a list",
    "What patients write",
    "Tokens",
    "Happens once",
)


def panels(sandbox: Sandbox, view: View, url: str) -> list[h.Element]:
    """Return the panels of all tabs, filled only that of `view`."""
    return [panel(sandbox, view, url) if tab == view.tab else _panel(tab, is_selected=False)[None] for tab in TABS]


def panel(sandbox: Sandbox, view: View, url: str) -> h.Element:
    """Return the panel that `view` shows; `url` is that of the server."""
    content: Mapping[Tab, Callable[[], h.Node]] = {
        "journal": lambda: _journal(sandbox, url),
        "faults": lambda: _faults(sandbox),
        "clock": lambda: _clock(sandbox),
        "numbers": lambda: _numbers(sandbox, view),
    }
    return _panel(view.tab, is_selected=True)[h.h2(".hidden")[view.tab.capitalize()], content[view.tab]()]


def _panel(tab: Tab, *, is_selected: bool) -> h.Element:
    return h.section(
        id=f"panel-{tab}",
        role="tabpanel",
        aria_labelledby=f"tab-{tab}",
        tabindex="0",
        hidden=not is_selected,
    )


# The journal


def _journal(sandbox: Sandbox, url: str) -> h.Node:
    exchanges = list(sandbox.journal)
    newest = list(islice(reversed(exchanges), EXCHANGES_SHOWN))
    left = len(exchanges) - len(newest)
    return [
        h.div(".panel-head")[
            h.p[
                f"{counted(len(exchanges), 'request', 'requests')}, newest first"
                if exchanges
                else "Requests to the server"
            ],
            bool(exchanges) and h.button("#clear-journal", type="button")["Clear"],
        ],
        alert(),
        not exchanges
        and h.p(".empty", data_key="none")[
            "No request yet. Each one to the server will be told here, with its answer."
        ],
        h.div("#exchanges")[(_exchange(sandbox, exchange, url) for exchange in newest)],
        left > 0 and h.p(".more")[f"and {counted(left, 'older one', 'older ones')}, in GET /control/journal"],
    ]


def _exchange(sandbox: Sandbox, exchange: Exchange, url: str) -> h.Element:
    curl = exchange.as_curl(url)
    is_open = exchange.seconds is None
    return h.details(".exchange", data_key=f"exchange-{exchange.id}-{exchange.at}")[
        h.summary[
            h.span(class_=["status", _status_mood(exchange)])[
                "…" if is_open else "no answer" if exchange.status is None else str(exchange.status)
            ],
            h.span(".request")[h.b[exchange.method], " ", h.bdi[shown(exchange.target)], _recipient(exchange)],
            h.span(".meta")[
                time_of(exchange.at, sandbox, f"{local(exchange.at, sandbox):%H:%M:%S}"),
                h.span["under way" if exchange.seconds is None else _duration(exchange.seconds)],
                (h.span(".fault-name")[name] for name in exchange.faults),
                exchange.outcome and h.span(".outcome")[shown(exchange.outcome)],
            ],
        ],
        exchange.body
        and [h.h3["Body"], h.pre(tabindex="0", aria_label="Body")[h.code(dir="auto")[shown(exchange.body)]]],
        h.h3["As curl"],
        h.pre(tabindex="0", aria_label="As curl")[h.code[shown(curl)]],
        h.button(type="button", data_copy=curl)["Copy as curl"],
    ]


def _recipient(exchange: Exchange) -> h.Node:
    """Return whom an SMS is for, which tells a request to send from another."""
    found = re.search(r'"To"\s*:\s*"([^"\\]{1,40})"', exchange.body)
    return found and h.span(".recipient")[" to ", h.bdi[shown(found[1])]]


def _status_mood(exchange: Exchange) -> str:
    if exchange.status is None:
        return "waiting" if exchange.seconds is None else "bad"
    return "good" if exchange.status < 300 and not exchange.outcome else "bad"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


# The faults


def _faults(sandbox: Sandbox) -> h.Node:
    switches = list(sandbox.faults)
    kinds: dict[str, list[tuple[str, type[AnyFault]]]] = {group: [] for group in _GROUPS}
    for name, kind in fault_kinds().items():
        kinds[_group_of(kind)].append((name, kind))
    return [
        h.div("#active-faults")[
            h.div(".panel-head")[
                h.p[
                    f"{counted(len(switches), 'fault', 'faults')} switched on"
                    if switches
                    else "All goes well: no fault is on"
                ],
                bool(switches) and h.button("#all-off", type="button")["All off"],
            ],
            alert(),
            bool(switches) and h.ul[(_active(switch) for switch in switches)],
        ],
        (
            [h.h3[group], (_kind(name, kind, switches) for name, kind in members)]
            for group, members in kinds.items()
        ),
        h.datalist("#states")[(h.option(value=state) for state in STATES)],
    ]


def _group_of(kind: type[AnyFault]) -> str:
    if issubclass(kind, Happening):
        return "Happens once"
    if kind.acts_on_new:
        return "What patients write"
    if kind.acts_on == {"token"}:
        return "Tokens"
    if kind.acts_on == {"list"}:
        return "Rows of a list"
    is_instead = kind.instead is not Fault.instead or not kind.acts_on
    return "Instead of the answer" if is_instead else "What becomes of the answer"


def _active(switch: Switch) -> h.Element:
    fault, name = switch.fault, fault_name(type(switch.fault))
    options = {
        field.name: getattr(fault, field.name)
        for field in sorted(attrs.fields(type(fault)), key=lambda field: field.name in _COMMON)
        if field.init and (field.name not in _COMMON or getattr(fault, field.name) != field.default)
    }
    told = ", ".join(
        f"{option}={shown(str(value))}" for option, value in options.items() if value not in (None, False)
    )
    return h.li(data_key=f"switch-{switch.id}")[
        h.p[h.b[name], " ", told and h.code[told]],
        h.p(".meta")[
            h.span[
                "struck once"
                if switch.struck == 1
                else f"struck {switch.struck} times"
                if switch.struck
                else "not struck yet"
            ],
            switch.left is not None and h.span[f"{switch.left} left"],
        ],
        h.button(type="button", data_off=str(switch.id))["Off", h.span(".hidden")[f": {name}"]],
    ]


def _kind(name: str, kind: type[AnyFault], switches: Sequence[Switch]) -> h.Element:
    fields = [attrs.fields_dict(kind)[option] for option in kind.option_names()]
    own = sorted((field for field in fields if field.name not in _COMMON), key=_is_box)
    common = [field for field in fields if field.name in _COMMON and _is_of_use(kind, field.name)]
    ids = [str(switch.id) for switch in switches if type(switch.fault) is kind]
    title = f"fault-{name}"
    return h.form(".fault", data_kind=name, novalidate=True)[
        h.h4(id=title)[name],
        _button(name, kind, ids),
        h.p(".doc", id=f"{title}-doc")[_marked_up(first_sentence(kind))],
        bool(own) and h.div(".options")[(_option(name, field) for field in own)],
        bool(common)
        and h.details[
            h.summary["How often, and whom"],
            h.div(".options")[(_option(name, field) for field in common)],
        ],
        alert(),
    ]


def _button(name: str, kind: type[AnyFault], ids: Sequence[str]) -> h.Element:
    if issubclass(kind, Happening):
        return h.button(type="submit", aria_describedby=f"fault-{name}-doc")[
            "Do it", h.span(".hidden")[f": {name}"]
        ]
    return h.button(
        ".switch",
        type="submit",
        role="switch",
        aria_checked="true" if ids else "false",
        aria_labelledby=f"fault-{name}",
        aria_describedby=f"fault-{name}-doc",
        data_ids=" ".join(ids),
    )


def _is_of_use(kind: type[AnyFault], option: str) -> bool:
    """Return whether an option can tell anything apart that this kind strikes."""
    return option != "request" or (issubclass(kind, Fault) and len(kind.acts_on) > 1)


def _is_box(field: "attrs.Attribute[Any]") -> bool:
    return field.type is bool


def _marked_up(sentence: str) -> h.Node:
    return [h.code[part] if index % 2 else part for index, part in enumerate(sentence.split("`"))]


def _option(kind: str, field: "attrs.Attribute[Any]") -> h.Element:
    name, default = field.name, field.default
    label, id_ = _LABELS.get(name, name.replace("_", " ").capitalize()), f"fault-{kind}-{name}"
    types, choices = _types_of(field)
    if _is_box(field):
        return h.label(".check")[
            h.input(id=id_, type="checkbox", name=name, data_type="bool", checked=bool(default)), label
        ]
    entry: h.Node
    if choices:
        entry = h.select(id=id_, name=name, data_type="text")[
            NoneType in types and h.option(value="")["any"],
            (h.option(value=choice, selected=choice == default)[choice] for choice in choices),
        ]
    else:
        is_number = int in types or float in types
        entry = h.input(
            id=id_,
            type="number" if is_number else "text",
            step="any" if float in types else None,
            name=name,
            value="" if default is None else f"{default:g}" if float in types else str(default),
            list="states" if name == "state" else None,
            data_type="number" if is_number else "text",
            autocomplete="off",
        )
    return h.div[h.label(for_=id_)[label], entry]


def _types_of(field: "attrs.Attribute[Any]") -> tuple[Sequence[Any], Sequence[str]]:
    """Return the plain types of a field, and if it is a choice the texts to choose from."""
    is_one = get_origin(field.type) in (None, Literal)
    parts = [field.type] if is_one else list(get_args(field.type))
    return parts, [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]


# The clock


def _clock(sandbox: Sandbox) -> h.Node:
    clock, ticks = sandbox.clock, sandbox.clock()
    now = local(ticks, sandbox)
    is_settable = isinstance(clock, SandboxClock)
    is_frozen = isinstance(clock, SandboxClock) and clock.is_frozen
    return h.div("#clock")[
        h.p(".big")[clock_face(ticks, sandbox, is_frozen=is_frozen)],
        h.p[day(now)],
        h.p(".meta")[
            h.span[sandbox.timezone],
            h.span[f"UTC{now.isoformat()[-6:]}"],
            h.span["stopped" if is_frozen else "running"],
        ],
        alert(),
        _clock_buttons(now.isoformat(timespec="seconds"), is_frozen=is_frozen)
        if is_settable
        else h.p(".hint")["This sandbox was given a clock of its program’s own: it cannot be set here."],
    ]


def _clock_buttons(now: str, *, is_frozen: bool) -> h.Node:
    def button(text: str, **asked: Any) -> h.Element:
        return h.button(type="button", data_clock=json.dumps(asked))[text]

    return [
        h.div(".buttons")[
            button("+1 min", advance=60),
            button("+1 h", advance=3600),
            button("+1 day", advance=86400),
            button("−1 h", advance=-3600),
        ],
        h.div(".buttons")[
            button("Run", freeze=False) if is_frozen else button("Stop", freeze=True),
            button("Real time", reset=True),
            h.button("#autumn", type="button")["Autumn night"],
        ],
        h.form("#set-clock")[
            h.label(for_="instant")["Set it to an instant"],
            h.div(".fields")[
                h.input(
                    "#instant",
                    value=now,
                    required=True,
                    autocomplete="off",
                    spellcheck="false",
                    aria_describedby="instant-hint",
                ),
                h.button(type="submit")["Set"],
            ],
            h.p("#instant-hint.hint")["With its offset from UTC: an hour that comes twice is told apart by it."],
        ],
        h.p(".hint")[
            "Autumn night goes to ten minutes before the hour that comes twice. "
            "Answers and states that are on their way follow this clock."
        ],
    ]


# Numbers


def _numbers(sandbox: Sandbox, view: View) -> h.Node:
    return [
        h.h3("#magic-title")["Magic numbers"],
        h.p(".hint")[
            "What happens to an SMS is said by the number alone."
            if sandbox.magic_numbers
            else "They are switched off in this sandbox: magic_numbers=False."
        ],
        h.table(aria_labelledby="magic-title")[
            h.thead[h.tr[h.th(scope="col")["To"], h.th(scope="col")["What happens"]]],
            h.tbody[
                (
                    h.tr[h.td[h.a(href=view.link(patient=magic.number))[magic.number]], h.td[magic.meaning]]
                    for magic in MAGIC_NUMBERS
                )
            ],
        ],
        h.h3("#hospital-title")["The hospital’s numbers"],
        h.table(aria_labelledby="hospital-title")[
            h.thead[h.tr[h.th(scope="col")["From"], h.th(scope="col")["OperatorNumberId"]]],
            h.tbody[
                (
                    h.tr[h.td[h.bdi[shown(number)]], h.td[str(number_id)]]
                    for number, number_id in sandbox.numbers.items()
                )
            ],
        ],
    ]
