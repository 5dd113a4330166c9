"use strict";
// The console: one page over the admin API. It asks once a second while the tab is visible and patches the page in place, so that
// selection, scroll position and open rows survive. Everything that comes from outside enters the page as text, never as markup; the one
// exception is a captured mail, which is shown in a frame that may do nothing.

const POLL_MS = 1000;
const POLL_WHEN_LOST_LIMIT_MS = 5000;
const SPARK_SAMPLES = 60;
const RATE_SAMPLES = 5;
const OUTBOX_LIMIT = 50;
const LIVE_LIMIT = 50;
const JOB_PAGES_LIMIT = 10; // pages of a large job that are searched for one delivery
const TEMPLATES_EVERY_MS = 15000;
const FOLLOW_MS = 120000; // how long a job sent from here is followed
const FOLLOW_LIMIT = 5;
const RECONNECT_FIRST_MS = 500;
const RECONNECT_LIMIT_MS = 15000;
const CHANNELS = ["email", "sms", "push", "live"];
const DELIVERIES_LIMIT = matchMedia("(max-width: 720px)").matches ? 10 : 25;

const STATUS_TONES = {
  queued: "quiet",
  sending: "busy",
  sent: "good",
  delivered: "good",
  failed: "bad",
  expired: "warn",
  cancelled: "quiet",
  suppressed: "warn",
};
const OUTCOME_TONES = { sent: "good", transient: "warn", permanent: "bad", unknown: "warn" };
const BREAKERS = { closed: ["working", "good"], half_open: ["testing", "warn"], open: ["paused", "bad"] };
// One sentence for each code of `model::Code`; a code without one is shown as its own words.
const CODE_SENTENCES = {
  collapsed: "A newer delivery with the same collapse key took its place.",
  cancelled_by_request: "Someone asked to cancel it.",
  expired: "Its time ran out before it could be sent.",
  attempts_exhausted: "Every attempt the retry policy allows was made.",
  unknown_outcome: "It may have been sent, and the policy is not to risk sending it twice.",
  interrupted: "The daemon stopped in the middle of the attempt.",
  timeout: "The provider did not answer in time.",
  render_failed: "The template could not be rendered with this data.",
  template_missing: "Its template is no longer there.",
  unreadable: "The stored delivery does not read back; a person should look.",
  provider_panicked: "The provider's code failed inside the daemon; please report it.",
  rate_limited: "The provider asked us to slow down.",
  provider_unavailable: "The provider cannot be reached or is not working.",
  chaos: "Failed on purpose, because of --chaos.",
  address_refused: "The provider says that this address is dead.",
  payload_refused: "The provider will never take this content.",
  config_refused: "The provider refused our credentials or set-up.",
  capture_failed: "The outbox could not capture it.",
};
const SKIPPED_SENTENCES = {
  no_address: "neither the job nor the contact has an address for it",
  no_template_part: "the template has no part for it",
};

// ---- Words ----------------------------------------------------------------------------------------------------------------------------

const codeSentence = (code) => CODE_SENTENCES[code] ?? `${code.charAt(0).toUpperCase()}${code.slice(1).replaceAll("_", " ")}.`;

/** Why a delivery is where it is, in one or two plain sentences. */
function why(delivery) {
  const cause = delivery.code ? codeSentence(delivery.code) : null;
  const provider = delivery.provider ?? "the provider";
  switch (delivery.status) {
    case "queued": {
      const isLater = delivery.next_at && Date.parse(delivery.next_at) - now() > 2000;
      const waits = delivery.attempts > 0 ? "Waiting for its next attempt." : isLater ? "Not due yet." : "Waiting for its first attempt.";
      return [cause, heldBack(delivery.channel) ?? (cause ? null : waits)].filter(Boolean).join(" ");
    }
    case "sending":
      return `Attempt ${delivery.attempts} is under way${delivery.provider ? ` with ${provider}` : ""}.`;
    case "sent":
      if (cause) return cause;
      if (delivery.provider === "outbox") return "Captured in the outbox instead of being sent.";
      return delivery.channel === "live" ? "In the user's inbox." : `Taken by ${provider}.`;
    case "delivered":
      return cause ?? (delivery.channel === "live" ? "It reached the user." : `Confirmed by ${provider}.`);
    case "failed":
      return cause ?? "Given up; open the row for its attempts.";
    case "expired":
      return cause ?? CODE_SENTENCES.expired;
    case "cancelled":
      return cause ?? CODE_SENTENCES.cancelled_by_request;
    case "suppressed":
      return cause ?? "This address or user must not be written to.";
    default:
      return cause ?? "";
  }
}

function heldBack(channel) {
  const lane = lastStatus?.lanes?.find((each) => each.channel === channel);
  if (!lane?.providers?.length || lane.providers.some((provider) => provider.breaker !== "open")) return null;
  const [first] = lane.providers;
  return `Held back, because ${first.name} is paused${first.reason ? `: ${first.reason}` : "."}`;
}

// ---- The poll -------------------------------------------------------------------------------------------------------------------------

let pollTimer = 0;
let isPolling = false;
let pollAgain = false;
let failures = 0;
let lastStatus = null;
let lastAnswerAt = null;
let isLocked = false;

async function poll() {
  clearTimeout(pollTimer);
  if (document.hidden || isLocked) return;
  if (isPolling) {
    pollAgain = true;
    return;
  }
  isPolling = true;
  pollAgain = false;
  const startedAt = performance.now();
  try {
    const status = await call("v1/status");
    showStatus(status);
    await Promise.all([refreshDeliveries(), refreshOutbox(), refreshTracked(), refreshTemplates()]);
    if (failures > 0) resumeLive();
    failures = 0;
  } catch (error) {
    if (error.status === 401 || error.status === 403) lock(error);
    else if (error instanceof ApiError) failures += 1;
    else console.error(error);
  }
  isPolling = false;
  showConnection();
  const pause = failures > 1 ? Math.min(POLL_MS * failures, POLL_WHEN_LOST_LIMIT_MS) : POLL_MS;
  if (!isLocked) pollTimer = setTimeout(poll, pollAgain ? 0 : Math.max(0, pause - (performance.now() - startedAt)));
}

/** Errors of one list are shown in its section; only losing the daemon concerns the whole page. */
function orLost(error, shownIn) {
  if (!(error instanceof ApiError) || error.isLost) throw error;
  showError(shownIn, explain(error));
}

function showConnection() {
  const isLost = failures > 0;
  $("lost").hidden = !isLost;
  if (isLost) {
    setText($("lost-since"), lastAnswerAt ? `Last answer ${span((Date.now() - lastAnswerAt) / 1000)} ago.` : "");
    setBadge($("ready"), "connection lost", "bad");
  }
  document.body.dataset.state = isLocked ? "locked" : isLost ? "lost" : "fine";
  if (isLost || isLocked) document.title = isLocked ? "Tarishi: API key needed" : "Tarishi: connection lost";
}

