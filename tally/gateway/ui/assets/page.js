// The page: draws what the feed tells, and asks for what a person clicks. No library, no build.
//
// What comes from outside becomes text, never HTML. Rows are kept from one picture to the next, so that neither the
// focus nor a selection is lost. Every address is relative: the page also works behind a path prefix.
"use strict";

const KEPT = 300; // seconds of history that the page keeps
const SPANS = [[60, "1 min", "last minute"], [120, "2 min", "last 2 minutes"], [KEPT, "5 min", "last 5 minutes"]]; // on a chart
const OVER_MS = 5000; // a rate is that of so long
const SILENT_MS = 4000; // after this long without a picture the feed counts as cut
const BEHIND_S = 10; // an epoch that is older than this should have been closed
const HIDDEN_MS = 60000; // a page that nobody looks at lets go of the feed after this long
const ACTING = { "X-Tally-UI": "1" };

const at = (id) => document.getElementById(id);

// --- making elements ---------------------------------------------------------------------------------------

/** An element: `h("p", { class: "note" }, "text", child…)`. */
function h(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const shape = (symbol, kind = "shape") =>
  svg("svg", { class: kind, "aria-hidden": "true" }, svg("use", { href: `#${symbol}` }));

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Replace the children, unless they would look the same. */
function show(node, token, ...children) {
  if (node.dataset.token === token) return;
  node.dataset.token = token;
  node.replaceChildren(...children);
}

/** Rows for items: those that are there stay where they are. */
function rows(list, items, key, make, fill) {
  const known = new Map([...list.children].map((row) => [row.dataset.key, row]));
  items.forEach((item, index) => {
    const name = key(item);
    let row = known.get(name);
    known.delete(name);
    if (!row) {
      row = make(item);
      row.dataset.key = name;
    }
    fill(row, item);
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
  });
  for (const row of known.values()) row.remove();
}

/** Told to who can't see it, once. */
function news(text) {
  say(at("news"), text);
}

// --- words -------------------------------------------------------------------------------------------------

function seconds(s) {
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
}

/** An age, without a fraction that would only flicker. */
const whole = (s) => (s < 120 ? `${Math.round(s)} s` : seconds(s));
const rate = (n) => (n === 0 ? "0" : n < 10 ? n.toFixed(1) : Math.round(n).toString()) + "/s";
const short = (id) => String(id).slice(-8);
const clock = (at) => new Date(at).toLocaleTimeString("en-GB");

const STATES = {
  up: ["s-up", "good", "up"],
  down: ["s-down", "bad", "down"],
  silent: ["s-trouble", "warn", "silent"],
  unwell: ["s-trouble", "warn", "unwell"],
};
/** What it means that one of these is not there; an end of the relationship has a sentence of its own. */
const WITHOUT = {
  directory: "Views, and the log of operations, can't be read.",
  notifier: "Mails wait.",
  stream: "Nothing can be deferred, and what happens is told later.",
};
const AWAY = { down: "is down", silent: "does not answer", unwell: "is unwell" };
const CIRCUITS = {
  closed: ["c-closed", "", "closed"],
  half_open: ["c-half", "warn", "half open"],
  open: ["c-open", "bad", "open"],
  forced_open: ["c-open", "bad", "held open"],
  forced_closed: ["c-closed", "warn", "held closed"],
  observe: ["c-closed", "warn", "only observes"],
};
const circuitOf = (state) => CIRCUITS[state.replaceAll("-", "_")] ?? ["c-half", "warn", state];
const WHAT_IS = {
  directory: "read views, operation log",
  notifier: "mails",
  stream: "NATS JetStream",
};
/** Why the other side refused. */
const REASONS = {
  "not-found": "what the other end names does not exist",
  taken: "another operation has the pair",
  full: "no seat was left",
  "too-late": "it came after its epoch was closed",
  "too-early": "the clocks are too far apart",
  resolved: "the other side never had it",
  killed: "it was dead on the other side",
  cancelled: "it was cancelled",
  deleted: "the other end was deleted",
  lost: "a restore lost the other end",
  unsent: "the other side was not reached",
  dead: "it was dead on the other side",
};
/** Why a deferred operation was not carried out yet. */
const WHY = {
  breaker_open: "its circuit is open",
  bulkhead_full: "too many requests wait for it",
  deadline_passed: "the time was over",
  refused: "it refuses connections",
  dns: "its name can't be resolved",
  "no-connection": "no connection was made in time",
  timeout: "it did not answer in time",
  reset: "it cut the connection",
  "cut-short": "it cut its answer short",
  contended: "others change the same pair",
  "clock-skew": "the clocks are too far apart",
};
/** What a state means that is no end. */
const WAITS = {
  requested: "nothing has been told of it since",
  deferred: "it waits for its turn",
  retried: "it waits for its next try",
  parked: "it failed in a way that nobody foresaw",
  unknown: "its caller was told 504; settling decides it",
  recorded: "it is on both sides, and settling has not confirmed it",
};
const OUTCOMES = { dead: "Undone, and proven", silent: "No answer: the settler sees to it", stale: "The proof was stale" };

// --- the feed ----------------------------------------------------------------------------------------------

let about = null;
let source = null;
let heardAt = 0;
let last = null;
let cut = true;

function listen() {
  source?.close();
  source = new EventSource("ui/feed");
  source.onmessage = (message) => {
    const picture = JSON.parse(message.data);
    heardAt = Date.now();
    if (cut) connected();
    draw(picture);
    last = picture;
  };
}

function connected() {
  cut = false;
  document.body.classList.remove("cut");
  show(at("feed"), "live", h("span", { class: "good" }, shape("s-up"), " live"));
  if (last) news("The feed is back.");
}

function watch() {
  if (source === null) return;
  const silent = Date.now() - heardAt;
  if (silent < SILENT_MS) return;
  const age = last ? `; what you see is ${whole((Date.now() - Date.parse(last.at)) / 1000)} old` : "";
  show(at("feed"), age || "cut", h("span", { class: "bad" }, shape("s-down"), ` cut: trying again${age}`));
  if (!cut) news("The feed is cut. Trying again.");
  cut = true;
  document.body.classList.add("cut");
  pronounce("bad", "This gateway does not answer.", "How things stand is not known.");
  // A browser gives up on an answer that is no stream (503: too many look), and waits for a connection that is dead.
  if (source.readyState === EventSource.CLOSED || silent > 3 * SILENT_MS) {
    heardAt = Date.now() - SILENT_MS;
    listen();
  }
}

let hiding = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) {
    hiding = setTimeout(() => {
      source?.close();
      source = null;
    }, HIDDEN_MS);
  } else if (source === null && about !== null) {
    heardAt = Date.now();
    listen();
  }
});

