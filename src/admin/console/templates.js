"use strict";
// The page of templates: what one says, to whom, with which data, as it is typed. The daemon renders; this page shows. A mail is shown in
// a frame that may run nothing. When the files change, so does what is shown.

const FOLLOW_FILES_MS = 2000;
const TYPING_MS = 150;
const ENCODINGS = { gsm7: "GSM-7", ucs2: "UCS-2" };
const NAMES = { email: "Email", sms: "SMS", push: "Push", live: "Live" };

let templates = [];
let loadedAt = null;
let isLocked = false;
let channel = null;
let answer = null; // of the last preview
let asked = 0;
let followTimer = 0;
let typingTimer = 0;
const edited = new Map(); // template -> the data as it was last typed
const view = { width: matchMedia("(max-width: 900px)").matches ? "phone" : "wide", part: "html" };

const chosen = () => templates.find((template) => template.name === $("template").value);
const written = (data) => JSON.stringify(data, null, 2);

// ---- Which templates ------------------------------------------------------------------------------------------------------------------

async function follow() {
  clearTimeout(followTimer);
  if (document.hidden || isLocked) return;
  try {
    const list = await call("v1/templates");
    $("lost").hidden = true;
    showList(list);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401 || error.status === 403) return lock();
    $("lost").hidden = false;
  }
  followTimer = setTimeout(follow, FOLLOW_FILES_MS);
}

function showList(list) {
  showRefused(list.refused);
  setText($("loaded"), `${plural(list.templates.length, "template")}, read ${relative(list.loaded_at)}`);
  if (list.loaded_at === loadedAt) return;
  const isFirst = loadedAt === null;
  loadedAt = list.loaded_at;
  const before = isFirst ? new URLSearchParams(location.hash.slice(1)) : null;
  const name = before?.get("template") ?? $("template").value;
  templates = list.templates;
  $("template").replaceChildren(...templates.map((template) => make("option", { value: template.name }, template.name)));
  if (templates.some((template) => template.name === name)) $("template").value = name;
  if (before) {
    $("locale").value = before.get("locale") ?? "";
    $("timezone").value = before.get("timezone") ?? "";
    channel = before.get("channel");
  }
  showTemplate();
}

function showRefused(refused) {
  setBadge($("state"), refused ? "files not in use" : "up to date", refused ? "bad" : "good");
  const banner = $("refused");
  const text = JSON.stringify(refused ?? null);
  if (banner.dataset.shown === text) return;
  banner.dataset.shown = text;
  banner.hidden = !refused;
  if (!refused) return banner.replaceChildren();
  banner.replaceChildren(
    make("strong", {}, "The files have changed and cannot be used: what was loaded before goes on. "),
    make("time", { datetime: refused.since }, `Since ${absolute(refused.since)}.`),
    make("ul", {}, ...refused.problems.map(problemItem)),
  );
}

function showTemplate() {
  const template = chosen();
  if (!template) return $("body").replaceChildren(make("p", { class: "empty" }, "There are no templates."));
  $("locales").replaceChildren(...["en", ...template.locales].map((locale) => make("option", {}, locale)));
  const data = edited.get(template.name) ?? written(template.sample);
  if ($("data").value !== data) $("data").value = data;
  if (!template.channels.includes(channel)) channel = template.channels[0];
  showChannels();
  preview();
}

function showChannels() {
  patchList(
    $("channels"),
    chosen()?.channels ?? [],
    (each) => each,
    (each) =>
      make("button", { type: "button", role: "tab", id: `tab-${each}`, "aria-controls": "body", on: { click: () => choose(each) } }, NAMES[each]),
    (node, each) => {
      setAttribute(node, "aria-selected", each === channel);
      setAttribute(node, "tabindex", each === channel ? 0 : -1);
      setAttribute(node, "data-alarm", Boolean(answer?.problems?.some((problem) => problem.channel === each)));
    },
  );
  setAttribute($("body"), "aria-labelledby", `tab-${channel}`);
}

function choose(each) {
  channel = each;
  remember();
  showChannels();
  showAnswer();
}

$("channels").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const all = chosen()?.channels ?? [];
  if (!step || all.length === 0) return;
  choose(all[(all.indexOf(channel) + step + all.length) % all.length]);
  $(`tab-${channel}`).focus();
});

/** Keeps the choice in the address, so that it can be passed on. The data stays here. */
function remember() {
  const state = query({ template: $("template").value, locale: $("locale").value.trim(), timezone: $("timezone").value.trim(), channel });
  history.replaceState(null, "", `${location.pathname}#${state}`);
  const locale = $("locale").value.trim();
  const parts = [`tarishi template preview ${$("template").value}`, locale && `--locale ${locale}`, channel && `--channel ${channel}`];
  if (edited.has($("template").value)) parts.push("--data data.json");
  if (channel === "email") parts.push("--open");
  setText($("command-text"), parts.filter(Boolean).join(" "));
}

// ---- What it says ---------------------------------------------------------------------------------------------------------------------

async function preview() {
  const template = chosen();
  if (!template) return;
  remember();
  $("reset").disabled = !edited.has(template.name);
  let data;
  try {
    data = JSON.parse($("data").value);
    showError($("data-problem"), null);
  } catch (error) {
    return showError($("data-problem"), `Not JSON yet: ${error.message}`);
  } finally {
    setAttribute($("data"), "aria-invalid", $("data-problem").hidden ? null : true);
  }
  asked += 1;
  const mine = asked;
  const body = { data, locale: $("locale").value.trim() || undefined, timezone: $("timezone").value.trim() || undefined };
  let got;
  try {
    got = await call(`v1/templates/${encodeURIComponent(template.name)}/preview`, { method: "POST", body });
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401 || error.status === 403) return lock();
    if (error.isLost) return;
    got = { bodies: [], problems: error.problem?.problems ?? [{ path: template.name, problem: explain(error), hint: "" }] };
  }
  if (mine !== asked) return; // something newer was asked for
  answer = got;
  showChannels();
  showAnswer();
}