function lock(error) {
  isLocked = true;
  failures = 0;
  setText(
    $("locked-why"),
    error.status === 403 ? `Not allowed: ${error.message}` : storedKey() ? "The key was not accepted. Try another one." : "",
  );
  $("locked").hidden = false;
  setBadge($("ready"), "API key needed", "warn");
  stopLive();
  $("key").focus();
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("api-key", $("key").value.trim());
  $("key").value = "";
  unlock();
});

$("forget-key").addEventListener("click", () => {
  sessionStorage.removeItem("api-key");
  location.reload();
});

function unlock() {
  isLocked = false;
  $("locked").hidden = true;
  $("forget-key").hidden = !storedKey();
  templatesAskedAt = -Infinity;
  startLive();
  poll();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return clearTimeout(pollTimer);
  poll();
  resumeLive();
});

// ---- Header ---------------------------------------------------------------------------------------------------------------------------

function showStatus(status) {
  const isFirst = lastStatus === null;
  lastStatus = status;
  lastAnswerAt = Date.now();
  setBadge($("ready"), status.ready ? "ready" : "not ready", status.ready ? "good" : "bad");
  setBadge($("mode"), status.mode, "quiet");
  $("mode").hidden = false;
  document.body.dataset.mode = status.mode;
  setText($("version"), status.version);
  setText($("uptime"), span(status.uptime_seconds));
  setText($("accepted"), count(status.accepted));
  setText($("purged"), count(status.purged));
  setText($("sockets"), count(status.sockets));
  document.title = status.ready ? "Tarishi" : "Tarishi: not ready";
  const reasons = status.ready ? [] : status.reasons?.length ? status.reasons : ["Not ready, and it does not say why."];
  $("reasons").hidden = reasons.length === 0;
  patchList(
    $("reasons"),
    reasons,
    (reason) => reason,
    (reason) => make("li", {}, reason),
  );
  showCaptures(status);
  showRefusedTemplates(status.templates?.refused);
  patchList(
    $("lane-cards"),
    status.lanes ?? [],
    (lane) => lane.channel,
    (lane) => createLane(lane.channel),
    updateLane,
  );
  showChips();
  $("forget-key").hidden = !storedKey();
  if (isFirst) prepareSend(status);
  showRealWarning();
}

function showRefusedTemplates(refused) {
  const banner = $("templates-refused");
  banner.hidden = !refused;
  const text = JSON.stringify(refused ?? null);
  if (!refused || banner.dataset.shown === text) return;
  banner.dataset.shown = text;
  banner.replaceChildren(
    make("strong", {}, "The templates have changed and cannot be used: what was loaded before goes on. "),
    make("span", {}, `Since ${absolute(refused.since)}.`),
    make("ul", {}, ...refused.problems.map(problemItem)),
  );
}

function showCaptures(status) {
  const captures = status.captures ?? [];
  const isEverything = CHANNELS.every((channel) => channel === "live" || captures.includes(channel));
  const list = captures.length > 1 ? `${captures.slice(0, -1).join(", ")} and ${captures.at(-1)}` : captures[0];
  setText(
    $("captures"),
    isEverything
      ? `Nothing leaves this machine: ${list} are captured in the outbox instead of being sent.`
      : `Only captured in the outbox, not sent: ${list}.`,
  );
  setAttribute($("captures"), "data-tone", status.mode === "dev" ? "busy" : "warn");
  $("captures").hidden = captures.length === 0;
}

