// Keeps a page at work by the rules of the how-to "Call a cluster".

const [TRIES, DEADLINE_MS, WAIT_MS, LONGEST, PACE_MS] = [3, 10_000, 2_000, 65_536, 10_000];

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const backoff = (tries) => Math.random() * Math.min(250 * 2 ** tries, 10_000);

// A body may be endless, or slow.
const problemOf = async (response, limitMs) => {
  if (!response.headers.get("content-type")?.startsWith("application/problem+json")) return;
  const [reader, late, parts] = [response.clone().body.getReader(), sleep(limitMs), []];
  try {
    for (let size = 0, part; !(part = await Promise.race([reader.read(), late])).done; parts.push(part.value))
      if ((size += part.value.length) > LONGEST) throw 0;
    const problem = JSON.parse(await new Blob(parts).text());
    return problem?.code && problem;
  } catch {
    reader.cancel().catch(() => 0);
  }
};

// One at a time in all tabs. Without locks (plain http), a tab claims it. One that holds it, or has a smaller number, objects.
const exclusive = (name) => {
  if (navigator.locks) return (work) => navigator.locks.request(name, work);
  const channel = new BroadcastChannel(name);
  const me = Math.random();
  let state, denied, released, last;
  channel.onmessage = ({ data: [kind, from] }) => {
    if (kind === "claim" && (state === "held" || (state && me < from))) channel.postMessage(["object", from]);
    if (kind === "object" && from === me) denied = true;
    if (kind === "released") released?.();
  };
  const hold = async (work) => {
    for (;;) {
      [state, denied] = ["claimed", false];
      channel.postMessage(["claim", me]);
      await sleep(400);
      if (!denied) break;
      state = "";
      await Promise.race([sleep(1_000), new Promise((done) => (released = done))]);
    }
    state = "held";
    return work().finally(() => ((state = ""), channel.postMessage(["released"])));
  };
  return (work) => (last = Promise.allSettled([last]).then(() => hold(work)));
};

// logIn(problem) resolves to false if the user does not log in.
export const haSession = ({ endpoints = "/-/session", logIn } = {}) => {
  const stamp = `ha-session.log-in:${endpoints}`;
  const alone = exclusive(stamp);
  let nextLogIn = 0;

  const logInOnce = (problem, began) =>
    alone(async () => {
      if (localStorage.getItem(stamp) >= began) return true; // by another
      if (nextLogIn > Date.now()) return false;
      nextLogIn = Math.max(nextLogIn, Date.now() - 2 * PACE_MS) + PACE_MS; // three at once
      if ((await logIn(problem)) === false) return false;
      localStorage.setItem(stamp, Date.now());
      return true;
    });

  const ask = async (input, init) => {
    const request = new Request(input, init);
    const repeatable = /^(GET|HEAD)$/.test(request.method) || request.headers.has("idempotency-key");
    const began = Date.now();
    let mayLogIn = !!logIn;
    for (let tries = 1; ; tries++) {
      let failure;
      const response = await fetch(request.clone()).catch((error) => void (failure = error));
      const problem = response && (await problemOf(response, began + DEADLINE_MS - Date.now()));
      if (response && !problem && !/50[234]/.test(response.status)) return response;
      const harmless = repeatable || problem?.outcome === "not_executed";
      const lost = tries === TRIES && problem?.code === "session_superseded";
      if ((lost || problem?.action === "reauthenticate") && mayLogIn && harmless) {
        mayLogIn = false;
        if (await logInOnce(problem, began)) continue;
        return response;
      }
      const after = problem?.retry_after_ms;
      const wait = after > 0 ? Math.min(after * (1 + Math.random()), WAIT_MS) : backoff(tries);
      const worthIt = problem ? problem.retryable : !request.signal.aborted;
      if (!worthIt || !harmless || tries >= TRIES || Date.now() + wait - began > DEADLINE_MS)
        return response ?? Promise.reject(failure);
      await sleep(wait);
    }
  };

  const renew = () => ask(`${endpoints}/renew`, { method: "POST" });

  const persist = (connect) => {
    const kept = {};
    kept.over = (async () => {
      for (let tries = 0; !kept.closed; tries++) {
        const began = Date.now();
        const why = await new Promise((ended) => {
          kept.close = () => ((kept.closed = true), kept.connection.close(), ended());
          connect(kept, () => (tries = 0), ended);
        });
        if (kept.closed || why === "over") return;
        if (why === "log in") {
          if (logIn && (await logInOnce({}, began))) continue;
          return;
        }
        // No script sees why a handshake is refused. A renewal meets the same, and logs in.
        if (why === "refused" && /^4/.test((await renew().catch(() => 0)).status)) return;
        await sleep(backoff(tries));
      }
    })();
    return kept;
  };

  // Ended by 1000. `on` has open, message, close and protocols.
  const webSocket = (url, on = {}) =>
    persist((kept, isWell, ended) => {
      const socket = (kept.connection = new WebSocket(url, on.protocols ?? []));
      let why = "refused";
      socket.onopen = (event) => (isWell(), (why = "lost"), on.open?.(event));
      socket.onmessage = on.message;
      socket.onclose = (event) => (on.close?.(event), ended({ 1000: "over", 4401: "log in" }[event.code] ?? why));
    });

  // `on` has a listener for each event.
  const eventSource = (url, on = {}) =>
    persist((kept, isWell, ended) => {
      const source = (kept.connection = new EventSource(url));
      source.onopen = isWell;
      for (const name in on) source.addEventListener(name, on[name]);
      source.onerror = () => (source.close(), ended("refused"));
    });

  const keepAlive = (everyMs = 60_000) => {
    let used;
    for (const sign of ["pointerdown", "keydown"]) addEventListener(sign, () => (used = true));
    const timer = setInterval(() => {
      if (used && document.visibilityState === "visible") renew().catch(() => 0);
      used = false;
    }, everyMs);
    return () => clearInterval(timer);
  };

  return { fetch: ask, renew, webSocket, eventSource, keepAlive };
};
