
// Shows the survey that "ui/events" sends each second. Whatever comes from there becomes text, never markup.
const byId = (id) => document.getElementById(id);
const made = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const put = (element, text) => {
  if (element.textContent !== text) element.textContent = text; // a text that stays can be selected, and is not read out again
};
// The element of each row in order: kept from the last time, so that focus stays, or made anew.
const keyed = (parent, rows, keyOf, make, update) => {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  rows.forEach((row, place) => {
    const key = keyOf(row, place);
    const element = old.get(key) ?? make(row);
    element.dataset.key = key;
    old.delete(key);
    update(element, row);
    if (parent.children[place] !== element) parent.insertBefore(element, parent.children[place] ?? null);
  });
  for (const element of old.values()) element.remove();
};

const MARKS = { well: "✓", warn: "▲", bad: "■", none: "…" };
const NONE = "–";
const known = (value, tell) => (value === null || value === undefined ? NONE : tell(value));
const rounded = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
const count = (value) => value.toLocaleString("en");
const time = (s) =>
  s < 0.001 ? "< 1 ms" : s < 1 ? `${rounded(s * 1000)} ms` : s < 90 ? `${rounded(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`;
const ago = (s) => (s < 1 ? "now" : `${time(Math.round(s))} ago`);
const ahead = (s) => (Math.abs(s) < 0.001 ? "< 1 ms" : `${s > 0 ? "+" : "−"}${time(Math.abs(s))}`);
const share = (hits, all) => (all ? `${rounded((100 * hits) / all)} %` : NONE);
const nameOf = (member) => member.member ?? member.url;
const byName = (one, other) => one.localeCompare(other, "en", { numeric: true });

// Rates come from two surveys: what a node counted in between.
const LONGEST = 60;
const past = new Map();
const between = (member) => {
  const status = member.status;
  const before = past.get(member.member) ?? { line: [] };
  const now = performance.now();
  if (!status) return { ...before, rate: null, hits: null };
  const passed = (now - before.at) / 1000;
  const grown = status.accepted - before.accepted;
  const rate = passed > 0.2 && grown >= 0 ? grown / passed : null;
  const found = status.cache_hits - before.hits, missed = status.cache_misses - before.misses;
  const line = rate === null ? [] : [...before.line, rate].slice(-LONGEST);
  past.set(member.member, { at: now, accepted: status.accepted, hits: status.cache_hits, misses: status.cache_misses, line });
  return { line, rate, hits: found >= 0 && missed >= 0 ? [found, missed] : null };
};

const remarksOf = (member) => {
  const status = member.status ?? {};
  const found = [];
  if (member.state === "not heard") found.push(member.heard_ago_s === null ? "nothing is heard of it" : `nothing was heard of it for ${time(Math.round(member.heard_ago_s))}`);
  if (member.failure) found.push(member.failure);
  if (status.not_ready_because && member.state !== "draining") found.push(`not ready: ${status.not_ready_because}`);
  if (status.provisional_log_outs) found.push(`${status.provisional_log_outs} log-outs are in force on this node only`);
  if (Math.abs(member.ahead_s) > 2) found.push("its clock differs by more than 2 s: run NTP");
  for (const [task, times] of Object.entries(status.restarted_tasks ?? {})) found.push(`the task ${task} was restarted ${times} times`);
  return found;
};
const levelOf = (member, remarks) => {
  if (["gone", "not heard", "not ready", "silent"].includes(member.state) || member.failure) return "bad";
  return member.state !== "ready" || remarks.length ? "warn" : "well";
};

// Members

const FACTS = [
  ["Fresh", (m) => known(m.status?.freshness_age_s, (age) => `${time(age)} of ${time(m.freshness_limit_s)}`)],
  ["Lag, median · 99 %", (m) => known(m.status?.sync_lag, (lag) => lag.count ? `${atMost(lag.p50_s)} · ${atMost(lag.p99_s)}` : NONE)],
  ["Clock", (m) => (m.here ? "this node's" : known(m.ahead_s, ahead))],
  ["Heard", (m) => (m.here ? "this node" : known(m.heard_ago_s, ago))],
  ["Accepted", (m, rates) => known(rates.rate, (rate) => `${rounded(rate)} /s`)],
  ["Cache hits", (m, rates) => known(m.status?.cache_hits, (hits) => rates.hits?.[0] ? share(rates.hits[0], rates.hits[0] + rates.hits[1]) : share(hits, hits + m.status.cache_misses))],
  ["Log-outs kept", (m) => known(m.status?.revocation_entries, count)],
  ["Release", (m) => known(m.release, String)],
];
const atMost = (s) => (s === null ? "> 60 s" : `≤ ${time(s)}`);

