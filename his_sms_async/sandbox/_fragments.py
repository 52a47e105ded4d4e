"""What changes on the page as HTML: the conversations, and one patient's thread. `_frame` stands around them.

What can change stands in an element with an id, and in lists with a data-key: by these the page's script brings
what is shown up to date, and leaves everything else as it is.
"""

from collections.abc import Iterator
from typing import Final
from zlib import crc32

import htpy as h

from ._clock import TICKS_PER_SECOND, SandboxClock
from ._conversations import Conversation, Found, Thread
from ._html import View, counted, day, icon, local, shown, time_of
from ._journal import Exchange
from ._messages import SandboxMessage
from ._patients import is_phone_number, is_read, key_of
from ._state import Sandbox

_GOOD: Final = frozenset({"Delivered", "Seen"})
_TINTS: Final = 6
_SNIPPET: Final = 120  # characters
_BEFORE: Final = 8  # characters that are shown before what was searched for


def status(sandbox: Sandbox, view: View) -> h.Element:
    """Return what the bar at the top tells of the server: its time, and the faults that are on."""
    ticks, faults = sandbox.clock(), len(sandbox.faults)
    is_frozen = isinstance(sandbox.clock, SandboxClock) and sandbox.clock.is_frozen
    return h.div("#status")[
        h.a(
            class_=["chip", {"frozen": is_frozen}],
            href=view.link(tab="clock"),
            data_tab="clock",
            title=f"The server's clock, {sandbox.timezone}",
        )[
            icon("clock"),
            h.span(".hidden")["The server’s clock, stopped: " if is_frozen else "The server’s clock: "],
            clock_face(ticks, sandbox, is_frozen=is_frozen),
        ],
        h.a(class_=["chip", {"struck": faults > 0}], href=view.link(tab="faults"), data_tab="faults")[
            icon("fault"),
            str(faults),
            h.span(".word", aria_hidden="true")["fault" if faults == 1 else "faults"],
            h.span(".hidden")["faults switched on"],
        ],
        h.a("#to-tools.chip", href=view.link(tab=view.tab), data_tab=view.tab)[
            icon("tools"), h.span(".hidden")["Tools"]
        ],
    ]


def clock_face(ticks: int, sandbox: Sandbox, *, is_frozen: bool) -> h.Element:
    """Return the server's time, which the page's script lets run on."""
    now = local(ticks, sandbox)
    return h.time(
        ".face",
        datetime=now.isoformat(),
        data_face=str(round(now.timestamp() * 1000)),
        data_zone=sandbox.timezone,
        data_frozen=is_frozen,
    )[f"{now:%H:%M:%S}"]


# The conversations


def conversations(sandbox: Sandbox, view: View, found: Found, curl: str) -> h.Element:
    """Return the list of patients; if there are none, `curl` shows how a first SMS is sent."""
    left = found.conversations_in_all - len(found.conversations)
    messages_left = found.messages_in_all - len(found.messages)
    has_patients, has_messages = bool(found.conversations), bool(found.messages)
    return h.div("#conversations")[
        not (has_patients or has_messages) and (_nothing_found(view) if view.search else _nothing_yet(curl)),
        has_patients and view.search != "" and h.h2["Patients"],
        has_patients and h.ul[(_conversation(sandbox, view, one) for one in found.conversations)],
        left > 0
        and h.p(".more")[f"and {counted(left, 'older conversation', 'older conversations')}: search finds them"],
        has_messages and h.h2["Messages"],
        has_messages and h.ul[(_hit(sandbox, view, message) for message in found.messages)],
        messages_left > 0
        and h.p(".more")[
            f"and {counted(messages_left, 'older message', 'older messages')}: search for more of its text"
        ],
        h.p(".hidden", role="status")[_told(found) if view.search else None],
    ]


def _told(found: Found) -> str:
    patients = counted(found.conversations_in_all, "patient", "patients")
    return f"Found {patients} and {counted(found.messages_in_all, 'message', 'messages')}."


def _nothing_found(view: View) -> h.Element:
    return h.div(".empty", data_key="nothing-found")[
        h.p["No number, text or state has this in it."],
        is_phone_number(view.search)
        and h.p[h.a(".button", href=view.link(patient=view.search))[f"Open {view.search} as a patient"]],
    ]


def _nothing_yet(curl: str) -> h.Element:
    return h.div(".empty", data_key="nothing-yet")[
        h.p["No SMS yet. Let your program send one, or try:"],
        h.pre[h.code[curl]],
        h.button(type="button", data_copy=curl)["Copy"],
    ]


def _conversation(sandbox: Sandbox, view: View, one: Conversation) -> h.Element:
    is_open = key_of(one.number) == key_of(view.patient)
    return _row(
        sandbox, one.last, href=view.link(patient=one.number), key=f"patient-{one.number}", is_open=is_open
    )


