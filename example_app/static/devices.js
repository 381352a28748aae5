// The devices page: shows what the ready-made routes tell, and asks them to end what is to be ended.
import { haSession } from "/-/session/ha-session.js";

const session = haSession();
const list = document.getElementById("devices");
const told = document.getElementById("told");
const routes = list.dataset.routes;

const tell = (text) => {
  told.textContent = text;
  told.hidden = !text;
};

const moment = (iso) => {
  const at = document.createElement("time");
  at.dateTime = iso;
  at.textContent = new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  return at;
};

const part = (kind, css, ...content) => {
  const made = document.createElement(kind);
  if (css) made.className = css;
  made.append(...content);
  return made;
};

// What comes back says what went wrong and what to do, in words for people.
const ask = async (method, below = "") => {
  const answer = await session.fetch(routes + below, { method, headers: { Accept: "application/json" } });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail ?? body.error);
  return body;
};

const end = async (below, leaves) => {
  try {
    await ask("DELETE", below);
    if (leaves) location.assign("/");
    else await show();
  } catch (failure) {
    tell(failure.message);
  }
};

const row = ({ id, label, current, created_at, last_seen_at, address }) => {
  const name = part("strong", "", label);
  const text = part("span", "text", name);
  if (current) text.append(" ", part("span", "badge", "this one"));
  if (address) text.append(" ", part("span", "soft mono", address));
  text.append(part("br"), part("span", "soft", "Logged in ", moment(created_at), ", last seen ", moment(last_seen_at)));
  const button = part("button", "quiet small", "Log out");
  button.setAttribute("aria-label", `Log out: ${label}${current ? ", this one" : ""}`);
  button.addEventListener("click", () => end(`/${id}`, current));
  return part("li", "", text, part("span", "actions", button));
};

const show = async () => {
  const { sessions } = await ask("GET");
  list.replaceChildren(...sessions.map(row));
  document.getElementById("others").disabled = sessions.length < 2;
  tell("");
};

document.getElementById("others").addEventListener("click", () => end("/others", false));
document.getElementById("all").addEventListener("click", () => end("", true));
show().catch((failure) => tell(failure.message));
