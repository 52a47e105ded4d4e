"""What stays the same on the page: the bar, the search, the field for answers, the tabs and the dialogs."""

import htpy as h

from ._html import TABS, View, alert, icon
from ._messages import STATES
from ._patients import is_phone_number
from ._state import Sandbox


def document(
    sandbox: Sandbox, view: View, *, status: h.Node, listed: h.Node, thread: h.Node, panel: h.Node
) -> h.Element:
    """Return the whole page, with the parts that can change."""
    return h.html(lang="en")[
        h.head[
            h.meta(charset="utf-8"),
            h.meta(name="viewport", content="width=device-width, initial-scale=1"),
            h.meta(name="color-scheme", content="light dark"),
            h.title["SMS sandbox"],
            h.link(rel="icon", href="static/icon.svg", type="image/svg+xml"),
            h.link(rel="stylesheet", href="static/phone.css"),
            h.script(src="static/theme.js"),
            h.script(type="module", src="static/phone.js"),
        ],
        h.body(data_pane=view.pane)[
            h.a(".skip", href="#phone")["Skip to the conversation"],
            h.header(".bar")[
                h.img(src="static/icon.svg", alt="", width="30", height="30"),
                h.h1["SMS sandbox"],
                h.p(".notice")["Nothing is really sent"],
                status,
                h.p("#connection", role="status"),
                h.button("#theme.quiet", type="button", title="Light or dark")[
                    icon("theme"), h.span(".hidden")["Light or dark"]
                ],
                h.button("#reset.quiet", type="button", title="Clear all")[
                    icon("clear"), h.span(".hidden")["Clear all"]
                ],
            ],
            h.main[
                h.nav("#list", aria_label="Conversations")[_list_head(view), listed],
                h.div("#phone", tabindex="-1")[thread, _composer(sandbox, view)],
                h.section("#tools", aria_label="Tools")[_tabs(view), panel],
            ],
            h.p("#told.hidden", role="status"),
            _state_dialog(),
            _rules_dialog(),
            _reset_dialog(sandbox),
            h.noscript[h.p(".noscript")["This page needs JavaScript."]],
        ],
    ]


def _list_head(view: View) -> h.Node:
    return h.div(".list-head")[
        h.form("#search", role="search")[
            h.label[
                h.span(".hidden")["Search numbers, texts and states"],
                icon("search"),
                h.input(
                    type="search",
                    name="q",
                    value=view.search,
                    placeholder="Search number, text, state",
                    autocomplete="off",
                    spellcheck="false",
                ),
            ],
        ],
        h.details("#new")[
            h.summary(title="New patient")[icon("plus"), h.span(".hidden")["New patient"]],
            h.form[
                h.label(for_="new-number")["Phone number of a new patient"],
                h.div(".fields")[
                    h.input(
                        "#new-number",
                        type="tel",
                        name="patient",
                        required=True,
                        placeholder="like 37000000002",
                        autocomplete="off",
                    ),
                    h.button(".primary", type="submit")["Open"],
                ],
            ],
        ],
    ]


def _composer(sandbox: Sandbox, view: View) -> h.Element:
    numbers = [number for number in sandbox.numbers if is_phone_number(number)]
    return h.form("#composer", hidden=not view.patient, aria_label="Answer as the patient")[
        h.div("#replying", hidden=True)[
            icon("reply"),
            h.p[h.span["Reply to "], h.b("#replying-to"), h.bdi("#replying-text")],
            h.button("#unprompted.quiet", type="button", title="Write unprompted")[
                icon("close"), h.span(".hidden")["Write unprompted instead"]
            ],
        ],
        h.div("#writing-to")[
            h.label(for_="hospital")["Unprompted, to"],
            h.select("#hospital", name="to")[(h.option(value=number)[number] for number in numbers)],
            h.button("#last-reminder.link", type="button", hidden=True)["Reply to the last reminder"],
        ],
        h.div(".write")[
            h.label(".hidden", for_="text")["Answer as the patient"],
            h.textarea(
                "#text",
                name="text",
                rows="1",
                dir="auto",
                placeholder="Answer as the patient",
                autocomplete="off",
                aria_describedby="segments",
            ),
            h.button("#send.primary", type="submit", title="Send (Enter)")[
                icon("send"), h.span(".hidden")["Send"]
            ],
        ],
        h.p("#segments"),
        alert(),
    ]


