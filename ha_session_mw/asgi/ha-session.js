// Keeps a page at work while nodes come and go, by the rules of the how-to "Call a cluster". Handles no token.

const [TRIES, DEADLINE_MS, LONGEST_WAIT_MS, LONGEST_PROBLEM] = [3, 10_000, 2_000, 65_536];

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const backoff = (tries) => Math.random() * Math.min(250 * 2 ** tries, 10_000);

const problemOf = async (response) => {
  const field = (name) => response.headers.get(name);
  if (!field("content-type")?.startsWith("application/problem+json") || field("content-length") > LONGEST_PROBLEM) return;
  const problem = await response.clone().json().catch(() => 0);
  return problem?.code && problem;
};

// One at a time in all tabs. Plain http has no navigator.locks: there, a claim on a channel stands unless a tab that
// holds the lock, or claims it with a smaller number, objects.
const exclusive = (name) => {
  if (navigator.locks) return (work) => navigator.locks.request(name, work);
  const channel = new BroadcastChannel(name);
  const me = Math.random();
  let state, objection, released, last;
  channel.onmessage = ({ data: [kind, from] }) => {
    if (kind === "claim" && (state === "held" || (state === "claimed" && me < from))) channel.postMessage(["object", from]);
    if (kind === "object" && from === me) objection = true;
    if (kind === "released") released?.();
  };
  const hold = async (work) => {
    for (;;) {
      [state, objection] = ["claimed", false];
      channel.postMessage(["claim", me]);
      await sleep(400);
      if (!objection) break;
      state = "idle";
      await Promise.race([sleep(1_000), new Promise((done) => (released = done))]);
    }
    state = "held";
    try {
      return await work();
    } finally {
      state = "idle";
      channel.postMessage(["released"]);
    }
  };
  return (work) => (last = Promise.allSettled([last]).then(() => hold(work)));
};

// logIn(problem) is called once for all tabs, and resolves to false if the user does not log in.
export const haSession = ({ endpoints = "/-/session", logIn } = {}) => {
  const stamp = `ha-session.log-in:${endpoints}`;
  const exclusively = exclusive(stamp);

  const logInOnce = (problem, began) =>
    exclusively(async () => {
      if (localStorage.getItem(stamp) >= began) return true; // another tab or request did it
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
      const problem = response && (await problemOf(response));
      if (response && !problem && ![502, 503, 504].includes(response.status)) return response;
      const harmless = repeatable || problem?.outcome === "not_executed";
      if (problem?.action === "reauthenticate" && mayLogIn && harmless) {
        mayLogIn = false;
        if (await logInOnce(problem, began)) continue;
        return response;
      }
      const after = Number(problem?.retry_after_ms) || 0;
      const wait = after > 0 ? Math.min(after * (1 + Math.random()), LONGEST_WAIT_MS) : backoff(tries);
      const worthIt = problem ? problem.retryable : !request.signal.aborted;
      if (!worthIt || !harmless || tries >= TRIES || Date.now() + wait - began > DEADLINE_MS) {
        if (failure) throw failure;
        return response;
      }
      await sleep(wait);
    }
  };

  const renew = () => ask(`${endpoints}/renew`, { method: "POST" });

  // Opens a connection again until it is closed here or `over` resolves.
  const persist = (connect) => {
    const kept = { close: () => ((kept.closed = true), kept.connection?.close()) };
    kept.over = (async () => {
      for (let tries = 0; !kept.closed; tries++) {
        const began = Date.now();
        const why = await connect(kept, () => (tries = 0));
        if (kept.closed || why === "over") return;
        if (why === "log in") {
          if (logIn && (await logInOnce({}, began))) continue;
          return;
        }
        // No script sees why a handshake is refused. The renewal meets the same refusal, and logs in.
        const status = why === "refused" && (await renew().catch(() => 0))?.status;
        if (status >= 400 && status < 500) return;
        await sleep(backoff(tries));
      }
    })();
    return kept;
  };

  // Opened again unless the server ends it with 1000. `on` has open, message, close and protocols.
  const webSocket = (url, on = {}) =>
    persist((kept, isWell) => new Promise((ended) => {
      const socket = (kept.connection = new WebSocket(url, on.protocols ?? []));
      let why = "refused";
      socket.onopen = (event) => (isWell(), (why = "lost"), on.open?.(event));
      socket.onmessage = on.message;
      socket.onclose = (event) => (on.close?.(event), ended({ 1000: "over", 4401: "log in" }[event.code] ?? why));
    }));

  // Opened again in any case. `on` has a listener for each event.
  const eventSource = (url, on = {}) =>
    persist((kept, isWell) => new Promise((ended) => {
      const source = (kept.connection = new EventSource(url));
      source.onopen = isWell;
      for (const name in on) source.addEventListener(name, on[name]);
      source.onerror = () => (source.close(), ended("refused"));
    }));

  // Renews the session of a page that is used. Returns a stop function.
  const keepAlive = (everyMs = 60_000) => {
    let used;
    const note = () => (used = true);
    for (const sign of ["pointerdown", "keydown"]) addEventListener(sign, note, { passive: true });
    const timer = setInterval(() => {
      if (used && document.visibilityState === "visible") renew().catch(() => 0);
      used = false;
    }, everyMs);
    return () => clearInterval(timer);
  };

  return { fetch: ask, renew, webSocket, eventSource, keepAlive };
};