// --- drawing a picture -------------------------------------------------------------------------------------

function draw(picture) {
  drawVerdict(picture);
  drawServices(picture);
  drawCreates(picture);
  drawEpoch(picture);
  drawStuck(picture.operations);
  drawCompensations(picture.compensations);
  drawMails(picture.mails);
  drawSwitches(picture);
  tellChanges(picture);
}

function tellChanges(picture) {
  if (!last) return;
  const before = new Map(last.services.map((one) => [one.name, one.state]));
  const changed = picture.services.filter((one) => before.has(one.name) && before.get(one.name) !== one.state);
  if (changed.length) news(changed.map((one) => `${one.name} is ${STATES[one.state][2]}`).join("; ") + ".");
}

/** How things stand, in a sentence: who is away and what that means, or else what is not as it should be. */
function drawVerdict(picture) {
  const ends = about ? [about.left.service, about.right.service] : [];
  const away = picture.services.filter((one) => one.state !== "up");
  const held = picture.breakers.filter(({ peer, kind, state }) =>
    state !== "closed" && ["read", "write"].includes(kind) && !away.some((one) => one.name === peer));
  const behind = picture.epoch_age_s > BEHIND_S;
  if (away.length) {
    const missing = away.filter((one) => ends.includes(one.name)).length;
    const meanings = away.map((one) => WITHOUT[one.name]).filter(Boolean);
    if (missing) meanings.unshift(missing < 2 ? "Creates can't be completed; reads show what the other side knows." : "Nothing can be created or read.");
    const named = away.map((one) => `${one.name} ${AWAY[one.state]}`).join(", ");
    pronounce(missing ? "bad" : "warn", `${named[0].toUpperCase()}${named.slice(1)}.`, meanings.join(" "));
  } else if (held.length) {
    pronounce("warn", `Circuits: ${held.map((one) => `${one.kind}s at ${one.peer} ${circuitOf(one.state)[2]}`).join(", ")}.`, "");
  } else if (behind) {
    pronounce("warn", "Settling is behind.", "Nothing is confirmed, and lone halves stay, until it goes on.");
  } else if (picture.faults?.length) {
    pronounce("warn", "A fault is switched on.", "It ends by itself.");
  } else {
    pronounce("good", `All ${picture.services.length} services answer.`, "Every circuit is closed.");
  }
  const left = picture.operations.items?.length ?? 0;
  at("left-link").hidden = left === 0;
  say(at("left-link"), `${left} operation${left === 1 ? " has" : "s have"} not ended`);
}