def _hit(sandbox: Sandbox, view: View, message: SandboxMessage) -> h.Element:
    href = view.link(patient=message.patient, message=message.id)
    is_open = message.id == view.message
    return _row(sandbox, message, href=href, key=f"hit-{message.id}", is_open=is_open, search=view.search)


def _row(
    sandbox: Sandbox, message: SandboxMessage, *, href: str, key: str, is_open: bool, search: str = ""
) -> h.Element:
    is_hospitals = message.type == "Outgoing"
    return h.li(data_key=shown(key))[
        h.a(class_=["row", {"hit": search != ""}], href=href, aria_current="true" if is_open else None)[
            avatar(message.patient),
            h.span(".number")[h.bdi[shown(message.patient)]],
            time_of(message.created_ticks, sandbox, _age(message.created_ticks, sandbox)),
            h.span(".snippet")[
                h.span(".who")["Hospital: " if is_hospitals else "Patient: "],
                h.bdi[_snippet(message.text, search)],
            ],
            is_hospitals and _state_in_short(message.state, is_asked_for=search != ""),
        ]
    ]


def _snippet(text: str, search: str) -> h.Node:
    """Return the beginning of a text, or with `search` the part around it."""
    place = text.lower().find(search.lower()) if search else -1
    if place < 0:
        return shown(text[:_SNIPPET])
    begin, end = max(0, place - _BEFORE), place + len(search)
    before, after = text[begin:place], text[end : end + _SNIPPET]
    return ["… " if begin else "", shown(before), h.mark[shown(text[place:end])], shown(after)]


def _age(ticks: int, sandbox: Sandbox) -> str:
    then, now = local(ticks, sandbox), local(sandbox.clock(), sandbox)
    if then.date() == now.date():
        return f"{then:%H:%M}"
    return f"{then.day} {then:%b}" if then.year == now.year else f"{then:%Y-%m-%d}"


def avatar(number: str) -> h.Element:
    """Return a patient's sign: the last digits, in a colour of its own."""
    tint = crc32(number.encode(errors="replace")) % _TINTS
    return h.span(class_=["avatar", f"tint-{tint}"], aria_hidden="true")[shown(number[-2:])]


def _state(state: str) -> h.Element:
    return h.span(class_=["state", _mood(state)])[shown(state)]


def _state_in_short(state: str, *, is_asked_for: bool) -> h.Element:
    if state not in _GOOD or is_asked_for:
        return _state(state)
    return h.span(".state.good", title=state)[h.span(aria_hidden="true")["✓✓"], h.span(".hidden")[state]]


def _mood(state: str) -> str:
    return "good" if state in _GOOD else "waiting" if is_read(state) else "bad"


# One patient's thread


def thread(sandbox: Sandbox, view: View, messages: Thread) -> h.Element:
    """Return what the hospital and the patient of `view` wrote to each other."""
    if not view.patient:
        return h.section("#thread", aria_labelledby="thread-title")[
            h.div(".empty.large", data_key="nobody")[
                icon("phone"),
                h.h2("#thread-title", tabindex="-1")["A phone for every patient"],
                h.p[
                    "Choose a conversation, or open one with a number of your own. "
                    "What the hospital sends appears here."
                ],
            ]
        ]
    return h.section("#thread", aria_labelledby="thread-title")[
        h.header(".thread-head")[
            h.a("#back.quiet", href=view.link(patient=""), title="Back to the conversations")[
                icon("back"), h.span(".hidden")["Back to the conversations"]
            ],
            avatar(view.patient),
            h.div[
                h.h2("#thread-title", tabindex="-1")[h.span(".hidden")["Patient "], h.bdi[shown(view.patient)]],
                _rules(sandbox, view.patient),
            ],
        ],
        _log(sandbox, view, messages),
        h.button("#newest", type="button", hidden=True, data_keep=True)[icon("down"), "New messages"],
    ]


def _rules(sandbox: Sandbox, number: str) -> h.Element:
    """Return what the patient does by itself, as the button by which that is changed."""
    delivery, answer, after = sandbox.rules(number)
    states, wait = " → ".join(delivery.states), delivery.after / TICKS_PER_SECOND
    seconds = after / TICKS_PER_SECOND
    if answer is None:
        says = "no answer by itself"
    else:
        says = f"answers “{answer}”" if isinstance(answer, str) else "answers by a rule"
        says += f" after {seconds:g} s" if seconds else ""
    return h.button(
        "#rules.link",
        type="button",
        data_states=", ".join(delivery.states),
        data_after=f"{wait:g}",
        data_answer=answer if isinstance(answer, str) else "",
        data_answer_after=f"{seconds:g}",
    )[
        h.span[shown(f"{states}{f' after {wait:g} s' if len(delivery.states) > 1 else ''} · {says}")],
        icon("chevron"),
        h.span(".hidden")["Change what this patient does"],
    ]