// ---- Lanes ----------------------------------------------------------------------------------------------------------------------------

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function createLane(channel) {
  const parts = {
    number: make("div", { class: "lane-number" }, "–"),
    rate: make("span", { class: "lane-label" }, "–"),
    area: svg("polygon"),
    curve: svg("polyline"),
    bar: svg("rect", { width: 0, height: 4 }),
    memory: make("dd"),
    sending: make("dd"),
    next: make("time"),
    providers: make("ul", { class: "providers", "aria-label": "Providers" }),
    ends: {},
  };
  const ends = ["sent", "delivered", "failed"].map((status) => {
    parts.ends[status] = make("b", {}, "–");
    return make(
      "button",
      { type: "button", title: `Show ${status} ${channel} deliveries`, on: { click: () => filterBy({ status, channel, user: "" }) } },
      parts.ends[status],
      make("span", {}, status),
    );
  });
  const card = make(
    "article",
    { class: "lane", "aria-label": `${channel} lane` },
    make("h3", {}, channel),
    make(
      "div",
      { class: "lane-main" },
      parts.number,
      svg(
        "svg",
        { class: "spark", viewBox: `0 0 ${SPARK_SAMPLES - 1} 20`, preserveAspectRatio: "none", "aria-hidden": "true" },
        parts.area,
        parts.curve,
      ),
      make("span", { class: "lane-label" }, "queued"),
      make("span", { class: "lane-rate" }, parts.rate),
    ),
    make("dl", { class: "lane-facts" }, make("div", {}, make("dt", {}, "sending"), parts.sending)),
    svg("svg", { class: "gauge", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" }, parts.bar),
    make(
      "dl",
      { class: "lane-facts" },
      make("div", {}, make("dt", {}, "in memory"), parts.memory),
      make("div", {}, make("dt", {}, "next due"), make("dd", {}, parts.next)),
    ),
    parts.providers,
    make("div", { class: "lane-ends" }, ...ends),
  );
  card.parts = parts;
  card.samples = [];
  return card;
}

function updateLane(card, lane) {
  const { parts, samples } = card;
  const last = samples.at(-1);
  if (last && lane.ended_total < last.ended) samples.length = 0; // the daemon started anew
  samples.push({ at: performance.now(), ended: lane.ended_total });
  if (samples.length > SPARK_SAMPLES + 1) samples.shift();
  drawSpark(parts, samples);
  const base = samples[Math.max(0, samples.length - 1 - RATE_SAMPLES)];
  const seconds = (samples.at(-1).at - base.at) / 1000;
  const rate = seconds > 0 ? (lane.ended_total - base.ended) / seconds : 0;
  setText(parts.rate, `${rate >= 100 || rate === 0 ? count(Math.round(rate)) : rate.toFixed(1)} ended/s`);
  setText(parts.number, count(lane.queued));
  setText(parts.sending, `${count(lane.sending)} of ${count(lane.concurrency)}`);
  setAttribute(parts.bar, "width", lane.concurrency > 0 ? Math.min(100, (lane.sending / lane.concurrency) * 100) : 0);
  setText(parts.memory, count(lane.in_memory));
  setTime(parts.next, lane.next_due_at);
  const overdueSeconds = lane.next_due_at ? (now() - Date.parse(lane.next_due_at)) / 1000 : 0;
  if (overdueSeconds >= 1) setText(parts.next, `${span(overdueSeconds)} overdue`);
  for (const [status, node] of Object.entries(parts.ends)) {
    const number = lane.statuses?.[status] ?? 0;
    setText(node, count(number));
    setAttribute(node.parentNode, "data-alarm", status === "failed" && number > 0);
  }
  const providers = lane.providers ?? [];
  setAttribute(
    card,
    "data-state",
    ["open", "half_open"].find((state) => providers.some((provider) => provider.breaker === state)) ?? "closed",
  );
  patchList(parts.providers, providers, (provider) => provider.name, createProvider, updateProvider);
}

function createProvider(provider) {
  return make(
    "li",
    {},
    make(
      "div",
      { class: "provider-line" },
      make("span", { class: "provider-name" }, provider.name),
      make("span", { class: "provider-state" }),
    ),
    make("p", { class: "provider-reason" }),
  );
}

function updateProvider(node, provider) {
  const [word, tone] = BREAKERS[provider.breaker] ?? [provider.breaker, "quiet"];
  const state = node.querySelector(".provider-state");
  setBadge(state, word, tone);
  setAttribute(state, "title", `circuit breaker: ${provider.breaker}`);
  setText(node.querySelector(".provider-reason"), provider.reason);
}

function drawSpark(parts, samples) {
  const rates = samples
    .slice(1)
    .map((sample, index) => (sample.ended - samples[index].ended) / Math.max(0.2, (sample.at - samples[index].at) / 1000));
  const highest = Math.max(1, ...rates);
  const points = rates.map((rate, index) => `${SPARK_SAMPLES - rates.length + index},${(19 - (rate / highest) * 18).toFixed(2)}`);
  parts.curve.setAttribute("points", points.join(" "));
  parts.area.setAttribute("points", points.length ? `${SPARK_SAMPLES - rates.length},20 ${points.join(" ")} ${SPARK_SAMPLES - 1},20` : "");
}

// ---- Deliveries -----------------------------------------------------------------------------------------------------------------------

const deliveries = {
  rows: [],
  latest: [],
  pages: 1,
  cursor: null,
  latestCursor: null,
  shown: null,
  open: new Map(), // delivery id -> what is known of it from its job
  filter: { status: "", channel: "", user: "" },
};
const deliveryReader = watchReader($("delivery-table"));

{
  const given = new URLSearchParams(location.search);
  for (const name of Object.keys(deliveries.filter)) deliveries.filter[name] = given.get(name) ?? "";
}

function filterBy(change) {
  Object.assign(deliveries.filter, change);
  const { status, channel, user } = deliveries.filter;
  $("filter-channel").value = channel;
  if ($("filter-user").value.trim() !== user) $("filter-user").value = user;
  $("filter-clear").disabled = !(status || channel || user);
  history.replaceState(null, "", `${location.pathname}${query(deliveries.filter) && `?${query(deliveries.filter)}`}${location.hash}`);
  deliveries.open.clear();
  deliveries.pages = 1;
  deliveryReader.letGo();
  showChips();
  poll();
}

function showChips() {
  const { channel, status: chosen } = deliveries.filter;
  const lanes = (lastStatus?.lanes ?? []).filter((lane) => !channel || lane.channel === channel);
  const chips = Object.keys(STATUS_TONES).map((status) => ({
    status,
    label: status,
    number: lanes.reduce((sum, lane) => sum + (lane.statuses?.[status] ?? 0), 0),
  }));
  chips.unshift({ status: "", label: "all", number: chips.reduce((sum, chip) => sum + chip.number, 0) });
  patchList(
    $("status-chips"),
    chips,
    (chip) => chip.status,
    (chip) =>
      make("button", { type: "button", on: { click: () => filterBy({ status: chip.status }) } }, make("span", {}, chip.label), make("b")),
    (node, chip) => {
      setText(node.lastChild, lastStatus ? count(chip.number) : "–");
      setAttribute(node, "aria-pressed", chip.status === chosen);
      setAttribute(node, "data-zero", chip.number === 0);
    },
  );
}

$("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  filterBy({ user: $("filter-user").value.trim() });
});
$("filters").addEventListener("reset", (event) => {
  event.preventDefault();
  filterBy({ status: "", channel: "", user: "" });
});
$("filter-channel").addEventListener("change", () => filterBy({ channel: $("filter-channel").value }));
let typingTimer = 0;
$("filter-user").addEventListener("input", () => {
  clearTimeout(typingTimer);
  typingTimer = setTimeout(() => filterBy({ user: $("filter-user").value.trim() }), 400);
});

async function refreshDeliveries() {
  const asked = query(deliveries.filter);
  let page;
  try {
    page = await call(`v1/deliveries?${query({ ...deliveries.filter, limit: DELIVERIES_LIMIT })}`);
  } catch (error) {
    return orLost(error, $("deliveries-error"));
  }
  if (asked !== query(deliveries.filter)) return; // the filter changed meanwhile
  showError($("deliveries-error"), null);
  deliveries.latest = page.deliveries;
  deliveries.latestCursor = page.next_cursor;
  const isHeld = deliveries.shown === asked && (deliveries.pages > 1 || deliveries.open.size > 0 || deliveryReader.isReading());
  if (isHeld) {
    const byId = new Map(page.deliveries.map((delivery) => [delivery.id, delivery]));
    deliveries.rows = deliveries.rows.map((row) => byId.get(row.id) ?? row);
  } else {
    takeLatest();
  }
  deliveries.shown = asked;
  await Promise.all([...deliveries.open.keys()].map((id) => refreshDetail(id)));
  showDeliveries();
}

function takeLatest() {
  deliveries.rows = deliveries.latest;
  deliveries.cursor = deliveries.latestCursor;
  deliveries.pages = 1;
  const ids = new Set(deliveries.rows.map((row) => row.id));
  for (const id of deliveries.open.keys()) if (!ids.has(id)) deliveries.open.delete(id);
}

$("deliveries-fresh").addEventListener("click", () => {
  takeLatest();
  deliveryReader.letGo();
  showDeliveries();
  $("deliveries-title").scrollIntoView({ block: "nearest" });
});

$("deliveries-more").addEventListener("click", async () => {
  const asked = query(deliveries.filter);
  $("deliveries-more").disabled = true;
  try {
    const page = await call(`v1/deliveries?${query({ ...deliveries.filter, limit: DELIVERIES_LIMIT, cursor: deliveries.cursor })}`);
    if (asked !== query(deliveries.filter)) return;
    deliveries.rows = [...deliveries.rows, ...page.deliveries];
    deliveries.cursor = page.next_cursor;
    deliveries.pages += 1;
    showDeliveries();
  } catch (error) {
    showError($("deliveries-error"), explain(error));
  } finally {
    $("deliveries-more").disabled = false;
  }
});

function showDeliveries() {
  patchList($("delivery-table"), deliveries.rows, (row) => row.id, createDelivery, updateDelivery);
  const ids = new Set(deliveries.rows.map((row) => row.id));
  const fresh = deliveries.latest.filter((row) => !ids.has(row.id)).length;
  const isDeep = deliveries.pages > 1;
  $("deliveries-fresh").hidden = fresh === 0 && !isDeep;
  setText($("deliveries-fresh"), fresh > 0 ? `Show ${fresh}${fresh >= DELIVERIES_LIMIT ? "+" : ""} newer` : "Back to the latest");
  $("deliveries-more").hidden = !deliveries.cursor;
  $("deliveries-empty").hidden = deliveries.rows.length > 0;
  setText(
    $("deliveries-empty"),
    query(deliveries.filter) ? "No delivery matches these filters." : "No deliveries yet. Send a sample job and watch it here.",
  );
}

function createDelivery(delivery) {
  const parts = {
    badge: make("span", { class: "badge" }),
    about: make("span", { class: "line second" }),
    address: make("span", { class: "line" }),
    user: make("span", { class: "line second" }),
    template: make("span", { class: "line" }),
    job: make("span", { class: "line second mono" }),
    why: make("span"),
    code: make("code"),
    when: make("time", { class: "line" }),
    whenWord: make("span", { class: "line second" }),
  };
  const detailId = `attempts-${delivery.id}`;
  parts.toggle = make("button", {
    type: "button",
    class: "toggle",
    "aria-expanded": "false",
    "aria-controls": detailId,
    "aria-label": `Attempts of this delivery to ${delivery.address}`,
  });
  const cell = (...children) => make("td", { role: "cell" }, ...children);
  const row = make(
    "tr",
    { class: "row", role: "row" },
    cell(parts.toggle, parts.badge, parts.about),
    cell(parts.address, parts.user),
    cell(parts.template, parts.job),
    cell(make("span", { class: "why" }, parts.why, " ", parts.code)),
    cell(parts.when, parts.whenWord),
  );
  row.addEventListener("click", (event) => {
    // Whoever marks text in a row wants to copy it, not to open the row.
    if (event.target === parts.toggle || getSelection().isCollapsed) toggleDelivery(delivery.id);
  });
  parts.detailCell = make("td", { role: "cell", colspan: "5" });
  parts.detail = make("tr", { class: "detail", role: "row", id: detailId, hidden: true }, parts.detailCell);
  const body = make("tbody", { role: "rowgroup" }, row, parts.detail);
  body.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !deliveries.open.has(delivery.id)) return;
    toggleDelivery(delivery.id);
    parts.toggle.focus();
  });
  body.parts = parts;
  return body;
}