function pronounce(tone, lead, rest) {
  const symbol = { good: "s-up", warn: "s-trouble", bad: "s-down" }[tone];
  show(at("verdict"), lead + rest, h("strong", { class: tone }, shape(symbol), ` ${lead}`), rest ? ` ${rest}` : "");
  document.title = `${{ good: "", warn: "▲ ", bad: "✕ " }[tone]}Tally: ${about.relationship}`;
}

function drawServices(picture) {
  rows(
    at("services"),
    picture.services,
    (one) => one.name,
    (one) =>
      h("tr", null, h("th", { scope: "row" }, one.name), h("td"),
        h("td", { class: "circuit-cell", "data-label": "reads" }), h("td", { class: "circuit-cell", "data-label": "writes" })),
    (row, one) => {
      const [symbol, tone, word] = STATES[one.state];
      const took = one.took_ms == null ? "" : ` ${seconds(one.took_ms / 1000)}`;
      const since = one.since_ms == null ? "" : ` for ${whole(Math.max(0, (Date.parse(picture.at) - one.since_ms) / 1000))}`;
      const detail = one.detail || WHAT_IS[one.name] || "";
      show(row.children[1], word + took + since + detail,
        h("span", { class: tone }, shape(symbol), ` ${word}`),
        h("span", { class: "since" }, one.state === "up" && since ? `${took},${since}` : took + since),
        detail ? h("small", null, detail) : "");
      ["read", "write"].forEach((kind, index) => {
        const circuit = picture.breakers.find((each) => each.peer === one.name && each.kind === kind);
        if (!circuit) return;
        const [icon, mood, name] = circuitOf(circuit.state);
        const next = circuit.state === "open" && circuit.retry_after_s > 0 ? `tried in ${whole(Math.ceil(circuit.retry_after_s))}` : "";
        const kept = circuit.rejected && circuit.state !== "closed" ? `${circuit.rejected} not sent` : "";
        show(row.children[2 + index], name + next + kept,
          h("span", { class: mood }, shape(icon, "circuit"), ` ${name}`),
          ...[next, kept].filter(Boolean).map((text) => h("small", null, text)));
      });
    },
  );
}

// --- creates and the settlement ------------------------------------------------------------------------------

const GAP_MS = 5000; // over a longer pause no line is drawn
const history = [];
const epochs = [];

/** Keep what is young enough. */
function keep(list, one) {
  list.push(one);
  while (one.at - list[0].at > KEPT * 1000) list.shift();
}

/** How much of the past a chart shows: as much as there is, in few steps, so that it keeps still. */
const spanOf = (list) => SPANS.find(([s]) => (list.at(-1).at - list[0].at) / 1000 <= s) ?? SPANS.at(-1);

/** A path through points of [time, value], the last of which is at the right end of so many seconds. */
function line(points, height, top, span) {
  const end = points.at(-1)?.[0] ?? 0;
  const x = (at) => (KEPT * (1 - (end - at) / 1000 / span)).toFixed(1);
  const y = (value) => (height - 1 - (value / top) * (height - 2)).toFixed(2);
  return points.map(([at, value], index) => `${index && at - points[index - 1][0] < GAP_MS ? "L" : "M"}${x(at)} ${y(value)}`).join("");
}

/** Lines on one scale; returns the greatest value. The first line has an area under it. */
function chart(node, lines, span) {
  const height = 60;
  const most = Math.max(0, ...lines.flatMap(({ points }) => points.map(([, value]) => value)));
  const top = Math.max(1, most) * 1.05;
  const drawn = lines.map(({ name, points }) => svg("path", { class: `l-${name}`, d: line(points, height, top, span) }));
  // (Each part of the line comes down to the ground at both of its ends.)
  const parts = (drawn[0].getAttribute("d").match(/M[^M]+/g) ?? []).map((part) => {
    const ends = [...part.matchAll(/[ML]([\d.]+) /g)].map((match) => match[1]);
    return `${part}L${ends.at(-1)} ${height}L${ends[0]} ${height}Z`;
  });
  const under = svg("path", { class: "area", d: parts.join("") });
  node.replaceChildren(svg("svg", { viewBox: `0 0 ${KEPT} ${height}`, preserveAspectRatio: "none" }, under, ...drawn));
  return most;
}