function showAnswer() {
  const problems = (answer?.problems ?? []).filter((problem) => !problem.channel || problem.channel === channel);
  $("problems").hidden = problems.length === 0;
  $("problems").replaceChildren(...problems.map(problemItem));
  const body = answer?.bodies.find((each) => each.channel === channel);
  // Its width is changed in place, so that the mail is not loaded anew.
  for (const stage of $("body").querySelectorAll(".stage")) stage.dataset.width = view.width;
  for (const button of $("body").querySelectorAll(".toggles button")) setAttribute(button, "aria-pressed", Object.values(view).includes(button.value));
  const key = JSON.stringify([body ?? null, channel, view.part]);
  if ($("body").dataset.shown === key) return;
  $("body").dataset.shown = key;
  $("body").replaceChildren(...(body ? VIEWS[channel](body) : []));
}

const VIEWS = {
  email: (mail) => {
    const parts = ["html", "text", "source"].filter((part) => part === "text" || mail.html);
    const part = parts.includes(view.part) ? view.part : parts[0];
    return [
      make("h3", {}, "Subject"),
      make("p", { class: "subject" }, mail.subject),
      make(
        "div",
        { class: "mail-head" },
        toggles("part", { html: "HTML", text: "Text", source: "Source" }, parts, part),
        part === "html" ? toggles("width", { phone: "Phone", wide: "Wide" }, ["phone", "wide"], view.width) : null,
      ),
      part === "html" ? mailFrame(mail) : make("pre", { tabindex: "0" }, (part === "text" ? mail.text : mail.html) ?? ""),
      measured(mail.measure?.clips, [
        mail.measure?.html_bytes && `${bytes(mail.measure.html_bytes)} of HTML`,
        `${bytes(mail.measure?.text_bytes ?? 0)} of text`,
        mail.measure?.clips && "Gmail cuts it off and hides the rest",
      ]),
    ];
  },
  sms: (sms) => [
    make("p", { class: "bubble" }, sms.text),
    measured(sms.measure.segments > 1, [
      plural(sms.measure.segments, "segment"),
      `${ENCODINGS[sms.measure.encoding]}: ${count(sms.measure.units)} of ${count(sms.measure.segments * sms.measure.units_per_segment)} units`,
      plural([...sms.text].length, "character"),
    ]),
  ],
  push: (push) => [
    make("div", { class: "push-card" }, make("div", { class: "second" }, "now"), make("strong", {}, push.title), make("p", {}, push.body)),
    measured(push.measure.bytes > push.measure.limit, [`${count(push.measure.bytes)} of ${count(push.measure.limit)} bytes`]),
    ...jsonPart("Data", push.data),
    ...jsonPart("Only for one platform", push.platform),
  ],
  live: ({ channel: _, measure: __, ...notification }) => [
    make(
      "ul",
      { class: "live-list" },
      make("li", { "data-severity": notification.severity }, make("strong", {}, notification.title), make("p", {}, notification.message)),
    ),
    ...jsonPart("What clients get", notification),
  ],
};

function mailFrame(mail) {
  const frame = make("iframe", { sandbox: "", referrerpolicy: "no-referrer", title: "The mail as its reader sees it" });
  frame.srcdoc = mail.html;
  return make("div", { class: "stage", "data-width": view.width }, frame);
}

function toggles(what, words, all, current) {
  const press = (value) => {
    view[what] = value;
    showAnswer();
  };
  const button = (value) =>
    make("button", { type: "button", value, "aria-pressed": String(value === current), on: { click: () => press(value) } }, words[value]);
  return make("div", { class: "toggles", role: "group" }, ...all.map(button));
}

function measured(isTooMuch, words) {
  return make("p", { class: "measure", "data-tone": isTooMuch ? "warn" : null }, words.filter(Boolean).join(", "));
}

function jsonPart(title, value) {
  if (!value || Object.keys(value).length === 0) return [];
  return [make("h3", {}, title), make("pre", { tabindex: "0" }, written(value))];
}

function bytes(number) {
  return number < 1024 ? `${count(number)} bytes` : `${(number / 1024).toFixed(1)} KiB`;
}

// ---- What is typed --------------------------------------------------------------------------------------------------------------------

$("data").addEventListener("input", () => {
  const template = chosen();
  if (!template) return;
  if ($("data").value === written(template.sample)) edited.delete(template.name);
  else edited.set(template.name, $("data").value);
  soon();
});
for (const id of ["locale", "timezone"]) $(id).addEventListener("input", soon);
$("template").addEventListener("change", showTemplate);
$("choice-form").addEventListener("submit", (event) => event.preventDefault());
$("reset").addEventListener("click", () => {
  edited.delete($("template").value);
  showTemplate();
});

function soon() {
  clearTimeout(typingTimer);
  typingTimer = setTimeout(preview, TYPING_MS);
}

// ---- The key --------------------------------------------------------------------------------------------------------------------------

function lock() {
  isLocked = true;
  $("locked").hidden = false;
  document.body.dataset.state = "locked";
  setBadge($("state"), "API key needed", "warn");
  $("key").focus();
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("api-key", $("key").value.trim());
  $("key").value = "";
  isLocked = false;
  $("locked").hidden = true;
  document.body.dataset.state = "fine";
  loadedAt = null;
  follow();
});

document.addEventListener("visibilitychange", follow);
follow();