function updateDelivery(body, delivery) {
  const { parts } = body;
  setBadge(parts.badge, delivery.status, STATUS_TONES[delivery.status]);
  setText(parts.about, `${delivery.channel}${delivery.attempts > 0 ? ` · ${plural(delivery.attempts, "attempt")}` : ""}`);
  setText(parts.address, delivery.address);
  setAttribute(parts.address, "title", delivery.address);
  const user = delivery.user_id === null ? "no user" : `user ${delivery.user_id}`;
  setText(parts.user, user === delivery.address ? "" : user);
  setText(parts.template, delivery.template ?? "own content");
  setText(parts.job, delivery.job_id);
  setAttribute(parts.job, "title", delivery.job_id);
  setText(parts.why, why(delivery));
  setText(parts.code, delivery.code ?? "");
  const isDue = delivery.status === "queued" && delivery.next_at;
  setTime(parts.when, isDue ? delivery.next_at : delivery.updated_at);
  if (isDue && Date.parse(delivery.next_at) <= now()) setText(parts.when, "due now");
  setText(
    parts.whenWord,
    isDue ? `attempt ${delivery.attempts + 1}` : ({ queued: "accepted", sending: "started" }[delivery.status] ?? delivery.status),
  );
  const known = deliveries.open.get(delivery.id);
  setAttribute(body, "data-open", known !== undefined);
  setAttribute(parts.toggle, "aria-expanded", known !== undefined);
  parts.detail.hidden = known === undefined;
  if (known) showDetail(parts, delivery, known);
}

function toggleDelivery(id) {
  if (deliveries.open.has(id)) deliveries.open.delete(id);
  else {
    deliveries.open.set(id, { job: null, delivery: null, error: null, cursor: null, seen: null });
    refreshDetail(id).then(showDeliveries, () => poll());
  }
  showDeliveries();
}

/** Loads the job of an open row, again whenever the row changed or is still under way. */
async function refreshDetail(id) {
  const known = deliveries.open.get(id);
  const row = deliveries.rows.find((each) => each.id === id);
  if (!known || !row) return;
  const isEnded = row.status !== "queued" && row.status !== "sending";
  if (known.delivery && isEnded && known.seen === row.updated_at) return;
  try {
    let found = null;
    for (let page = 0; page < JOB_PAGES_LIMIT && !found; page += 1) {
      const job = await call(`v1/jobs/${encodeURIComponent(row.job_id)}?${query({ cursor: known.cursor })}`);
      known.job = job;
      found = job.deliveries.find((each) => each.id === id) ?? null;
      if (!found && !job.next_cursor) break;
      if (!found) known.cursor = job.next_cursor;
    }
    known.error = found ? null : "This job is large, and its page of attempts was not found.";
    known.delivery = found;
    known.seen = found?.updated_at ?? null;
    if (found) {
      const index = deliveries.rows.findIndex((each) => each.id === id);
      if (index >= 0) deliveries.rows[index] = { ...deliveries.rows[index], ...found, attempts: found.attempts.length };
    }
  } catch (error) {
    if (!(error instanceof ApiError) || error.isLost) throw error;
    known.error = explain(error);
  }
}