function drawCreates(picture) {
  const now = { at: Date.parse(picture.at), ...picture.creates };
  // The process began anew: what it counted is gone.
  if (history.length && total(now) < total(history.at(-1))) history.length = 0;
  keep(history, now);
  const rates = (name) =>
    history.slice(1).map((one, index) => {
      let from = index;
      while (from > 0 && one.at - history[from - 1].at <= OVER_MS) from -= 1;
      const past = history[from];
      return [one.at, ((one.outcomes[name] ?? 0) - (past.outcomes[name] ?? 0)) / Math.max(0.5, (one.at - past.at) / 1000)];
    });
  const lines = ["done", "refused", "unknown"].map((name) => ({ name, points: rates(name) }));
  const [span, ago, told] = spanOf(history);
  const most = chart(at("creates-chart"), lines.filter(({ name, points }) => name === "done" || points.some(([, value]) => value > 0)), span);
  say(at("creates-since"), `${ago} ago`);
  say(at("creates-span"), told);
  say(at("creates-most"), most ? `at most ${rate(most)}` : "");
  for (const { name, points } of lines) {
    say(at(`n-${name}`), points.length ? rate(points.at(-1)[1]) : "–");
  }
  const then = history.find((one) => now.at - one.at <= 60000);
  say(at("n-p50"), quantile(then.buckets, now.buckets, 0.5, total(now) - total(then)));
  say(at("n-p95"), quantile(then.buckets, now.buckets, 0.95, total(now) - total(then)));
}

const total = (one) => Object.values(one.outcomes).reduce((sum, n) => sum + n, 0);

/** As Prometheus computes it: linear within the bucket. */
function quantile(then, now, q, count) {
  if (!count) return "–";
  let below = 0;
  let from = 0;
  for (const [index, [limit, cumulative]] of now.entries()) {
    const here = cumulative - (then[index]?.[1] ?? 0);
    if (here >= q * count) return seconds(from + ((limit - from) * (q * count - below)) / Math.max(1, here - below));
    [below, from] = [here, limit];
  }
  return `over ${seconds(from)}`;
}

function drawEpoch(picture) {
  const age = picture.epoch_age_s;
  const behind = age != null && age > BEHIND_S;
  const word = age == null ? "not known" : seconds(age);
  show(at("epoch"), word + behind, behind ? h("span", { class: "warn" }, shape("s-trouble"), ` ${word}, behind`) : word);
  keep(epochs, { at: Date.parse(picture.at), age: age ?? 0 });
  const [span, ago] = spanOf(epochs);
  const most = chart(at("epoch-chart"), [{ name: "epoch", points: epochs.map((one) => [one.at, one.age]) }], span);
  say(at("epoch-since"), `${ago} ago`);
  say(at("epoch-most"), most ? `at most ${seconds(most)}` : "");
}

// --- lists -------------------------------------------------------------------------------------------------

const rowOf = () => h("li", null, h("span", { class: "what" }), h("span", { class: "when" }));

function drawStuck(operations) {
  rows(at("stuck"), operations.items ?? [], (one) => one.id,
    (one) => {
      const row = rowOf();
      if (about?.mode === "full" && ["deferred", "retried", "parked"].includes(one.state)) {
        row.append(h("button", { type: "button", class: "small", "aria-label": `Retry operation ${one.id}`, click: () => retry(one.id) }, "Retry"));
      }
      return row;
    },
    (row, one) => {
      const reason = WHY[one.reason] ?? one.reason;
      const why = reason ? [one.service, reason].filter(Boolean).join(": ") : WAITS[one.state] ?? "";
      const tried = one.attempts ? `; tried ${one.attempts} time${one.attempts === 1 ? "" : "s"}` : "";
      show(row.children[0], one.state + why + tried,
        h("span", { class: one.state === "parked" ? "bad" : "warn" }, shape(one.state === "parked" ? "s-trouble" : "s-wait"), ` ${one.state}`),
        why ? `: ${why}` : "", tried, h("small", null, h("a", { href: `operation/${one.id}` }, h("code", null, one.id))));
      say(row.children[1], `for ${whole(one.age_s)}`);
    });
  const notes = {
    absent: "The directory keeps the log of operations, and this gateway has not been told of one (TALLY_DIRECTORY_URL).",
    away: `The directory, which keeps the log of operations, is not there now: ${operations.detail}.`,
    there: operations.items?.length ? "" : "None: whatever was begun has ended.",
  };
  say(at("stuck-note"), notes[operations.state]);
}