const newMember = () => {
  const card = made("article", "member");
  const head = made("h3"), facts = made("dl"), bar = made("div", "bar");
  head.append(made("span", "name"), made("span", "state"));
  bar.append(made("i"));
  for (const [label] of FACTS) facts.append(made("dt", "", label), made("dd"));
  const line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  line.setAttribute("class", "line");
  line.setAttribute("viewBox", "0 0 60 20");
  line.setAttribute("preserveAspectRatio", "none");
  line.setAttribute("aria-hidden", "true");
  line.append(document.createElementNS("http://www.w3.org/2000/svg", "path"));
  const trend = made("div", "trend");
  trend.append(made("span", "soft", "The last minute"), line);
  card.append(head, made("p", "url mono"), bar, facts, trend, made("ul", "remarks"), made("div", "actions"));
  return card;
};
const showMember = (card, { member, rates, remarks, level }) => {
  card.dataset.level = level;
  card.dataset.member = member.member ?? "";
  card.dataset.url = member.url;
  put(card.querySelector(".name"), nameOf(member));
  const state = card.querySelector(".state"), told = `${MARKS[level]} ${member.state}${member.here ? ", asked" : ""}`;
  if (state.dataset.told !== told) {
    state.dataset.told = told;
    state.replaceChildren(made("span", "mark", MARKS[level]), ` ${member.state}`);
  }
  put(card.querySelector(".url"), member.member ? member.url || (member.here ? "" : "has no HA_SESSION_ADVERTISE_URL, so it cannot be asked") : "");
  const age = member.status?.freshness_age_s, limit = member.freshness_limit_s, bar = card.querySelector(".bar");
  const used = age === undefined || !limit ? 0 : age === null ? 1 : Math.min(1, age / limit);
  bar.firstChild.style.width = `${100 * used}%`;
  bar.dataset.level = used > 0.999 ? "bad" : used > 0.8 ? "warn" : "well";
  bar.hidden = !member.status;
  const values = card.querySelectorAll("dd");
  FACTS.forEach(([, tell], place) => put(values[place], tell(member, rates)));
  const most = Math.max(1, ...rates.line);
  card.querySelector("path").setAttribute("d", rates.line.map((rate, at) => `${at ? "L" : "M"}${60 - rates.line.length + at + 1} ${19 - (18 * rate) / most}`).join(""));
  card.querySelector(".trend").hidden = rates.line.length < 2;
  keyed(card.querySelector(".remarks"), remarks, (text) => text, (text) => made("li", "", text), () => {});
};

// Tables

const table = (id, columns, rows, keyOf) => {
  const [head, body] = [byId(id).tHead, byId(id).tBodies[0]];
  byId(id).parentElement.hidden = !rows.length;
  byId(`no-${id}`).hidden = rows.length > 0;
  const top = head.rows[0] ?? head.insertRow();
  keyed(top, columns, (_, place) => `${place}`, () => made("th"), (cell, column) => {
    cell.scope = "col";
    cell.className = column.kind ?? "";
    put(cell, column.label);
  });
  keyed(body, rows, keyOf, () => made("tr"), (line, row) =>
    keyed(line, columns, (_, place) => `${place}`, () => made("td"), (cell, column) => {
      cell.className = column.kind ?? "";
      cell.dataset.label = column.label;
      const [text, small] = [column.tell(row)].flat();
      const shown = small ? `${text} ${small}` : text;
      if (cell.dataset.shown === shown) return;
      cell.dataset.shown = shown;
      const value = made("span", "", text);
      if (small) value.append(" ", made("small", "", small));
      cell.replaceChildren(value);
    }),
  );
};

