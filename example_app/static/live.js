// The live part of the session page: an event stream and a WebSocket, both under the same session cookie.
const ticks = document.getElementById("ticks");
const log = document.getElementById("echoes");
const form = document.getElementById("echo-form");

const say = (text) => {
  const item = document.createElement("li");
  item.textContent = text;
  log.append(item);
  while (log.children.length > 5) log.firstElementChild.remove();
};

const stream = new EventSource("/private/events");
stream.addEventListener("tick", (event) => {
  const { tick, subject } = JSON.parse(event.data);
  ticks.textContent = `tick ${tick}, for ${subject}`;
});
stream.addEventListener("error", () => {
  ticks.textContent = stream.readyState === EventSource.CLOSED ? "refused: the session has ended" : "interrupted; trying again …";
});

const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/private/ws`);
socket.addEventListener("message", (event) => {
  const { subject, echo } = JSON.parse(event.data);
  say(echo === undefined ? `connected as ${subject}` : `${subject}: ${echo}`);
});
socket.addEventListener("close", (event) => {
  say(event.code === 4401 ? "closed: the session was logged out" : "closed");
  form.querySelector("button").disabled = true;
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = form.elements.text;
  if (field.value && socket.readyState === WebSocket.OPEN) socket.send(field.value);
  field.value = "";
});
