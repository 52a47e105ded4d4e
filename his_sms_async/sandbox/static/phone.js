// The page at work. It reads HTML from the server and acts through the control API; the address says what is shown.
import { morph } from "./morph.js";
import { segments, summary } from "./segments.js";

const THEME = "his-sms-theme";
const RECONNECT = 1000; // milliseconds
const SEARCH_PAUSE = 150; // milliseconds without a key until a search begins
const NEAR_THE_END = 60; // pixels: who is that near follows the conversation

const oneColumn = matchMedia("(max-width: 719px)");
const toolsInFront = matchMedia("(max-width: 1099px)");

const find = (selector, within = document) => within.querySelector(selector);
const parameter = (name) => new URLSearchParams(location.search).get(name) ?? "";

// ---- What is shown

let running = null; // the refresh under way
let isDirty = false;

/** Bring what is shown up to date; many calls at once are few requests. */
function refresh() {
  isDirty = true;
  running ??= (async () => {
    try {
      while (isDirty) {
        isDirty = false;
        await load();
      }
    } catch {
      // The server is gone. The stream of events tells so, and when it is there again.
    } finally {
      running = null;
    }
  })();
  return running;
}

async function load() {
  const query = location.search;
  const response = await fetch(`fragments${query}`);
  const html = await response.text();
  if (!response.ok) {
    return;
  }
  if (query !== location.search) {
    isDirty = true; // somebody went on meanwhile
    return;
  }
  show(new DOMParser().parseFromString(html, "text/html"));
}

function show(fresh) {
  const focused = document.activeElement;
  const region = focused?.closest("#conversations, #thread, [role=tabpanel], #status");
  const before = find("#log");
  const last = before?.lastElementChild;
  const follows = !before || isAtTheEnd(before);
  for (const part of [...fresh.body.children]) {
    const old = document.getElementById(part.id);
    if (old) {
      morph(old, part);
    }
  }
  const log = find("#log");
  if (log !== before) {
    beginLog(log);
  } else if (log && follows) {
    toTheEnd();
  } else if (log && log.lastElementChild !== last) {
    find("#newest").hidden = false;
  }
  if (focused !== document.body && document.activeElement !== focused) {
    // It was moved, which takes the focus from it, or it is gone.
    (focused.isConnected ? focused : region?.isConnected ? anchorOf(region) : null)?.focus({ preventScroll: true });
  }
  countParts();
  composerFollows();
  tick();
}

function anchorOf(region) {
  return find("[tabindex='-1']", region) ?? region;
}

// ---- Where one is

/** Go to another address of the page; when it is shown, return whether one is still there. */
async function go(query, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", query);
  const address = location.href;
  await arrive();
  return location.href === address;
}

function goWith(changes, options) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    value ? query.set(name, value) : query.delete(name);
  }
  return go(`?${query}`, options);
}

function arrive() {
  const patient = parameter("patient");
  const tab = parameter("tab") || "journal";
  document.body.dataset.pane = parameter("pane") === "tools" ? "tools" : patient ? "thread" : "list";
  document.title = patient ? `${patient} · SMS sandbox` : "SMS sandbox";
  for (const one of document.querySelectorAll("[role=tab]")) {
    const isSelected = one.dataset.tab === tab;
    one.setAttribute("aria-selected", isSelected);
    one.tabIndex = isSelected ? 0 : -1;
    find(`#panel-${one.dataset.tab}`).hidden = !isSelected;
  }
  const search = find("#search input");
  if (search !== document.activeElement) {
    search.value = parameter("q");
  }
  find("#composer").hidden = !patient;
  if (patient !== shownPatient) {
    drafts.set(shownPatient, text.value);
    shownPatient = patient;
    replyTo = undefined;
    text.value = drafts.get(patient) ?? "";
    tell(find("#composer"), "");
    countSegments();
  }
  return refresh();
}

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[href^='?']");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button) {
    return;
  }
  event.preventDefault();
  const row = link.closest(".row, table");
  const { jump, tab } = link.dataset;
  if (jump && light(jump)) {
    return;
  }
  const from = parameter("patient");
  if (!(await go(link.getAttribute("href")))) {
    return;
  }
  if (tab) {
    find(`#tab-${tab}`).focus();
  } else if (row && parameter("message")) {
    find("#log")?.focus({ preventScroll: true });
  } else if (row) {
    focusThread();
  } else if (link.id === "back") {
    focusRow(from);
  } else if (link.id === "from-tools") {
    find("#to-tools").focus();
  }
});