async function retry(id) {
  const answer = await act(`ui/operations/${id}/retry`);
  news(answer.ok ? `Operation ${short(id)} is tried now.` : `Operation ${short(id)}: ${answer.says}`);
}

function drawCompensations(compensations) {
  at("compensations").classList.toggle("scroll", compensations.length > 5);
  if (compensations.length > 5) at("compensations").setAttribute("tabindex", "0");
  rows(at("compensations"), compensations, (one) => `${one.operation}/${one.at}`, rowOf,
    (row, one) => {
      const good = one.outcome === "dead";
      show(row.children[0], "drawn",
        h("span", { class: good ? "" : "warn" }, shape(good ? "s-done" : "s-trouble"), ` ${OUTCOMES[one.outcome] ?? one.outcome}`),
        `: ${REASONS[one.reason] ?? one.reason}`,
        h("small", null, "operation ", h("code", null, one.operation)),
        one.trace_id ? h("small", null, "trace ", h("code", null, one.trace_id)) : "");
      say(row.children[1], clock(one.at));
    });
  say(at("compensations-note"), compensations.length ? "" : "None yet. When one side refuses, the half that the other side has recorded is undone, and it is proven that it stays so.");
}

function drawMails(mails) {
  at("mails").classList.toggle("scroll", (mails.items ?? []).length > 6);
  if ((mails.items ?? []).length > 6) at("mails").setAttribute("tabindex", "0");
  rows(at("mails"), mails.items ?? [], (one) => one.id, rowOf,
    (row, one) => {
      show(row.children[0], "drawn", one.subject || "(no subject)", h("small", null, `to ${one.to ?? "nobody"}`));
      const when = Date.parse(one.date ?? "");
      say(row.children[1], Number.isNaN(when) ? "" : clock(when));
    });
  const notes = {
    absent: "No inbox is configured here (TALLY_MAIL_URL).",
    away: `The inbox is not there: ${mails.detail}.`,
    there: mails.items?.length ? "" : "No mail yet.",
  };
  say(at("mails-note"), notes[mails.state]);
}

// --- switches ----------------------------------------------------------------------------------------------

function drawSwitches(picture) {
  if (about?.mode !== "full") return;
  at("switches").hidden = false;
  rows(at("circuits"), picture.breakers.filter((one) => ["read", "write"].includes(one.kind)), (one) => `${one.peer}/${one.kind}`,
    (one) => {
      const row = rowOf();
      row.children[1].replaceWith(h("button", { type: "button", class: "small", click: () => toggle(one.peer, one.kind, row.dataset.mode) }));
      return row;
    },
    (row, one) => {
      const [icon, tone, word] = circuitOf(one.state);
      row.dataset.mode = one.mode;
      show(row.children[0], word, `${one.kind}s at ${one.peer}: `, h("span", { class: tone }, shape(icon, "circuit"), ` ${word}`));
      say(row.children[1], one.mode === "auto" ? "Hold open" : "Let go");
      row.children[1].setAttribute("aria-label", `${one.mode === "auto" ? "Hold open" : "Let go"}: ${one.kind}s at ${one.peer}`);
    });
  const on = picture.faults;
  at("fault-form").hidden = on == null;
  rows(at("faults"), on ?? [], (one) => JSON.stringify(one.fault), rowOf,
    (row, one) => {
      show(row.children[0], `${one.hits}`, h("span", { class: "warn" }, shape("s-trouble"), ` ${one.fault.kind}`),
        `: ${Math.round(one.fault.rate * 100)} % of ${one.fault.path}, hit ${one.hits} times`);
      say(row.children[1], `${whole(one.left_s)} left`);
    });
  say(at("faults-note"), on == null ? "Faults are off here: TALLY_FAULTS=on make run lets you switch some on. Those of other services: tally faults set SERVICE." : on.length ? "" : "None is on.");
}

async function toggle(peer, kind, mode) {
  const wanted = mode === "auto" ? "forced_open" : "auto";
  const answer = await act(`ui/breakers/${peer}/${kind}`, { mode: wanted });
  news(answer.ok ? `The circuit for ${kind}s at ${peer} is ${wanted === "auto" ? "let go" : "held open"}.` : answer.says);
}