def _tabs(view: View) -> h.Element:
    return h.div(".tabs")[
        h.a("#from-tools.quiet", href=view.link(), title="Back")[icon("back"), h.span(".hidden")["Back"]],
        h.div(role="tablist", aria_label="Tools")[
            (
                h.button(
                    id=f"tab-{tab}",
                    type="button",
                    role="tab",
                    aria_controls=f"panel-{tab}",
                    aria_selected="true" if tab == view.tab else "false",
                    tabindex="0" if tab == view.tab else "-1",
                    data_tab=tab,
                )[tab.capitalize()]
                for tab in TABS
            )
        ],
    ]


def _state_dialog() -> h.Element:
    return h.dialog("#state-dialog", closedby="any", aria_labelledby="state-title")[
        h.form(method="dialog")[
            h.h2("#state-title")["State of message ", h.span("#state-id")],
            h.label(for_="state-known")["Delivery state"],
            h.select("#state-known")[
                (h.option(value=state)[state] for state in STATES), h.option(value="")["another word"]
            ],
            h.label("#state-other-label", for_="state-other", hidden=True)["Word that the server writes"],
            h.input("#state-other", hidden=True, autocomplete="off"),
            alert(),
            _dialog_buttons("Change"),
        ]
    ]


def _rules_dialog() -> h.Element:
    return h.dialog("#rules-dialog", closedby="any", aria_labelledby="rules-title")[
        h.form("#rules-receives")[
            h.h2("#rules-title")["What ", h.bdi("#rules-number"), " does"],
            h.fieldset[
                h.legend["What becomes of an SMS"],
                h.label(for_="rules-states")["States, one after another"],
                h.input("#rules-states", required=True, autocomplete="off", aria_describedby="rules-known"),
                h.p("#rules-known.hint")[f"Of {', '.join(STATES)}; or any other word."],
                h.label(for_="rules-after")["Seconds from one to the next"],
                h.input("#rules-after", type="number", min="0", step="any", value="60"),
                h.button(type="submit")["Let it be so"],
            ],
        ],
        h.form("#rules-replies")[
            h.fieldset[
                h.legend["What it answers by itself"],
                h.label(for_="rules-answer")["Text"],
                h.input("#rules-answer", required=True, autocomplete="off", dir="auto"),
                h.label(for_="rules-answer-after")["Seconds until then"],
                h.input("#rules-answer-after", type="number", min="0", step="any", value="2"),
                h.p(".hint")["It also answers the last reminder, if that has no answer yet."],
                h.div(".fields")[
                    h.button(type="submit")["Let it answer"],
                    h.button("#rules-silent", type="button")["Stay silent"],
                ],
            ],
            alert(),
        ],
        h.form(".dialog-buttons", method="dialog")[h.button(type="submit")["Close"]],
    ]


def _reset_dialog(sandbox: Sandbox) -> h.Element:
    messages = "Messages" if sandbox.file is None else "Messages, also in the file"
    return h.dialog("#reset-dialog", closedby="any", aria_labelledby="reset-title", aria_describedby="reset-text")[
        h.form(method="dialog")[
            h.h2("#reset-title")["Clear all?"],
            h.p("#reset-text")[
                f"{messages}, rules of patients, faults, issued tokens and the journal are forgotten. "
                "The clock stays as it is."
            ],
            alert(),
            _dialog_buttons("Clear all", look=".danger"),
        ]
    ]


def _dialog_buttons(action: str, look: str = ".primary") -> h.Element:
    # The first button is what Enter presses, so it is the action; Cancel closes without asking anything.
    return h.div(".dialog-buttons")[
        h.button(look, type="submit", value="do")[action],
        h.button(type="button", data_close=True)["Cancel"],
    ]