window.addEventListener("popstate", () => arrive());

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || find("dialog[open]") || event.defaultPrevented) {
    return;
  }
  const form = find("#new");
  const patient = parameter("patient");
  if (form.open && form.contains(event.target)) {
    form.open = false;
    find("summary", form).focus();
  } else if (event.target.matches("#search input") && event.target.value) {
    event.target.value = ""; // some browsers do it by themselves
    search();
  } else if (toolsInFront.matches && parameter("pane") === "tools") {
    goWith({ pane: "" }).then(() => find("#to-tools").focus());
  } else if (patient) {
    goWith({ patient: "", message: "", pane: "" }).then(() => focusRow(patient));
  }
});

function focusThread() {
  // On a phone a focused field would open the keyboard over what one wants to read.
  (oneColumn.matches ? find("#thread-title") : text).focus();
}

function focusRow(patient) {
  const rows = [...document.querySelectorAll("#conversations .row")];
  const row = rows.find((one) => new URL(one.href).searchParams.get("patient") === patient);
  (row ?? find("#search input")).focus();
}

// ---- Search, and new patients

let searchTimer;

function search() {
  clearTimeout(searchTimer);
  return goWith({ q: find("#search input").value.trim() }, { replace: true });
}

find("#search").addEventListener("input", () => {
  clearTimeout(searchTimer);
  searchTimer = setTimeout(search, SEARCH_PAUSE);
});

find("#search").addEventListener("submit", async (event) => {
  event.preventDefault();
  await search();
  find("#conversations a")?.focus();
});

find("#new").addEventListener("toggle", () => {
  if (find("#new").open) {
    find("#new-number").focus();
  }
});

find("#new form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const number = find("#new-number");
  const patient = number.value.replace(/[\s()-]/g, "");
  number.value = "";
  find("#new").open = false;
  if (await goWith({ patient, message: "", pane: "" })) {
    focusThread();
  }
});

// ---- The log

const isAtTheEnd = (log) => log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_THE_END;

function toTheEnd() {
  const log = find("#log");
  if (log) {
    log.scrollTop = log.scrollHeight;
    find("#newest").hidden = true;
  }
}

function beginLog(log) {
  if (!log) {
    return;
  }
  let follows = true;
  log.addEventListener("scroll", () => {
    follows = isAtTheEnd(log);
    if (follows) {
      find("#newest").hidden = true;
    }
  });
  new ResizeObserver(() => {
    if (follows) {
      log.scrollTop = log.scrollHeight; // the answer below takes more lines, or the window is another
    }
  }).observe(log);
  follows = !followAddress();
  if (follows) {
    toTheEnd();
  }
}

/** Show the message that the address names, and return whether it names one. */
function followAddress() {
  const asked = parameter("message") || /^#message-(\d+)$/.exec(location.hash)?.[1];
  if (asked && !light(asked) && asked !== parameter("message")) {
    goWith({ message: asked }, { replace: true }); // older than what is shown
  }
  return Boolean(asked);
}

window.addEventListener("hashchange", followAddress);

/** Scroll to a message and let it shine for a moment; return whether it is there. */
function light(id) {
  const message = document.getElementById(`message-${id}`);
  if (!message) {
    return false;
  }
  message.scrollIntoView({ block: "center" });
  message.dataset.uiLit = "";
  setTimeout(() => delete message.dataset.uiLit, 2000);
  return true;
}

find("#phone").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.id === "newest") {
    toTheEnd();
    find("#log").focus({ preventScroll: true });
  } else if (button?.dataset.reply) {
    replyTo = button.dataset.reply;
    composerFollows();
    text.focus();
  } else if (button?.id === "rules") {
    openRules(button);
  } else if (button?.dataset.state !== undefined) {
    openState(button);
  }
});

function countParts() {
  for (const place of document.querySelectorAll("#log .parts:empty")) {
    const { encoding, parts } = segments(find(".text", place.closest(".message")).textContent);
    place.textContent = `${encoding}, ${parts} SMS`;
  }
}

// ---- The answer

const text = find("#text");
const drafts = new Map(); // by patient
let shownPatient = parameter("patient"); // whom the field is for: the address may be that of another by now
let replyTo; // Id of a reminder; null is unprompted, undefined the last one
let isSending = false;

function reminder() {
  if (replyTo === null) {
    return null;
  }
  const chosen = replyTo && document.getElementById(`message-${replyTo}`);
  return chosen || [...document.querySelectorAll("#log .message[data-hospital]")].at(-1) || null;
}

function composerFollows() {
  const message = reminder();
  find("#replying").hidden = !message;
  find("#writing-to").hidden = Boolean(message);
  find("#last-reminder").hidden = !find("#log .message[data-hospital]");
  if (message) {
    find("#replying-to").textContent = `Id ${message.dataset.id}`;
    find("#replying-text").textContent = find(".text", message).textContent.slice(0, 200);
  }
}

