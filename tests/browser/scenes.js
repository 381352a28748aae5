// The scenes of test_ha_session.py. This page and its two frames count as three tabs: each has a module of its own.
import { haSession } from "/-/session/ha-session.js";

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const logIn = async () => {
  await sleep(300);
  await fetch("/log-in", { method: "POST" });
};
const session = haSession({ logIn });
const told = async (response) => `${response.status} ${await response.text()}`;
const many = () => Promise.all([1, 2, 3].map(async () => told(await session.fetch("/account"))));
const got = (count, open) =>
  new Promise((done) => {
    const texts = [];
    const kept = open((text) => {
      texts.push(text);
      if (texts.length < count) return;
      kept.close();
      done(texts);
    });
  });

const asTab = () => {
  addEventListener("message", async () => parent.postMessage(await many(), "*"));
  parent.postMessage("ready", "*");
};

const frame = () =>
  new Promise((done) => {
    const made = document.body.appendChild(document.createElement("iframe"));
    const listen = ({ source, data }) => {
      if (source !== made.contentWindow || data !== "ready") return;
      removeEventListener("message", listen);
      done(made.contentWindow);
    };
    addEventListener("message", listen);
    made.src = "/page?tab";
  });

const answerOf = (tab) =>
  new Promise((done) => {
    addEventListener("message", ({ source, data }) => source === tab && done(data));
    tab.postMessage("go", "*");
  });

const scenes = {
  locks: async () => Boolean(navigator.locks),
  "three tabs, three requests each, nobody logged in": async () => {
    const tabs = await Promise.all([frame(), frame()]);
    return (await Promise.all([many(), ...tabs.map(answerOf)])).flat();
  },
  "a stale node": async () => told(await session.fetch("/played/stale")),
  "a POST that was not executed": async () => told(await session.fetch("/played/stale-post", { method: "POST", body: "tea" })),
  "a POST that was executed": async () => (await session.fetch("/played/executed", { method: "POST", body: "tea" })).status,
  "a POST with a key": async () => told(await session.fetch("/played/gateway", { method: "POST", headers: { "Idempotency-Key": "1" } })),
  "a hint of days": async () => told(await session.fetch("/played/days")),
  "always stale": async () => (await session.fetch("/played/always")).status,
  "not JSON": async () => (await session.fetch("/played/nonsense")).status,
  "a refusal without an end": async () => {
    const { status, body } = await session.fetch("/played/endless");
    await body.cancel();
    return status;
  },
  "a bomb": async () => (await session.fetch("/played/bomb")).status,
  "a refusal with the code of a success": async () => told(await session.fetch("/played/wrong-code")),
  "a cookie that a late answer has replaced": async () => {
    let logIns = 0;
    const page = haSession({ logIn: async () => ++logIns });
    return [await told(await page.fetch("/played/superseded")), logIns];
  },
  "a redirect in a circle": async () => session.fetch("/played/circle").catch(() => "a network error"),
  "refused however often the user logs in": async () => {
    let logIns = 0;
    const page = haSession({ logIn: async () => ++logIns });
    const statuses = [];
    const { now } = Date;
    let time = now();
    Date.now = () => (time += 0.01); // ten seconds later a log-in is permitted again
    for (let turn = 0; turn < 6; turn++) statuses.push((await page.fetch("/played/storm")).status);
    Date.now = now;
    return [logIns, ...statuses];
  },
  "a user who does not log in": async () => {
    const unwilling = haSession({ endpoints: "/-/session", logIn: async () => false });
    await fetch("/revoke", { method: "POST" });
    const { status } = await unwilling.fetch("/account");
    await logIn();
    return status;
  },
  "a WebSocket whose session is logged out": () => {
    let revoked;
    const message = (take) => ({ data }) => (take(data), (revoked ??= fetch("/revoke", { method: "POST" })));
    return got(2, (take) => session.webSocket("/ws", { message: message(take) }));
  },
  "an event stream that is refused and ends": async () => {
    await fetch("/revoke", { method: "POST" });
    return got(2, (take) => session.eventSource("/events", { tick: ({ data }) => take(data) }));
  },
  "an event stream that the page closes": async () => {
    const kept = session.eventSource("/events", { tick: () => kept.close() });
    await kept.over;
    return kept.closed;
  },
  "a WebSocket whose handshake logs in": async () => {
    await fetch("/revoke", { method: "POST" });
    const socket = new WebSocket("/ws-log-in");
    await new Promise((done) => (socket.onmessage = done));
    socket.close();
    return told(await fetch("/account"));
  },
  "a page that is used": async () => {
    const renewed = new Promise((done) =>
      new PerformanceObserver((list) => list.getEntriesByName(`${location.origin}/-/session/renew`).length && done(true)).observe({ type: "resource" }),
    );
    const stop = session.keepAlive(50);
    dispatchEvent(new Event("pointerdown"));
    await renewed;
    stop();
    return true;
  },
};

const run = async () => {
  const results = {};
  for (const [name, scene] of Object.entries(scenes)) results[name] = await scene().catch((error) => `failed: ${error}`);
  await fetch("/result", { method: "POST", body: JSON.stringify(results) });
};

if (location.search === "?tab") asTab();
else run();
