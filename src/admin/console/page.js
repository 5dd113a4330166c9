"use strict";
// What the pages share: making and patching elements, words for times and numbers, and asking the admin API. Everything that comes from
// outside enters a page as text, never as markup.

const REQUEST_TIMEOUT_MS = 8000;
const HOLD_MS = 4000; // a list keeps its order for this long after it was last touched

// ---- The page -------------------------------------------------------------------------------------------------------------------------

const $ = (id) => document.getElementById(id);

/** Makes an element. `attributes` are attributes, except `class` and `on`, which maps events to listeners. Strings become text nodes. */
function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") node.className = value;
    else if (key === "on") for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Writes only what changed: an untouched text node keeps the reader's selection. */
function setText(node, text) {
  text = String(text ?? "");
  if (node.textContent !== text) node.textContent = text;
}

function setAttribute(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

function setBadge(node, word, tone) {
  setText(node, word);
  setAttribute(node, "data-tone", tone ?? "quiet");
}

function showError(node, message) {
  setText(node, message ?? "");
  node.hidden = !message;
}

/** One problem: where, what, and what to do. */
function problemItem(problem) {
  return make(
    "li",
    { class: "problem" },
    make("code", {}, problem.path),
    ` ${problem.problem}`,
    problem.hint ? make("div", { class: "hint" }, `hint: ${problem.hint}`) : null,
  );
}

const nodesByParent = new WeakMap();

/** Makes `parent` hold one node per item, in order, keeping the node of every key that stays. Other children of `parent` stay first. */
function patchList(parent, items, keyOf, create, update) {
  const before = nodesByParent.get(parent) ?? new Map();
  const after = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (after.has(key)) continue;
    const node = before.get(key) ?? create(item);
    after.set(key, node);
    update?.(node, item);
  }
  for (const [key, node] of before) if (!after.has(key)) node.remove();
  const owned = new Set(after.values());
  let previous = null;
  for (const node of owned) {
    // Only a node out of place is moved, because moving takes away its focus.
    const expected = previous ? previous.nextSibling : ([...parent.childNodes].find((child) => owned.has(child)) ?? null);
    if (node !== expected) parent.insertBefore(node, expected);
    previous = node;
  }
  nodesByParent.set(parent, after);
}

/** Says whether someone is at work in `area`, so that the list in it should keep its order. */
function watchReader(area) {
  let touchedAt = -Infinity;
  const touched = () => {
    touchedAt = performance.now();
  };
  for (const type of ["pointermove", "pointerdown", "touchmove", "wheel", "keydown", "focusin"])
    area.addEventListener(type, touched, { passive: true });
  return {
    isReading() {
      const selection = getSelection();
      return performance.now() - touchedAt < HOLD_MS || (!selection.isCollapsed && area.contains(selection.anchorNode));
    },
    letGo() {
      touchedAt = -Infinity;
    },
  };
}

// ---- Words ----------------------------------------------------------------------------------------------------------------------------

let clockSkewMs = 0; // the daemon's clock minus ours, so that "in 5 s" is true on a machine whose clock is off
const now = () => Date.now() + clockSkewMs;
const count = (number) => (typeof number === "number" ? number.toLocaleString("en") : "–");
const plural = (number, word, words = `${word}s`) => `${count(number)} ${number === 1 ? word : words}`;

function span(seconds) {
  const whole = Math.floor(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

function relative(instant) {
  const seconds = (Date.parse(instant) - now()) / 1000;
  if (Number.isNaN(seconds)) return "–";
  if (Math.abs(seconds) < 1) return "now";
  return seconds > 0 ? `in ${span(Math.ceil(seconds))}` : `${span(-seconds)} ago`;
}

function absolute(instant) {
  const date = new Date(instant);
  return Number.isNaN(date.getTime()) ? String(instant) : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

function setTime(node, instant) {
  setText(node, instant ? relative(instant) : "–");
  setAttribute(node, "datetime", instant);
  setAttribute(node, "title", instant ? absolute(instant) : null);
}

// ---- The API --------------------------------------------------------------------------------------------------------------------------

class ApiError extends Error {
  constructor(status, problem) {
    super(problem?.detail || problem?.title || `The daemon answered ${status}.`);
    this.status = status;
    this.problem = problem;
  }

  /** Nobody of ours answered: the network, or a proxy in front of a daemon that is away. */
  get isLost() {
    return this.status === 0 || (this.status >= 502 && this.status <= 504 && !this.problem);
  }
}

const storedKey = () => sessionStorage.getItem("api-key");

async function call(path, { method = "GET", body, as = "json" } = {}) {
  const headers = {};
  if (storedKey()) headers.authorization = `Bearer ${storedKey()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  let text;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-cache",
      signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
    });
    text = await response.text();
  } catch {
    throw new ApiError(0, { detail: "The daemon does not answer." });
  }
  const date = Date.parse(response.headers.get("date") ?? "");
  if (!Number.isNaN(date)) {
    // The header has whole seconds: smaller differences mean nothing.
    const difference = date + 500 - Date.now();
    clockSkewMs = Math.abs(difference) > 2000 ? difference : 0;
  }
  if (as === "text" && response.ok) return text;
  let value = null;
  try {
    value = JSON.parse(text);
  } catch {
    /* judged by its status */
  }
  if (!response.ok) throw new ApiError(response.status, value);
  if (value === null) throw new ApiError(response.status, { detail: "The answer is not JSON; is this the admin listener?" });
  return value;
}

function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(given).toString();
}

/** What a refused request means to the reader. */
function explain(error) {
  if (error.status === 401) return "An API key is needed for this.";
  if (error.status === 403) return `Not allowed: ${error.message}`;
  return error.message;
}