const REACH = { session: "a session", subject: "a subject, everywhere", others: "a subject, elsewhere", everybody: "everybody", key: "a key" };
const MOST_NODES = 9; // of which each has a column
const reached = (row, name, member) => {
  const node = row.nodes[name];
  if (node?.after_s === null) return ["at its start"];
  if (node) return name === row.by ? ["made it"] : [time(node.after_s), node.error_s >= 0.0001 ? `±${(node.error_s * 1000).toFixed(1)} ms` : ""];
  if (!member?.status.told_log_outs) return [NONE];
  return row.ago_s < 60 ? [`▲ not for ${time(row.ago_s)}`] : [NONE];
};
// A node learns the log-outs before its start together. It knows no moment for them.
const isTimed = (row) => row.mode !== null || Object.values(row.nodes).some((node) => node.after_s !== null);
const HOW = byId("how").textContent;
// With more nodes, a log-out shows how many have enforced it, and the slowest of them.
const othersOf = (row) => Object.entries(row.nodes).filter(([name, node]) => name !== row.by && node.after_s !== null).sort(([, one], [, other]) => one.after_s - other.after_s);
const summary = (named) => [
  { label: "Made by", kind: "text", tell: (row) => known(row.by, String) },
  { label: "Enforced on", tell: (row) => {
    const there = Object.keys(row.nodes).length;
    const missing = row.ago_s < 60 ? [...named].filter(([name, member]) => member.status.told_log_outs && !(name in row.nodes)).length : 0;
    return missing ? `▲ ${there} of ${there + missing} nodes` : `${there} nodes`;
  } },
  { label: "Median node", tell: (row) => known(othersOf(row)[othersOf(row).length >> 1], ([, node]) => time(node.after_s)) },
  { label: "Slowest node", kind: "text", tell: (row) => known(othersOf(row).at(-1), ([name, node]) => [time(node.after_s), name]) },
];
const showLogOuts = (all, members) => {
  const rows = all.filter(isTimed), older = all.length - rows.length;
  put(byId("how"), older ? `${HOW} ${older} more are older: each node has read them at its start.` : HOW);
  const named = new Map(members.filter((member) => member.status).map((member) => [member.member, member]));
  const names = [...new Set([...named.keys(), ...rows.flatMap((row) => Object.keys(row.nodes))])].sort(byName);
  const columns = [
    { label: "When", kind: "text", tell: (row) => ago(row.ago_s) },
    { label: "What", kind: "text fills", tell: (row) => [REACH[row.reach] ?? row.reach, row.name] },
    { label: "Acknowledged", kind: "text", tell: (row) => known(row.mode, (mode) => [mode, `after ${time(row.acknowledged_s)}`]) },
    ...(names.length > MOST_NODES ? summary(named) : names.map((name) => ({ label: name, tell: (row) => reached(row, name, named.get(name)) }))),
  ];
  table("log-outs", columns, rows.slice(0, 12), (row) => row.key);
};

const perMinute = (row, window) => known(row.per_minute[window], (rate) => [rounded(rate), "/min"]);
const ERRORS = [
  { label: "Code", kind: "text fills", tell: (row) => row.code },
  { label: "Whose turn", kind: "text", tell: (row) => row.turn },
  { label: "Total", tell: (row) => count(row.total) },
  { label: "1 min", tell: (row) => perMinute(row, "1m") },
  { label: "5 min", tell: (row) => perMinute(row, "5m") },
  { label: "15 min", tell: (row) => perMinute(row, "15m") },
  { label: "Newest", kind: "text", tell: (row) => known(row.last, (last) => [`${last.at.slice(11, 19)} UTC`, last.node]) },
  { label: "Incident", kind: "text mono", tell: (row) => known(row.last?.instance, (instance) => instance.replace(/^urn:uuid:/, "")) },
];

// The whole

