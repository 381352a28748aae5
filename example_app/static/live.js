// The live part of the session page: an event stream and a WebSocket, both under the same session cookie.
import { haSession } from "/-/session/ha-session.js";

const ticks = document.getElementById("ticks");
const log = document.getElementById("echoes");
const form = document.getElementById("echo-form");
const session = haSession();

const say = (text) => {
  const item = document.createElement("li");
  item.textContent = text;
  log.append(item);
  while (log.children.length > 5) log.firstElementChild.remove();
};

const stream = session.eventSource("/private/events", {
  tick: ({ data }) => {
    const { tick, subject } = JSON.parse(data);
    ticks.textContent = `tick ${tick}, for ${subject}`;
  },
  error: () => (ticks.textContent = "interrupted; trying again …"),
});
stream.over.then(() => (ticks.textContent = "refused: the session has ended"));

const echoes = session.webSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/private/ws`, {
  message: ({ data }) => {
    const { subject, echo } = JSON.parse(data);
    say(echo === undefined ? `connected as ${subject}` : `${subject}: ${echo}`);
  },
  close: ({ code }) => say(code === 4401 ? "closed: the session was logged out" : "closed; trying again …"),
});
echoes.over.then(() => (form.querySelector("button").disabled = true));

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = form.elements.text;
  const { connection } = echoes;
  if (field.value && connection.readyState === WebSocket.OPEN) connection.send(field.value);
  field.value = "";
});
session.keepAlive();