def _log(sandbox: Sandbox, view: View, thread: Thread) -> h.Element:
    # Another patient's log is another element: what it begins with is not read out as news.
    return h.div(
        "#log",
        role="log",
        aria_label="Messages",
        aria_relevant="additions",
        tabindex="0",
        data_key=shown(f"log-{view.patient}-{thread.later and view.message}"),
    )[
        thread.earlier > 0
        and h.p(".more", data_key="earlier")[
            f"{counted(thread.earlier, 'earlier message is', 'earlier messages are')} not shown: search finds them"
        ],
        not thread.messages
        and h.p(".empty", data_key="none")["No messages yet. Answer below, or let your program send one here."],
        _messages(sandbox, view, thread),
        thread.later > 0
        and h.p(".more", data_key="later")[
            f"{counted(thread.later, 'later message', 'later messages')}: ",
            h.a(href=view.link())["to the newest"],
        ],
    ]


def _messages(sandbox: Sandbox, view: View, thread: Thread) -> Iterator[h.Element]:
    by_id = {message.id: message for message in thread.messages}
    last_day = ""
    for message in thread.messages:
        date = local(message.created_ticks, sandbox)
        if (today := day(date)) != last_day:
            last_day = today
            yield h.p(".day", data_key=f"day-{message.id}-{message.created_ticks}")[today]
        if message.type == "Outgoing":
            yield _hospitals(sandbox, message, f"{date:%H:%M}")
        else:
            yield _patients(sandbox, view, message, f"{date:%H:%M}", by_id)


def _hospitals(sandbox: Sandbox, message: SandboxMessage, time: str) -> h.Element:
    can_be_answered = is_phone_number(message.sender)
    return h.div(
        ".message.hospital",
        id=f"message-{message.id}",
        data_key=_key(message),
        data_id=str(message.id),
        data_hospital=message.sender if can_be_answered else None,
    )[
        h.p(".from")[
            h.span(".hidden")["From "],
            h.bdi[shown(message.sender)],
            not can_be_answered and h.span[" · a name, cannot be answered"],
        ],
        h.p(".text", dir="auto")[shown(message.text)],
        h.p(".meta")[
            time_of(message.created_ticks, sandbox, time),
            h.span[f"Id {message.id}"],
            h.span[f"ExternalKey {message.external_key}"],
            h.span(".parts", data_keep=True),
        ],
        h.div(".actions")[
            h.button(
                class_=["state", _mood(message.state)],
                type="button",
                data_state=message.state,
                title=_changed(sandbox, message),
            )[
                shown(message.state),
                h.span(".hidden")[f", change the state of message {message.id}"],
                icon("chevron"),
            ],
            can_be_answered
            and h.button(".reply.link", type="button", data_reply=str(message.id))[
                icon("reply"), "Reply", h.span(".hidden")[f" to message {message.id}"]
            ],
        ],
    ]


def _patients(
    sandbox: Sandbox, view: View, message: SandboxMessage, time: str, by_id: dict[int, SandboxMessage]
) -> h.Element:
    reminder = by_id.get(message.reply_to_id) if message.reply_to_id is not None else None
    return h.div(".message.patient", id=f"message-{message.id}", data_key=_key(message))[
        h.p(".hidden")["Patient"],
        message.reply_to_id is not None
        and h.a(".quote", href=view.link(message=message.reply_to_id), data_jump=str(message.reply_to_id))[
            h.span(".hidden")["Reply to "],
            h.b[f"Id {message.reply_to_id}"],
            reminder is not None and h.bdi[f" {shown(reminder.text[:_SNIPPET])}"],
        ],
        h.p(".text", dir="auto")[shown(message.text)],
        h.p(".meta")[
            time_of(message.created_ticks, sandbox, time),
            h.span[f"Id {message.id}"],
            h.span["to ", h.bdi[shown(message.recipient)]],
            message.state != "Delivered" and _state(message.state),
        ],
    ]


def _key(message: SandboxMessage) -> str:
    return f"message-{message.id}-{message.created_ticks}"  # Ids begin anew when all is cleared


def _changed(sandbox: Sandbox, message: SandboxMessage) -> str:
    # The stamps of a new message differ a little, and one that was read from the file does not know what it was.
    if message.before is None and message.updated_ticks - message.created_ticks < TICKS_PER_SECOND:
        return "Change the state"
    return f"Since {local(message.updated_ticks, sandbox):%Y-%m-%d %H:%M:%S}"


def first_sms(url: str) -> str:
    """Return a command that sends a first SMS to the server at `url`."""
    body = '{"Id": null, "From": "37000000001", "To": "37000000002", "Text": "Will You come?", "ExternalKey": 1}'
    first = Exchange(
        id=0, at=0, method="POST", target="/", authorization="Bearer", content_type="application/json", body=body
    )
    return first.as_curl(url)