async function setFaults(faults) {
  const answer = await act("ui/faults", { faults });
  news(answer.ok ? (faults.length ? "The fault is on." : "No fault is on.") : answer.says);
}

function readyFaults() {
  at("fault-kind").append(...about.fault_kinds.filter((kind) => !["pool", "not-ready"].includes(kind)).map((kind) => h("option", null, kind)));
  const late = () => (at("fault-late").hidden = at("fault-kind").value !== "latency");
  at("fault-kind").addEventListener("change", late);
  late();
  at("fault-set").addEventListener("click", () =>
    setFaults([{
      kind: at("fault-kind").value,
      rate: at("fault-rate").valueAsNumber / 100,
      expires_s: at("fault-seconds").valueAsNumber,
      path: `/${about.right.entity}/`, // never of this page: it could not be cleared from here
      latency_ms: at("fault-kind").value === "latency" ? at("fault-ms").valueAsNumber : 0,
    }]));
  at("fault-clear").addEventListener("click", () => setFaults([]));
}

// --- asking ------------------------------------------------------------------------------------------------

/** One request; never throws. `text` is the body as it came, `json` what it holds, `says` a sentence if it failed. */
async function ask(method, path, { body, headers } = {}) {
  try {
    const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
    const told = { status: answer.status, reason: answer.statusText, headers: Object.fromEntries(answer.headers), text: await answer.text() };
    return understood(told);
  } catch {
    return { ok: false, status: 0, reason: "", headers: {}, text: "", json: null, says: "The gateway does not answer." };
  }
}

function understood(told) {
  let json = null;
  try {
    json = JSON.parse(told.text);
  } catch { /* it is no JSON */ }
  const ok = told.status >= 200 && told.status < 300;
  return { ...told, ok, json, says: ok ? "" : json?.detail ?? `It answered ${told.status}.` };
}

const act = (path, body = {}) => ask("POST", path, { body, headers: ACTING });

/** At a service that owns things: the gateway asks for us, and tells the answer as it came. */
async function visit(service, collection, body) {
  const answer = await act(`ui/demo/${service}/${collection}`, body);
  return answer.ok ? understood(answer.json) : answer;
}