find("#unprompted").addEventListener("click", () => {
  replyTo = null;
  composerFollows();
  find("#hospital").focus();
});

find("#last-reminder").addEventListener("click", () => {
  replyTo = undefined;
  composerFollows();
  text.focus();
});

function countSegments() {
  const told = segments(text.value);
  const forcing = told.forcing.slice(0, 5).map((one) => `“${one}”`).join(" ");
  const more = told.forcing.length > 5 ? " …" : "";
  const verb = told.forcing.length > 1 ? "need" : "needs";
  find("#segments").textContent = summary(told) + (forcing ? ` · ${forcing}${more} ${verb} UCS-2` : "");
  text.rows = Math.min(6, text.value.split("\n").length);
}

text.addEventListener("input", countSegments);

text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    find("#composer").requestSubmit();
  }
});

find("#composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (isSending || !text.value) {
    return;
  }
  const message = reminder();
  const from = parameter("patient");
  const body = { from, text: text.value };
  if (message) {
    body.reply_to = Number(message.dataset.id);
  } else if (find("#hospital").value) {
    body.to = find("#hospital").value;
  }
  isSending = true;
  text.readOnly = true; // what is typed now would be lost
  const answer = await act(find("#composer"), "POST", "messages", body);
  text.readOnly = isSending = false;
  if (answer) {
    drafts.delete(from);
    if (parameter("patient") === from) {
      text.value = "";
      replyTo = undefined;
      countSegments();
      await refresh();
      toTheEnd();
    }
  }
});

// ---- Asking the control API

/** Ask; return the answer, or null after telling beside `control` what went wrong. */
async function act(control, method, path, body) {
  tell(control, "");
  try {
    const headers = body === undefined ? {} : { "Content-Type": "application/json" };
    const request = { method, headers, body: body === undefined ? undefined : JSON.stringify(body) };
    const response = await fetch(`../control/${path}`, request);
    const answer = await response.json();
    if (response.ok) {
      refresh();
      return answer;
    }
    tell(control, answer.error ?? answer.Status?.ErrorMessage ?? `HTTP ${response.status}`);
  } catch {
    tell(control, "The server cannot be reached.");
  }
  return null;
}

function tell(control, message) {
  for (let place = control; place; place = place.parentElement) {
    const alert = find("[role=alert]", place);
    if (alert) {
      alert.textContent = message;
      return;
    }
  }
}

// ---- Dialogs

function openState(button) {
  const dialog = find("#state-dialog");
  const id = button.closest(".message").dataset.id;
  const { state } = button.dataset;
  const known = find("#state-known");
  const isKnown = [...known.options].some((option) => option.value === state);
  dialog.dataset.id = id;
  find("#state-id").textContent = id;
  known.value = isKnown ? state : "";
  find("#state-other").value = isKnown ? "" : state;
  stateFollows();
  tell(find("form", dialog), "");
  dialog.showModal();
}

function stateFollows() {
  const isOther = find("#state-known").value === "";
  for (const id of ["#state-other", "#state-other-label"]) {
    find(id).hidden = !isOther;
  }
  find("#state-other").required = isOther;
}

find("#state-known").addEventListener("change", stateFollows);

find("#state-dialog form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const dialog = find("#state-dialog");
  const state = find("#state-known").value || find("#state-other").value;
  if (await act(event.target, "POST", `messages/${dialog.dataset.id}`, { state })) {
    dialog.close();
  }
});

function openRules(button) {
  const { states, after, answer, answerAfter } = button.dataset;
  find("#rules-number").textContent = parameter("patient");
  find("#rules-states").value = states;
  find("#rules-after").value = Number(after) || 60;
  find("#rules-answer").value = answer;
  find("#rules-answer-after").value = answer ? answerAfter : 2;
  tell(find("#rules-replies"), "");
  find("#rules-dialog").showModal();
}

async function instruct(form, body) {
  if (await act(form, "POST", `patients/${encodeURIComponent(parameter("patient"))}`, body)) {
    find("#rules-dialog").close();
  }
}

find("#rules-receives").addEventListener("submit", (event) => {
  event.preventDefault();
  const receives = find("#rules-states").value.split(/[,→]/).map((state) => state.trim()).filter(Boolean);
  instruct(event.target, { receives, after: Number(find("#rules-after").value) });
});

find("#rules-replies").addEventListener("submit", (event) => {
  event.preventDefault();
  instruct(event.target, { replies: find("#rules-answer").value, after: Number(find("#rules-answer-after").value) });
});

find("#rules-silent").addEventListener("click", (event) => instruct(event.target, { silent: true }));