function showDetail(parts, delivery, known) {
  if (!parts.sheet) createDetail(parts, delivery);
  const facts = [
    ["delivery", delivery.id],
    ["job", delivery.job_id],
    ["provider", delivery.provider],
    ["provider id", delivery.provider_id],
    ["priority", delivery.priority],
    ["accepted", absolute(delivery.accepted_at)],
    ["updated", absolute(delivery.updated_at)],
    ["next attempt", delivery.status === "queued" && delivery.next_at && absolute(delivery.next_at)],
    ["expires", delivery.expires_at && absolute(delivery.expires_at)],
    ["job is", known.job?.status],
  ].filter(([, value]) => value);
  patchList(
    parts.sheet,
    facts,
    ([name]) => name,
    ([name]) => make("div", {}, make("dt", {}, name), make("dd")),
    (node, [, value]) => setText(node.lastChild, value),
  );
  showError(parts.detailError, known.error);
  const attempts = known.delivery?.attempts ?? [];
  setText(parts.attemptsNote, known.delivery || known.error ? (attempts.length ? "" : "None yet.") : "Loading…");
  patchList(parts.attempts, attempts, (attempt) => attempt.number, createAttempt, updateAttempt);
  const siblings = (known.job?.deliveries ?? []).filter((each) => each.id !== delivery.id).slice(0, 12);
  parts.siblingsBox.hidden = siblings.length === 0;
  patchList(
    parts.siblings,
    siblings,
    (each) => each.id,
    () => make("li", {}, make("span", { class: "badge" }), make("span")),
    (node, each) => {
      setBadge(node.firstChild, each.status, STATUS_TONES[each.status]);
      setText(node.lastChild, `${each.channel} to ${each.address}`);
    },
  );
  const skipped = known.job?.skipped ?? [];
  parts.skippedBox.hidden = skipped.length === 0;
  patchList(
    parts.skipped,
    skipped.slice(0, 12),
    (each) => JSON.stringify(each),
    (each) => make("li", {}, skippedSentence(each)),
  );
  const canCancel = known.job?.status === "running" && delivery.status === "queued";
  parts.actions.hidden = !canCancel && !parts.cancelAnswer.textContent;
  parts.cancel.hidden = !canCancel || parts.isAsking;
  parts.cancelSure.hidden = !canCancel || !parts.isAsking;
}

function createDetail(parts, delivery) {
  parts.sheet = make("dl", { class: "sheet" });
  parts.detailError = make("p", { class: "error", hidden: true });
  parts.attemptsNote = make("span", { class: "second" });
  parts.attempts = make("ol", { class: "attempts" });
  parts.siblings = make("ul", { class: "siblings" });
  parts.siblingsBox = make("div", { hidden: true }, make("h3", {}, "The job's other deliveries"), parts.siblings);
  parts.skipped = make("ul");
  parts.skippedBox = make("div", { hidden: true }, make("h3", {}, "Skipped"), parts.skipped);
  parts.cancelAnswer = make("span", { role: "status" });
  const ask = (isAsking) => {
    parts.isAsking = isAsking;
    showDeliveries();
    (isAsking ? parts.cancelSure.firstChild : parts.cancel).focus();
  };
  parts.cancel = make("button", { type: "button", class: "danger", on: { click: () => ask(true) } }, "Cancel this job…");
  parts.cancelSure = make(
    "span",
    { class: "inline", hidden: true },
    make(
      "button",
      { type: "button", class: "danger", on: { click: () => cancelJob(parts, delivery.job_id) } },
      "Yes, cancel all that the job still has queued",
    ),
    make("button", { type: "button", on: { click: () => ask(false) } }, "Keep it"),
  );
  parts.actions = make("div", { class: "inline actions", hidden: true }, parts.cancel, parts.cancelSure, parts.cancelAnswer);
  parts.detailCell.append(
    parts.sheet,
    parts.detailError,
    make("h3", {}, "Attempts"),
    parts.attemptsNote,
    parts.attempts,
    parts.siblingsBox,
    parts.skippedBox,
    parts.actions,
  );
}

async function cancelJob(parts, job) {
  parts.isAsking = false;
  try {
    const answer = await call(`v1/jobs/${encodeURIComponent(job)}`, { method: "DELETE" });
    setText(
      parts.cancelAnswer,
      `${count(answer.cancelled)} cancelled, ${answer.too_late > 0 ? `${count(answer.too_late)} too late: an attempt is under way.` : "none too late."}`,
    );
  } catch (error) {
    setText(parts.cancelAnswer, explain(error));
  }
  poll();
}

function createAttempt(attempt) {
  return make(
    "li",
    {},
    make("span", { class: "number" }, `${attempt.number}.`),
    make("span", {}, make("span", { class: "badge" })),
    make("div", {}, make("p"), make("p", { class: "second" }), make("p", { class: "second mono" })),
  );
}

function updateAttempt(node, attempt) {
  setBadge(node.children[1].firstChild, attempt.outcome ?? "under way", attempt.outcome ? OUTCOME_TONES[attempt.outcome] : "busy");
  const [sentence, times, detail] = node.lastChild.children;
  const took = attempt.finished_at ? Date.parse(attempt.finished_at) - Date.parse(attempt.started_at) : null;
  setText(
    sentence,
    attempt.code ? codeSentence(attempt.code) : attempt.outcome === "sent" ? "Taken." : attempt.outcome ? "" : "No answer yet.",
  );
  setText(
    times,
    `${attempt.provider}, ${absolute(attempt.started_at)}${took === null ? "" : `, took ${took < 10000 ? `${took} ms` : span(took / 1000)}`}`,
  );
  setText(detail, attempt.detail);
}

function skippedSentence(skipped) {
  return `${skipped.channel}${skipped.user_id === null ? "" : ` for user ${skipped.user_id}`}: ${SKIPPED_SENTENCES[skipped.reason] ?? String(skipped.reason).replaceAll("_", " ")}.`;
}

// ---- Outbox ---------------------------------------------------------------------------------------------------------------------------

const outbox = { messages: [], latest: [], chosen: null, asked: null, endedTotal: -1, askedAt: -Infinity };
const outboxReader = watchReader($("outbox-scroll"));

async function refreshOutbox() {
  const channel = $("outbox-channel").value;
  // Whatever is captured ends a delivery, so as long as none ended there is nothing new; now and then it asks anyway.
  const endedTotal = (lastStatus.lanes ?? []).reduce((sum, lane) => sum + lane.ended_total, 0);
  const isDue = outbox.asked !== channel || outbox.endedTotal !== endedTotal || performance.now() - outbox.askedAt > 5000;
  if (isDue) {
    let page;
    try {
      page = await call(`v1/outbox?${query({ channel, limit: OUTBOX_LIMIT })}`);
    } catch (error) {
      if (error.status === 404) return;
      return orLost(error, $("outbox-error"));
    }
    if (channel !== $("outbox-channel").value) return;
    showError($("outbox-error"), null);
    const isOther = outbox.asked !== channel;
    outbox.latest = page.messages;
    Object.assign(outbox, { endedTotal, askedAt: performance.now(), asked: channel });
    if (isOther) outbox.messages = outbox.latest;
  }
  if (!outboxReader.isReading()) outbox.messages = outbox.latest;
  showOutbox();
}