const total = (members, tell) => members.reduce((sum, member) => sum + (member.status ? tell(member.status) : 0), 0);
const tilesOf = (told, seen) => {
  const members = told.members.filter((member) => member.state !== "gone");
  const ready = members.filter((member) => member.state === "ready").length;
  const rates = seen.map((one) => one.rates.rate).filter((rate) => rate !== null);
  const hits = total(members, (status) => status.cache_hits ?? 0), misses = total(members, (status) => status.cache_misses ?? 0);
  const took = told.log_outs.flatMap((row) => Object.entries(row.nodes).filter(([, node]) => node.after_s !== null && node.error_s > 0).map(([, node]) => node.after_s)).sort((a, b) => a - b);
  const late = total(members, (status) => status.accepts_after_revocation), lost = total(members, (status) => status.logouts_by_infrastructure);
  const timed = told.log_outs.filter(isTimed).length;
  const refusals = told.errors.reduce((sum, row) => sum + (row.per_minute["1m"] ?? 0), 0);
  return [
    ["Members ready", `${ready} of ${members.length}`, told.cluster === "sqlite" ? "no other worker is seen from here" : ready === members.length ? "all of them" : "see below"],
    ["Log-out, slowest node", took.length ? time(took.at(-1)) : NONE, took.length ? `median ${time(took[took.length >> 1])}, of ${timed}` : timed ? "no other node yet" : "none yet"],
    ["Accepted requests", rates.length ? `${rounded(rates.reduce((a, b) => a + b, 0))} /s` : NONE, `${count(total(members, (status) => status.accepted))} since the start`],
    ["Cache hits", share(hits, hits + misses), `${count(total(members, (status) => status.cached_tokens))} tokens kept`],
    ["Refusals", `${rounded(refusals)} /min`, "within the last minute"],
    ["Must stay 0", `${MARKS[late || lost ? "bad" : "well"]} ${late + lost}`, `${late} accepted after a log-out, ${lost} logged out by a fault`],
  ];
};
const say = (level, text) => {
  byId("verdict").dataset.level = level;
  put(byId("verdict").firstChild, MARKS[level]);
  put(byId("said"), text);
  put(document.querySelector("title"), `${MARKS[level]} Sessions`);
};
// Workers that share a file do not know each other.
const ALONE = "sqlite:// tells no worker of the others. This page shows one worker, the one that has answered";
const MOST_SAID = 5;
const judge = (told, seen) => {
  const ill = seen.filter(({ level, member }) => level !== "well" && member.state !== "gone");
  const broken = total(told.members, (status) => status.accepts_after_revocation + status.logouts_by_infrastructure);
  if (broken) return ["bad", "A promise was broken: one of the figures that must stay 0 is not 0. See the runbook."];
  if (told.draining) return ["warn", "This node is about to stop. Open the page of another one."];
  if (!ill.length) return ["well", seen.length > 1 ? "All members are well." : `This ${told.cluster === "sqlite" ? "worker" : "node"} is well.`];
  const level = ill.some((one) => one.level === "bad") ? "bad" : "warn";
  const said = ill.slice(0, MOST_SAID).map(({ member, remarks }) => `${nameOf(member)}: ${remarks[0] ?? member.state}`);
  return [level, [...said, ...(ill.length > MOST_SAID ? [`${ill.length - MOST_SAID} more below`] : [])].join(" · ")];
};
const show = (told) => {
  const members = [...told.members].sort((one, other) => byName(nameOf(one), nameOf(other)));
  const seen = members.map((member) => {
    const remarks = remarksOf(member);
    return { member, remarks, rates: between(member), level: levelOf(member, remarks) };
  });
  if (seen.length > MOST_NODES) seen.sort((one, other) => (one.level === "well") - (other.level === "well")); // trouble is not to be looked for
  put(byId("asked"), `asked at ${told.node} · ${told.cluster}:// · ${new Date().toLocaleTimeString("en-GB")}`);
  say(...judge(told, seen));
  keyed(byId("tiles"), tilesOf(told, seen), ([label]) => label, ([label]) => {
    const tile = made("div");
    tile.append(made("dt", "", label), made("dd"));
    tile.lastChild.append(made("span"), made("small"));
    return tile;
  }, (tile, [, value, small]) => {
    put(tile.querySelector("span"), value);
    put(tile.querySelector("small"), small);
  });
  keyed(byId("members"), seen, ({ member }) => `${member.url} ${member.member ?? ""}`, newMember, showMember);
  const exposed = new Set(members.map((member) => member.status?.exposed_because).filter(Boolean));
  if (told.cluster === "sqlite") exposed.add(ALONE);
  keyed(byId("exposed"), [...exposed], (text) => text, (text) => made("p", "", `Note: ${text}.`), () => {});
  showLogOuts(told.log_outs, members);
  table("errors", ERRORS, told.errors, (row) => row.code);
  document.dispatchEvent(new CustomEvent("survey", { detail: told }));
};

const sayOld = (text) => {
  say("bad", text);
  document.body.dataset.old = "";
};
let newest = performance.now();
const source = new EventSource("ui/events");
source.onmessage = ({ data }) => {
  newest = performance.now();
  delete document.body.dataset.old;
  show(JSON.parse(data));
};
source.onerror = () => {
  if (source.readyState === EventSource.CLOSED) sayOld("This log-in has ended, or the node has no room for a reader. Load the page again.");
};
setInterval(() => {
  const quiet = performance.now() - newest;
  if (quiet > 4000 && source.readyState !== EventSource.CLOSED) {
    sayOld(`No news from this node for ${Math.round(quiet / 1000)} s. What is below is old. Another member's page may have news.`);
  }
}, 1000);