function curl(method, url, { body, headers } = {}) {
  const parts = ["curl -i"];
  if (url.startsWith("https")) parts.push("-k");
  if (method !== "GET" && !(method === "POST" && body !== undefined)) parts.push(`-X ${method}`);
  for (const [name, value] of Object.entries(headers ?? {})) parts.push(`-H '${name}: ${value}'`);
  parts.push(url.replace(/^http:\/\//, "").replace(/^127\.0\.0\.1/, "localhost"));
  if (body !== undefined) parts.push(`-d '${JSON.stringify(body)}'`);
  return parts.join(" ");
}

function answered(answer) {
  const head = [`${answer.status || "no answer"} ${answer.reason}`.trim()];
  for (const name of ["Location", "Retry-After", "Preference-Applied"]) {
    const value = answer.headers[name.toLowerCase()];
    if (value) head.push(`${name}: ${value}`);
  }
  const body = answer.json === null ? answer.text : JSON.stringify(answer.json, null, 2);
  return [head.join("\n"), body || answer.says].filter(Boolean).join("\n\n");
}

// --- the walk ----------------------------------------------------------------------------------------------

const made = {};
const gateway = (path) => new URL(path, location.href).href;
const pair = () => `event/${made.event}/attendance/${made.author}`;

/** What a step asks for. `at` is an owner's name, or "gateway"; its path is filled in when its turn has come. */
const WALK = [
  {
    title: "An author", expect: 201, at: "author", collection: "author", body: () => ({ full_name: "Alan Turing", email: "alan@example.org" }), keep: "author",
    why: "The author service owns authors, in a database of its own.",
  },
  {
    title: "A conference", expect: 201, at: "conference", collection: "conference", body: () => ({ acronym: "SWAT" }), keep: "conference",
    why: "The conference service owns conferences and events, in another one. No foreign key can span the two.",
  },
  {
    title: "Its first event", expect: 201, at: "conference", collection: "event", body: () => ({ conference_id: made.conference, seq: 1 }), keep: "event",
    why: "An event may have a capacity; this one takes everybody.",
  },
  {
    title: "The author attends the event", expect: 201, method: "POST", path: pair,
    why: "One parallel round trip: the gateway records one half of the attendance at each service. It exists if, and only if, both halves are live. Stay here for a few seconds, and a mail confirms it.",
  },
  {
    title: "Who attends the event?", expect: 200, method: "GET", path: () => `event/${made.event}/attendance`,
    why: "Only the owners are asked, both at once: the list is what is live on both sides, with each side's own details.",
  },
  {
    title: "What does the author attend?", expect: 200, method: "GET", path: () => `author/${made.author}/attendance`,
    why: "The same from the other end. Were a service down, this would say so: \"complete\" would be false.",
  },
  {
    title: "Once more", expect: 200, method: "POST", path: pair,
    why: "Nothing new, and no harm: the answer is 200 instead of 201, with the same operation.",
  },
  {
    title: "An author who does not exist", expect: 404, method: "POST", path: () => `event/${made.event}/attendance/${(made.nobody ??= crypto.randomUUID())}`,
    why: "The author service refuses, and the half that the event had already is undone: look at “Halves undone”. The answer names who is unknown, and nothing is left behind, now or later.",
  },
  {
    title: "Cancel", expect: 204, method: "DELETE", path: pair,
    why: "Dead is for ever: a cancelled operation is never live again, whatever arrives late. A new attendance would be a new operation.",
  },
  {
    title: "It is gone on both sides", expect: 404, method: "GET", path: pair,
    why: "Neither end lists it any more.",
  },
];
const steps = [];
let walked = 0;
let walking = false;

function stepView(number, title, why) {
  const result = h("span", { class: "result" });
  const asks = h("pre", { class: "ask", hidden: true });
  const answers = h("pre", { class: "answer", hidden: true, tabindex: "0", "aria-label": "The answer" });
  const inside = h("div", { class: "step" }, h("p", { class: "why" }, why), asks, answers);
  const details = h("details", null, h("summary", null, h("span", { class: "title" }, `${number}. ${title}`), result), inside);
  return { item: h("li", null, details), details, inside, result, asks, answers };
}

function report(view, answer, expected) {
  const right = answer.status === expected;
  view.result.className = `result ${right ? "good" : "bad"}`;
  view.result.replaceChildren(shape(right ? "s-done" : "s-down"), ` ${answer.status || "no answer"}${right ? "" : `, not ${expected}`}`);
  say(view.answers, answered(answer));
  view.answers.hidden = false;
  return right;
}

async function walkOne() {
  const step = WALK[walked];
  const view = steps[walked];
  const method = step.method ?? "POST";
  const url = step.path ? gateway(step.path()) : `${about.urls[step.at]}/${step.collection}`;
  const body = step.body?.();
  say(view.asks, curl(method, url, { body }));
  view.asks.hidden = false;
  const answer = step.path ? await ask(method, step.path()) : await visit(step.at, step.collection, body);
  const right = report(view, answer, step.expect);
  if (right && step.keep) made[step.keep] = answer.json?.id;
  for (const other of steps) other.details.open = other === view;
  news(`Step ${walked + 1}, ${step.title}: ${answer.status || "no answer"}${right ? "" : `, and ${step.expect} was expected`}.`);
  if (right) walked += 1;
  return right;
}

async function walk(most) {
  if (walking) return;
  walking = true;
  walkButtons();
  for (let done = 0; done < most && walked < WALK.length; done += 1) if (!(await walkOne())) break;
  walking = false;
  walkButtons();
}

function walkButtons() {
  const over = walked >= WALK.length;
  const next = at("walk-next");
  say(next, over ? "All steps are done" : walked ? `Next: ${WALK[walked].title}` : `Begin: ${WALK[0].title}`);
  // Not `disabled`: the focus would be lost between two steps.
  for (const button of [next, at("walk-all")]) button.setAttribute("aria-disabled", String(over || walking));
  next.disabled = over;
  at("walk-all").disabled = over;
  at("walk-again").disabled = walked === 0;
  at("outage").hidden = !made.event;
}

function walkAgain() {
  for (const key of Object.keys(made)) delete made[key];
  walked = 0;
  steps.length = 0;
  at("steps").replaceChildren();
  drawWalk();
  at("walk-next").focus();
}

function drawWalk() {
  WALK.forEach((step, index) => {
    const view = stepView(index + 1, step.title, step.why);
    steps.push(view);
    at("steps").append(view.item);
  });
  walkButtons();
}

// --- the outage --------------------------------------------------------------------------------------------

function drawOutage() {
  const views = [
    stepView(1, "Stop the conference service", "In a terminal:"),
    stepView(2, "Attend, and wait for the answer", "A service that hangs may have done it or not: 504, and an address that will tell. One that is gone, or whose circuit is open after a few of these, is not even asked: 503 at once, and nothing is recorded at the other side either, now or later."),
    stepView(3, "Attend, and don't wait", "The request is in the event stream before it is answered, so that any gateway can carry it out. Its address tells how it stands."),
    stepView(4, "Bring the service back", "The next attempt finds it, the operation is confirmed, and a mail says so. In a terminal:"),
  ];
  const again = (view, method, options, expected) => async () => {
    say(view.asks, curl(method, gateway(pair()), options));
    view.asks.hidden = false;
    const answer = await ask(method, pair(), options);
    report(view, answer, expected(answer));
    news(`${answer.status || "No answer"}: ${answer.json?.detail ?? answer.json?.state ?? ""}`);
    return answer;
  };
  command(views[0], "tally stop conference", "Or hold its circuit open", () => act("ui/breakers/conference/write", { mode: "forced_open" }));
  button(views[1], "Attend", again(views[1], "POST", {}, (answer) => (answer.status === 504 ? 504 : 503)));
  const tracked = h("p", { class: "track" });
  const later = again(views[2], "POST", { headers: { Prefer: "respond-async" } }, () => 202);
  button(views[2], "Attend with Prefer: respond-async", async () => {
    const answer = await later();
    if (answer.status === 202) await track(answer.json.id, tracked, views[2]);
  });
  views[2].inside.append(tracked);
  command(views[3], "tally start conference", "Or let its circuit go", () => act("ui/breakers/conference/write", { mode: "auto" }));
  at("outage-steps").replaceChildren(...views.map((view) => view.item));
}

function button(view, label, click) {
  view.inside.insertBefore(h("p", { class: "buttons" }, h("button", { type: "button", click }, label)), view.asks);
}

function command(view, text, label, click) {
  view.asks.hidden = false;
  say(view.asks, text);
  const done = async () => {
    const answer = await click();
    view.result.className = `result ${answer.ok ? "good" : "bad"}`;
    view.result.replaceChildren(shape(answer.ok ? "s-done" : "s-down"), answer.ok ? " done" : " refused");
    news(answer.ok ? "The circuit is switched." : answer.says);
  };
  view.inside.append(h("p", { class: "buttons" }, h("button", { type: "button", class: "small", click: done }, label)));
}

const ENDS = { confirmed: "good", rejected: "bad", abandoned: "bad", parked: "bad" };

/** Until the operation has ended. */
async function track(id, node, view) {
  for (let state = ""; !(state in ENDS); ) {
    const answer = await ask("GET", `operation/${id}`);
    const told = answer.json ?? {};
    state = answer.ok ? told.state : "";
    const tone = ENDS[state] ?? "warn";
    const tried = told.attempts ? `attempt ${told.attempts}${told.reasons?.length ? `: ${told.reasons.map((one) => WHY[one] ?? one).join(", ")}` : ""}` : "";
    show(node, `${state}${tried}${answer.says}`,
      h("strong", { class: tone }, shape(tone === "good" ? "s-done" : tone === "bad" ? "s-down" : "s-wait"), ` ${state || "not known now"}`),
      state in ENDS && tone === "good" ? "" : tried || answer.says);
    if (state in ENDS) {
      say(view.answers, answered(answer));
      news(`Operation ${short(id)} is ${state}.`);
    } else {
      await new Promise((resume) => setTimeout(resume, 1000));
    }
  }
}

// --- the beginning -----------------------------------------------------------------------------------------

async function begin() {
  const told = await ask("GET", "ui/about");
  if (!told.ok) {
    setTimeout(begin, 2000);
    return;
  }
  about = told.json;
  say(at("relationship"), `· ${about.relationship}`);
  document.title = `Tally: ${about.relationship}`;
  const walkable = about.mode === "full" && WALK.every((step) => step.path || about.urls[step.at]);
  say(at("walk-lead"), walkable
    ? "Each step is one request: what a person would type, what comes back, and why."
    : "This page can only be read here. Where TALLY_UI is full (make run), it walks through the API by clicking.");
  at("walk-buttons").hidden = !walkable;
  if (walkable) {
    at("walk-next").addEventListener("click", () => walk(1));
    at("walk-all").addEventListener("click", () => walk(WALK.length));
    at("walk-again").addEventListener("click", walkAgain);
    drawWalk();
    drawOutage();
  }
  if (about.mode === "full") readyFaults();
  heardAt = Date.now();
  listen();
  setInterval(watch, 1000);
}

begin();