function showOutbox() {
  const isUsed = outbox.messages.length > 0 || outbox.asked !== "" || (lastStatus.captures ?? []).length > 0;
  $("outbox").hidden = !isUsed;
  $("nav-outbox").hidden = !isUsed;
  $("outbox-empty").hidden = outbox.messages.length > 0;
  const ids = new Set(outbox.messages.map((message) => message.id));
  const fresh = outbox.latest.filter((message) => !ids.has(message.id)).length;
  $("outbox-fresh").hidden = fresh === 0;
  setText($("outbox-fresh"), `Show ${fresh} newer`);
  patchList(
    $("outbox-list"),
    outbox.messages,
    (message) => message.id,
    createMessage,
    (node, message) => {
      setTime(node.querySelector("time"), message.captured_at);
      setAttribute(node.firstChild, "aria-current", outbox.chosen === message.id ? "true" : null);
    },
  );
  const isWide = matchMedia("(min-width: 721px)").matches;
  if (outbox.chosen === null && isWide && outbox.messages.length > 0) chooseMessage(outbox.messages[0], { byReader: false });
}

function createMessage(message) {
  return make(
    "li",
    {},
    make(
      "button",
      { type: "button", on: { click: () => chooseMessage(message, { byReader: true }) } },
      make(
        "span",
        { class: "first" },
        make("span", { class: "line" }, `${message.channel} to ${message.to}`),
        make("time", { class: "time" }),
      ),
      make("span", { class: "line subject" }, message.subject || message.text || "(no text)"),
      make("span", { class: "line second" }, message.subject ? message.text : message.user_id === null ? "" : `user ${message.user_id}`),
    ),
  );
}

function chooseMessage(message, { byReader }) {
  outbox.chosen = message.id;
  $("outbox-body").dataset.open = String(byReader);
  const detail = $("outbox-detail");
  const back = make("button", { type: "button", class: "back", on: { click: closeMessage } }, "Back to the list");
  const facts = [
    ["to", message.to],
    ["user", message.user_id],
    ["job", message.job_id],
    ["captured", absolute(message.captured_at)],
  ].filter(([, value]) => value);
  const sheet = make(
    "dl",
    { class: "sheet" },
    ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))),
  );
  const views = { email: mailView, sms: smsView, push: pushView };
  detail.replaceChildren(
    back,
    make("h3", {}, message.subject || { sms: "SMS", push: "Push" }[message.channel] || "(no subject)"),
    sheet,
    ...(views[message.channel] ?? rawView)(message),
  );
  showOutbox();
  if (byReader && getComputedStyle(back).display !== "none") {
    $("outbox").scrollIntoView({ block: "start" });
    back.focus({ preventScroll: true });
  }
}

function closeMessage() {
  $("outbox-body").dataset.open = "false";
  $("outbox-list").querySelector("[aria-current]")?.focus();
}

function mailView(message) {
  return tabs(
    [
      message.has_html ? ["HTML", () => htmlFrame(message)] : null,
      ["Text", () => make("pre", { tabindex: "0" }, message.text ?? "")],
      [
        "Headers",
        () =>
          make(
            "dl",
            { class: "headers" },
            ...(message.headers ?? []).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
          ),
      ],
      ["Raw", () => make("pre", { tabindex: "0" }, message.raw ?? "")],
    ].filter(Boolean),
  );
}

/** The mail as its reader would see it, in a frame without scripts, forms, links or an origin. */
function htmlFrame(message) {
  const frame = make("iframe", { sandbox: "", referrerpolicy: "no-referrer", title: `HTML of the mail to ${message.to}` });
  if (!storedKey()) {
    frame.setAttribute("src", `v1/outbox/${encodeURIComponent(message.id)}/html`);
    return frame;
  }
  // A frame cannot send the API key, so its document is fetched; this page's content policy then takes its styles away.
  const note = make("p", { class: "hint" }, "Loading…");
  call(`v1/outbox/${encodeURIComponent(message.id)}/html`, { as: "text" }).then(
    (html) => {
      frame.srcdoc = html;
      setText(note, "Shown without its own styles and images, because an API key is in use.");
    },
    (error) => {
      frame.remove();
      setText(note, explain(error));
    },
  );
  return make("div", {}, frame, note);
}

function smsView(message) {
  const text = message.text ?? "";
  const segments = message.segments ? `, ${plural(message.segments, "segment")}` : "";
  return [make("p", { class: "bubble" }, text), make("p", { class: "hint" }, `${plural([...text].length, "character")}${segments}`)];
}

function pushView(message) {
  let shown = message.raw ?? "";
  try {
    shown = JSON.stringify(JSON.parse(shown), null, 2);
  } catch {
    /* shown as it is */
  }
  return [
    make(
      "div",
      { class: "push-card" },
      make("p", { class: "second" }, "your app · now"),
      make("strong", {}, message.subject || "(no title)"),
      make("p", {}, message.text ?? ""),
    ),
    make("pre", { tabindex: "0", "aria-label": "JSON" }, shown),
  ];
}

const rawView = (message) => [make("pre", { tabindex: "0" }, message.raw ?? message.text ?? "")];

let tabsMade = 0;
let tabPreferred = null;