find("#reset").addEventListener("click", () => {
  tell(find("#reset-dialog form"), "");
  find("#reset-dialog").showModal();
});

find("#reset-dialog form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (await act(event.target, "POST", "reset")) {
    find("#reset-dialog").close();
  }
});

document.addEventListener("click", (event) => {
  if (event.target.matches("[data-close]")) {
    event.target.closest("dialog").close();
  }
});

// ---- The tools

find("[role=tablist]").addEventListener("click", (event) => {
  const { tab } = event.target.dataset;
  if (tab) {
    goWith({ tab }, { replace: true });
  }
});

find("[role=tablist]").addEventListener("keydown", (event) => {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const place = tabs.indexOf(event.target);
  const steps = { ArrowRight: place + 1, ArrowLeft: place - 1 + tabs.length, Home: 0, End: tabs.length - 1 };
  if (event.key in steps) {
    event.preventDefault();
    const next = tabs[steps[event.key] % tabs.length];
    goWith({ tab: next.dataset.tab }, { replace: true });
    next.focus();
  }
});

find("#tools").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.id === "clear-journal") {
    act(button, "DELETE", "journal");
  } else if (button?.id === "all-off") {
    act(button, "DELETE", "faults");
  } else if (button?.dataset.off) {
    act(button, "DELETE", `faults/${button.dataset.off}`);
  } else if (button?.dataset.clock) {
    act(button, "POST", "clock", JSON.parse(button.dataset.clock));
  } else if (button?.id === "autumn") {
    act(button, "POST", "faults", { kind: "autumn-night" });
  }
});

find("#tools").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  if (form.id === "set-clock") {
    act(form, "POST", "clock", { set: find("#instant").value.trim() });
  } else if (form.dataset.kind) {
    const ids = find("[role=switch]", form)?.dataset.ids;
    if (ids) {
      await Promise.all(ids.split(" ").map((id) => act(form, "DELETE", `faults/${id}`)));
    } else {
      act(form, "POST", "faults", { kind: form.dataset.kind, ...options(form) });
    }
  }
});

/** Read the options of a fault; what is left empty is as it is by itself. */
function options(form) {
  const read = {};
  for (const { name, type, value, checked, dataset } of form.elements) {
    if (type === "checkbox") {
      read[name] = checked;
    } else if (name && value !== "") {
      read[name] = dataset.type === "number" ? Number(value) : value;
    }
  }
  return read;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) {
    return;
  }
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    find("#told").textContent = "Copied.";
    button.dataset.uiCopied = "";
    setTimeout(() => delete button.dataset.uiCopied, 2000);
  } catch {
    getSelection().selectAllChildren(button.previousElementSibling); // to be copied by hand
    find("#told").textContent = "Selected, to be copied.";
  }
});

// ---- The server's clock

const seen = new WeakMap(); // when each face was told its time

function tick() {
  for (const face of document.querySelectorAll("[data-face]")) {
    const { face: told, zone } = face.dataset;
    if (seen.get(face)?.told !== told) {
      seen.set(face, { told, at: performance.now() });
    }
    if (!face.hasAttribute("data-frozen")) {
      const now = Number(told) + performance.now() - seen.get(face).at;
      const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium", timeZone: zone }).format(now);
      if (face.textContent !== clock) {
        face.textContent = clock;
      }
    }
  }
}

setInterval(tick, 500);

// ---- Light and dark

find("#theme").addEventListener("click", () => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  root.dataset.theme = theme === system ? "" : theme;
  theme === system ? localStorage.removeItem(THEME) : localStorage.setItem(THEME, theme);
  find("#told").textContent = theme === "dark" ? "Dark." : "Light.";
});

// ---- The stream of events

let stream = null;

function listen() {
  stream?.close();
  stream = new EventSource("events");
  stream.addEventListener("open", () => connected(true));
  stream.addEventListener("change", refresh);
  stream.addEventListener("error", () => {
    connected(false);
    if (stream?.readyState === EventSource.CLOSED) {
      setTimeout(listen, RECONNECT); // a server that answered with an error; the browser gives up then
    }
  });
}

function connected(isConnected) {
  const told = isConnected ? "Connected" : "Not connected, trying again";
  if (find("#connection").textContent !== told) {
    find("#connection").textContent = told;
    document.body.toggleAttribute("data-lost", !isConnected);
  }
}

document.addEventListener("visibilitychange", () => {
  // Browsers hold six connections to a server, all pages together: one that nobody sees needs none.
  if (document.hidden) {
    stream?.close();
    stream = null;
  } else if (!stream) {
    listen();
  }
});

beginLog(find("#log"));
arrive();
countParts();
countSegments();
composerFollows();
tick();
if (!document.hidden) {
  listen();
}