function tabs(choices) {
  tabsMade += 1;
  const panel = make("div", { class: "tab-panel", role: "tabpanel", id: `tab-panel-${tabsMade}` });
  const buttons = choices.map(([name], index) =>
    make(
      "button",
      {
        type: "button",
        role: "tab",
        id: `tab-${tabsMade}-${index}`,
        "aria-controls": panel.id,
        on: {
          click: () => {
            tabPreferred = name;
            choose(index);
          },
          keydown: (event) => move(event, index),
        },
      },
      name,
    ),
  );
  function choose(index) {
    buttons.forEach((button, each) => {
      button.setAttribute("aria-selected", String(each === index));
      button.tabIndex = each === index ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", buttons[index].id);
    panel.replaceChildren(choices[index][1]());
  }
  function move(event, index) {
    const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const button = buttons.at(to % buttons.length);
    button.focus();
    button.click();
  }
  choose(
    Math.max(
      0,
      choices.findIndex(([name]) => name === tabPreferred),
    ),
  );
  return [make("div", { class: "tabs", role: "tablist", "aria-label": "Views of this mail" }, ...buttons), panel];
}

$("outbox-fresh").addEventListener("click", () => {
  outbox.messages = outbox.latest;
  outboxReader.letGo();
  $("outbox-scroll").scrollTop = 0;
  showOutbox();
});

$("outbox-channel").addEventListener("change", () => {
  outbox.chosen = null;
  poll();
});

// ---- Live -----------------------------------------------------------------------------------------------------------------------------

const live = {
  socket: null,
  timer: 0,
  generation: 0,
  user: "42",
  wait: RECONNECT_FIRST_MS,
  seq: null,
  epoch: null,
  retryAfterMs: null,
  isOffered: null,
  notifications: [],
};
let liveKey = 0;

function liveState(text, tone) {
  setBadge($("live-state"), text, tone);
}

function stopLive() {
  live.generation += 1;
  clearTimeout(live.timer);
  live.socket?.close();
  live.socket = null;
}

/** Connects now, unless it is connected or about to be. */
function resumeLive() {
  if (!isLocked && (live.socket === null || live.socket.readyState > WebSocket.OPEN)) startLive();
}

/** Connects as the chosen user; gets a token of its own each time, because they expire. */
async function startLive() {
  if (live.isOffered === false || document.hidden) return;
  stopLive();
  const { generation, user } = live;
  liveState("connecting", "busy");
  let offer;
  try {
    offer = await call(`v1/dev/token?${query({ user })}`);
  } catch (error) {
    if (generation !== live.generation) return;
    if (error.status === 404 || error.status === 401 || error.status === 403) {
      live.isOffered = error.status === 404 ? false : live.isOffered;
      $("live").hidden = true;
      $("nav-live").hidden = true;
      return;
    }
    if (error.status === 400 || error.status === 422) return liveState(error.message, "bad");
    return reconnectLater("no token");
  }
  if (generation !== live.generation) return;
  live.isOffered = true;
  $("live").hidden = false;
  $("nav-live").hidden = false;
  let socket;
  try {
    socket = new WebSocket(liveAddress(offer));
  } catch {
    return liveState(`${offer.url} is no address of a socket`, "bad");
  }
  live.socket = socket;
  const isCurrent = () => generation === live.generation;
  socket.addEventListener("open", () => {
    if (!isCurrent()) return;
    live.wait = RECONNECT_FIRST_MS;
    liveState(`connected as user ${user}`, "good");
  });
  socket.addEventListener("message", (event) => {
    if (isCurrent()) readFrame(event.data);
  });
  socket.addEventListener("close", (event) => {
    if (isCurrent()) reconnectLater(event.code === 1006 ? "refused or cut" : `closed with ${event.code}`);
  });
}

/** With what was seen last, so that the daemon sends what was missed in between. */
function liveAddress(offer) {
  const url = new URL(offer.url);
  url.searchParams.set("token", offer.token);
  url.searchParams.set("v", "1");
  if (live.seq !== null && live.epoch !== null) {
    url.searchParams.set("since", live.seq);
    url.searchParams.set("epoch", live.epoch);
  }
  return url;
}

function reconnectLater(reason) {
  const pause = Math.max(live.retryAfterMs ?? 0, live.wait * (0.5 + Math.random() / 2));
  live.retryAfterMs = null;
  live.wait = Math.min(live.wait * 2, RECONNECT_LIMIT_MS);
  liveState(`${reason}, again in ${span(Math.ceil(pause / 1000))}`, "warn");
  clearTimeout(live.timer);
  live.timer = setTimeout(startLive, pause);
}

function readFrame(data) {
  let frame;
  try {
    frame = JSON.parse(data);
  } catch {
    return;
  }
  if (typeof frame !== "object" || frame === null) return;
  if (frame.epoch !== undefined) live.epoch = frame.epoch;
  if (typeof frame.seq === "number" && frame.type === "notification") live.seq = Math.max(live.seq ?? 0, frame.seq);
  if (frame.type === "hello" && live.seq === null && typeof frame.seq === "number") live.seq = frame.seq;
  if (typeof frame.retry_after_ms === "number") live.retryAfterMs = frame.retry_after_ms;
  if (frame.type !== "notification") return;
  liveKey += 1;
  live.notifications.unshift({ key: liveKey, frame, at: new Date(now()).toISOString() });
  live.notifications.length = Math.min(live.notifications.length, LIVE_LIMIT);
  showLive();
}

function showLive() {
  $("live-empty").hidden = live.notifications.length > 0;
  patchList(
    $("live-list"),
    live.notifications,
    (each) => each.key,
    ({ frame, at }) =>
      make(
        "li",
        { "data-severity": frame.severity },
        make(
          "div",
          { class: "first" },
          make("strong", {}, String(frame.title ?? frame.message ?? "")),
          make("time", { datetime: at, title: absolute(at) }, new Date(at).toLocaleTimeString(undefined, { timeStyle: "medium" })),
        ),
        make("p", {}, frame.title ? String(frame.message ?? "") : ""),
        make(
          "p",
          { class: "hint" },
          [
            frame.kind,
            frame.severity,
            frame.seq !== undefined ? `seq ${frame.seq}` : null,
            frame.id !== undefined ? `id ${frame.id}` : null,
          ]
            .filter(Boolean)
            .join(" · "),
        ),
      ),
  );
}

$("live-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const user = $("live-user").value.trim();
  if (!user) return;
  if (user !== live.user) Object.assign(live, { user, seq: null, epoch: null, notifications: [] });
  live.wait = RECONNECT_FIRST_MS;
  showLive();
  startLive();
});

// ---- Send a sample job ----------------------------------------------------------------------------------------------------------------

let templates = [];
let templatesAskedAt = -Infinity;
const tracked = new Map(); // jobs sent from here whose deliveries are shown: id -> the answer and the job as last seen

function prepareSend(status) {
  const isTrial = status.mode === "dev";
  $("send-details").open = isTrial;
  if (!isTrial) return;
  $("send-email").value = "asha@example.com";
  $("send-phone").value = "+255712345678";
  $("send-push").value = "sample-push-token-0001";
}

async function refreshTemplates() {
  if (performance.now() - templatesAskedAt < TEMPLATES_EVERY_MS) return;
  let answer;
  try {
    answer = await call("v1/templates");
  } catch (error) {
    if (!(error instanceof ApiError) || error.isLost) throw error;
    templatesAskedAt = performance.now();
    return showProblems(explain(error), []);
  }
  templatesAskedAt = performance.now();
  if (JSON.stringify(answer.templates) === JSON.stringify(templates)) return;
  templates = answer.templates;
  const chosen = $("send-template").value;
  $("send-template").replaceChildren(...templates.map((template) => make("option", { value: template.name }, template.name)));
  const stays = templates.some((template) => template.name === chosen);
  if (stays) $("send-template").value = chosen;
  for (const id of ["send-button", "send-each"]) $(id).disabled = templates.length === 0;
  if (!stays) chooseTemplate();
}

const chosenTemplate = () => templates.find((template) => template.name === $("send-template").value);

function chooseTemplate() {
  const template = chosenTemplate();
  $("send-data").value = JSON.stringify(template?.sample ?? {}, null, 2);
  $("send-locale").replaceChildren(
    make("option", { value: "" }, "default"),
    ...(template?.locales ?? []).map((locale) => make("option", { value: locale }, locale)),
  );
  $("send-channels").replaceChildren(
    ...CHANNELS.map((channel) => {
      const isOffered = template?.channels.includes(channel) ?? false;
      const box = make("input", { type: "checkbox", value: channel, disabled: !isOffered });
      box.checked = isOffered;
      return make(
        "label",
        { class: "check", "data-off": String(!isOffered), title: isOffered ? null : `This template has no part for ${channel}` },
        box,
        channel,
      );
    }),
  );
  showRealWarning();
}

$("send-template").addEventListener("change", chooseTemplate);
$("send-channels").addEventListener("change", showRealWarning);

const chosenChannels = () => [...$("send-channels").querySelectorAll("input:checked")].map((box) => box.value);

/** Channels that would really reach someone ask for a second thought. */
function showRealWarning() {
  const captures = lastStatus?.captures ?? [];
  const real = CHANNELS.filter(
    (channel) => channel !== "live" && !captures.includes(channel) && templates.some((template) => template.channels.includes(channel)),
  );
  setText($("send-real-text"), `Really send. Not captured, so it reaches people: ${real.join(", ")}.`);
  $("send-real").hidden = lastStatus === null || real.length === 0;
}

function recipient() {
  const value = (id) => $(id).value.trim() || undefined;
  const token = value("send-push");
  return {
    user_id: value("send-user") ?? "",
    email: value("send-email"),
    phone: value("send-phone"),
    push_tokens: token && [token],
    locale: value("send-locale"),
  };
}

$("send-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  let data;
  try {
    data = JSON.parse($("send-data").value.trim() || "{}");
  } catch (error) {
    return showProblems("The data is not JSON.", [
      { path: "$.data", problem: error.message, hint: 'write a JSON object, such as {"name": "Asha"}' },
    ]);
  }
  await send([
    { v: 1, template: $("send-template").value, to: [recipient()], channels: chosenChannels(), data, priority: $("send-priority").value },
  ]);
});

$("send-each").addEventListener("click", () =>
  send(
    templates.map((template) => ({
      v: 1,
      template: template.name,
      to: [recipient()],
      data: template.sample ?? {},
      priority: $("send-priority").value,
    })),
  ),
);

async function send(jobs) {
  if (jobs.length === 1 && jobs[0].channels?.length === 0) {
    return showProblems("No channel is chosen.", [{ path: "$.channels", problem: "none is chosen", hint: "choose at least one" }]);
  }
  if (!$("send-real").hidden && !$("send-real-check").checked) {
    showProblems("Not sent.", [{ path: "", problem: "some of these channels reach people", hint: "tick “Really send” first" }]);
    return $("send-real-check").focus();
  }
  for (const id of ["send-button", "send-each"]) $(id).disabled = true;
  tracked.clear();
  try {
    for (const job of jobs) {
      const answer = await call("v1/jobs", { method: "POST", body: job });
      tracked.set(answer.id, { answer, template: job.template, job: null, sentAt: performance.now() });
    }
    markInvalid([]);
    showTracked();
  } catch (error) {
    showProblems(
      error.status === 403 ? `${explain(error)} Sending needs a key with the scope enqueue.` : explain(error),
      error.problem?.problems ?? [],
      jobs.length > 1 ? tracked.size : 0,
    );
    tracked.clear();
  }
  for (const id of ["send-button", "send-each"]) $(id).disabled = false;
  poll();
}

function markInvalid(problems) {
  for (const field of $("send-form").querySelectorAll("[data-path]")) {
    const isConcerned = problems.some(
      ({ path }) => path === field.dataset.path || path.startsWith(`${field.dataset.path}.`) || path.startsWith(`${field.dataset.path}[`),
    );
    setAttribute(field, "aria-invalid", isConcerned ? "true" : null);
  }
}

function showProblems(title, problems, sentBefore = 0) {
  markInvalid(problems);
  const list = problems.map(({ path, problem, hint }) =>
    make(
      "li",
      {},
      path ? make("code", {}, path) : null,
      `${path ? " " : ""}${problem}`,
      hint ? make("p", { class: "hint" }, `hint: ${hint}`) : null,
    ),
  );
  nodesByParent.delete($("send-result"));
  $("send-result").replaceChildren(
    make("p", { class: "error" }, title, sentBefore > 0 ? ` ${plural(sentBefore, "job was", "jobs were")} accepted before.` : ""),
    make("ul", {}, ...list),
  );
}

/** Follows the jobs sent from here until nothing of them is under way. */
async function refreshTracked() {
  const open = [...tracked.entries()]
    .filter(([, each]) => (each.job?.status ?? "running") === "running" && performance.now() - each.sentAt < FOLLOW_MS)
    .slice(0, FOLLOW_LIMIT);
  await Promise.all(
    open.map(async ([id, each]) => {
      try {
        each.job = await call(`v1/jobs/${encodeURIComponent(id)}`);
      } catch (error) {
        if (!(error instanceof ApiError) || error.isLost) throw error;
        if (error.status === 404) each.sentAt = -Infinity; // another store: nothing to follow any more
      }
    }),
  );
  if (tracked.size > 0) showTracked();
}

function showTracked() {
  const result = $("send-result");
  if (!nodesByParent.has(result)) result.replaceChildren();
  patchList(
    result,
    [...tracked.entries()],
    ([id]) => id,
    ([id, { answer, template }]) => {
      const skipped = (answer.skipped ?? []).map((each) => make("li", { class: "hint" }, `Skipped ${skippedSentence(each)}`));
      const unlisted = (answer.skipped_total ?? 0) - skipped.length;
      if (unlisted > 0) skipped.push(make("li", { class: "hint" }, `And ${count(unlisted)} more skipped.`));
      return make(
        "div",
        {},
        make(
          "p",
          {},
          make("span", { class: "badge", "data-tone": "good" }, "accepted"),
          `${template}: ${plural(answer.deliveries, "delivery", "deliveries")}`,
        ),
        make("p", { class: "hint" }, "job ", make("code", {}, id)),
        make("ul"),
        make("ul", {}, ...skipped),
      );
    },
    (node, [, each]) => {
      patchList(
        node.children[2],
        (each.job?.deliveries ?? []).slice(0, 10),
        (delivery) => delivery.id,
        () => make("li", { class: "tracked" }, make("span", { class: "badge" }), make("span")),
        (line, delivery) => {
          setBadge(line.firstChild, delivery.status, STATUS_TONES[delivery.status]);
          setText(line.lastChild, `${delivery.channel} to ${delivery.address}`);
        },
      );
    },
  );
}

// ---- Start ----------------------------------------------------------------------------------------------------------------------------

filterBy({});
startLive();
