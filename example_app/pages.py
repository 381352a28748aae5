"""The pages: plain HTML, escaped, without anything from other hosts, and useful without JavaScript."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape

from starlette.responses import HTMLResponse

from ha_session_mw import ProblemError, Session, Settings

from . import users

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}


class Html(str):
    """Text that is HTML already. All other text is escaped when it is inserted."""

    __slots__ = ()


def html(template: str, **values: object) -> Html:
    """Return the template with its ``{names}`` filled in. Values that are not ``Html`` are escaped."""
    return Html(template.format_map({name: value if isinstance(value, Html) else escape(str(value)) for name, value in values.items()}))


def joined(parts: Iterable[Html]) -> Html:
    return Html("".join(parts))


def shortened(id: str) -> str:
    return id[:6] + "…"


_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · ha_session_mw example</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/static/style.css">
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
  <a class="brand" href="/">ha_session_mw example</a>
  <nav aria-label="Main">{nav}</nav>
</header>
<main id="content">
<h1>{title}</h1>
{body}
</main>
<footer>
<p>This is a demo. Its users and passwords are public, so store nothing of value here. Forged requests (CSRF) are refused: every
change is a POST or a DELETE, the cookie is <code>HttpOnly</code> and <code>SameSite=lax</code>, and the app refuses changes from other
sites' pages.</p>
</footer>
</body>
</html>
"""

_HOME = """<p class="lead">Every node validates sessions by itself, and every node enforces a log-out.</p>
{told}
<div class="grid">
{who}
<div class="stack">
<section class="card" aria-labelledby="parts">
  <h2 id="parts">Two parts</h2>
  <p>This page is open. It shows who you are; if your session is refused, it says why.</p>
  <p>Everything under <a href="/private/session"><code>/private/</code></a> needs a session. Without one, the refusal says
  what is wrong and what to do.</p>
</section>
<section class="card" aria-labelledby="curl">
  <h2 id="curl">The same from a terminal</h2>
  <div class="terminal">
    <code>curl -c jar -d username=ada -d password=analytical {origin}/login</code>
    <code>curl -b jar {origin}/private/session</code>
    <code>curl {origin}/private/session</code>
  </div>
</section>
</div>
</div>"""

_LOG_IN = """<section class="card" aria-labelledby="login">
  <h2 id="login">Log in</h2>
  <form method="post" action="/login">
    <label for="username">Name</label>
    <input id="username" name="username" autocomplete="username" autocapitalize="none" required>
    <label for="password">Password</label>
    <input id="password" name="password" type="password" autocomplete="current-password" required>
    <button>Log in</button>
  </form>
  <h2 class="soft">Users of this demo</h2>
  <table>
    <thead><tr><th scope="col">Name</th><th scope="col">Password</th></tr></thead>
    <tbody>{users}</tbody>
  </table>
</section>"""

_SESSION = """<p class="lead">Your cookie carries the session, with all data that fits. Any node can validate it.</p>
{told}
<div class="grid">
<div class="stack">
<section class="card" aria-labelledby="session">
  <h2 id="session">Session</h2>
  <dl>{facts}</dl>
</section>
<section class="card" aria-labelledby="leave">
  <h2 id="leave">Leave</h2>
  <p class="soft">Every copy of the cookie is refused from then on.</p>
  <div class="row">
    <form method="post" action="/logout"><button>Log out</button></form>
    <form method="post" action="/private/logout-everywhere"><button class="quiet">Log out everywhere</button></form>
    <form method="post" action="/private/logout-everywhere">
      <input type="hidden" name="keep" value="this"><button class="quiet">Log out everywhere but here</button>
    </form>
  </div>
</section>
</div>
<div class="stack">
<section class="card" aria-labelledby="notes">
  <h2 id="notes">Notes in the session</h2>
  {notes}
  <form method="post" action="/private/notes">
    <label for="text">New note</label>
    <div class="inline"><input id="text" name="text" maxlength="200" required autocomplete="off"><button>Add</button></div>
  </form>
</section>
<section class="card" aria-labelledby="live">
  <h2 id="live">Live</h2>
  <p class="live mono" id="ticks">The event stream needs JavaScript.</p>
  <form id="echo-form">
    <label for="say">Send a text over the WebSocket</label>
    <div class="inline"><input id="say" name="text" autocomplete="off"><button>Send</button></div>
  </form>
  <ol id="echoes" class="mono" aria-live="polite"></ol>
</section>
{elsewhere}
</div>
</div>
<script src="/static/live.js" type="module"></script>"""

_ELSEWHERE = """<section class="card" aria-labelledby="elsewhere">
  <h2 id="elsewhere">The same session on the other nodes</h2>
  <p class="soft">Cookies ignore ports, so your browser sends this one to all nodes of the demo.</p>
  <ul class="nodes">{links}</ul>
</section>"""

_NOTE = """<li>
<span class="text{css}">{text}</span>
<span class="actions">
<form method="post" action="/private/notes/{number}/toggle">
  <button class="quiet small" aria-label="{verb}: {text}">{verb}</button>
</form>
<form method="post" action="/private/notes/{number}/delete">
  <button class="quiet small" aria-label="Delete: {text}">Delete</button>
</form>
</span>
</li>"""


_ROOM = """<p class="lead">This room is in the memory of node {node}. Each session has one, on the node that owns it (HA_SESSION_OWNED).</p>
{told}
<section class="card" aria-labelledby="guests">
  <h2 id="guests">Guests</h2>
  <ul class="notes">{guests}</ul>
  <form class="row" method="post" action="/private/room">
    <label for="name">Name</label>
    <input id="name" name="name" maxlength="40" autocomplete="off" required>
    <button>Enter</button>
  </form>
</section>"""

_DEVICES = """<p class="lead">Your log-ins on all devices. A session that you log out here is refused on every node from then on.</p>
<p class="told" id="told" role="alert" hidden></p>
<section class="card" aria-labelledby="logins">
  <h2 id="logins">Log-ins</h2>
  <ul class="notes" id="devices" data-routes="{routes}"><li class="soft">The list needs JavaScript.</li></ul>
  <div class="row">
    <button class="quiet" id="others">Log out all others</button>
    <button class="quiet" id="all">Log out everywhere</button>
  </div>
</section>
<script src="/static/devices.js" type="module"></script>"""

_NO_DEVICES = """<p class="lead">This node does not record log-ins.</p>
<section class="card" aria-labelledby="how">
  <h2 id="how">How to record log-ins</h2>
  <p>Set <code>HA_SESSION_TRACK=on</code> and <code>HA_SESSION_DEVICES=on</code>, with a <code>HA_SESSION_CLUSTER</code> that has a store:
  <code>peers://</code> has none. <code>make demo CLUSTER=sqlite KEEP=1</code> shows it.</p>
</section>"""


def home(session: Session, problem: ProblemError | None, *, origin: str, fault: str = "", status: int = 200) -> HTMLResponse:
    """Return the open page: the log-in form, or the user. ``problem`` says why a token was refused."""
    if session.subject is not None:
        who = html(
            '<section class="card" aria-labelledby="you"><h2 id="you">You are {name}</h2>'
            '<p>Logged in as <code>{subject}</code>.</p><p><a href="/private/session">See your session</a></p></section>',
            name=users.display_name(session.subject),
            subject=session.subject,
        )
    else:
        rows = joined(
            html('<tr><th scope="row"><code>{name}</code></th><td><code>{password}</code></td></tr>', name=name, password=user.password)
            for name, user in users.USERS.items()
        )
        who = html(_LOG_IN, users=rows)
    if problem is not None:
        fault = fault or f"{problem.title} ({problem.code}). {problem.detail}"
    return _page("Welcome", html(_HOME, told=_told(fault), who=who, origin=origin), session, status)


def session(session: Session, *, fault: str = "", status: int = 200) -> HTMLResponse:
    """Return the protected page: the session, its notes, the live part, and the ways to log out."""
    facts = [
        ("Subject", html("{name} (<code>{subject}</code>)", name=users.display_name(session.subject or ""), subject=session.subject)),
        ("Id", html('<code>{id}</code> <span class="soft">shortened</span>', id=shortened(session.id or ""))),
        ("Logged in", _moment(session.authenticated_at)),
        ("Issued", _moment(session.issued_at)),
        ("Idle timeout", _moment(session.idle_expires_at)),
        ("Absolute timeout", _moment(session.expires_at)),
        ("Signed by", html("{node}<code>{name}</code>", **_node(session.issuer))),
        ("Answered by", html("{node}<code>{name}</code>", **_node(session.manager.node_id))),
    ]
    body = html(
        _SESSION,
        told=_told(fault),
        facts=joined(html("<dt>{label}</dt><dd>{value}</dd>", label=label, value=value) for label, value in facts),
        elsewhere=_elsewhere(session.manager.settings),
        notes=_notes(session.get("notes", [])),
    )
    return _page("Your session", body, session, status)


def devices(session: Session) -> HTMLResponse:
    """Return the page of log-ins. Its script loads the list from the middleware's device routes."""
    routes = device_routes(session)
    return _page("Your devices", html(_DEVICES, routes=routes) if routes else html(_NO_DEVICES), session, 200)


def room(session: Session, guests: list[str], *, fault: str = "", status: int = 200) -> HTMLResponse:
    """Return the page of the session's room, which lives in the memory of the node that answers."""
    listed = joined(html("<li>{guest}</li>", guest=guest) for guest in guests) if guests else html('<li class="soft">Nobody is here.</li>')
    body = html(_ROOM, told=_told(fault), node=session.manager.node_id, guests=listed)
    return _page("Your room", body, session, status)


def device_routes(session: Session) -> str | None:
    """Return the path of the device routes, or None if the middleware does not serve them."""
    settings = session.manager.settings
    return f"{settings.endpoints}/devices" if settings.devices == "on" else None


def _page(title: str, body: Html, session: Session, status: int) -> HTMLResponse:
    nav = html('<a href="/">Home</a> <a href="/private/session">Session</a>')
    nav = html('{nav} <a href="/private/room">Room</a> <a href="/private/devices">Devices</a>', nav=nav)
    if session.subject is not None:
        nav = html('{nav} <span class="badge">{subject}</span>', nav=nav, subject=session.subject)
    nav = html('{nav} <span class="badge">{node}{name}</span>', nav=nav, **_node(session.manager.node_id))
    return HTMLResponse(html(_FRAME, title=title, nav=nav, body=body), status_code=status, headers=HEADERS)


def _node(name: str | None) -> dict[str, object]:
    """Return a node's name and the word before it, which is empty if the name begins with it."""
    return {"node": "" if name is not None and name.startswith("node") else "node ", "name": name}


def _told(fault: str) -> Html:
    return html('<p class="told" role="alert">{fault}</p>', fault=fault) if fault else Html()


def _moment(at: datetime | None) -> Html:
    if at is None:
        return Html("-")
    seconds = (at - datetime.now(UTC)).total_seconds()
    return html(
        '<time datetime="{iso}">{clock} UTC</time> <span class="soft distance">{distance}</span>',
        iso=at.isoformat(timespec="milliseconds"),
        clock=f"{at:%H:%M:%S}",
        distance=f"in {_span(seconds)}" if seconds >= 0 else f"{_span(-seconds)} ago",
    )


def _span(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _elsewhere(settings: Settings) -> Html:
    others = [url for url in settings.peers if url != settings.advertise_url]
    links = joined(html('<li><a href="{url}/private/session">{url}</a></li>', url=url) for url in others)
    return html(_ELSEWHERE, links=links) if others else Html()


def _notes(notes: list[dict[str, object]]) -> Html:
    if not notes:
        return html('<p class="soft">None yet.</p>')
    rows = (
        html(_NOTE, number=number, text=note["text"], css=" done" if note["done"] else "", verb="Reopen" if note["done"] else "Done")
        for number, note in enumerate(notes)
    )
    return html('<ul class="notes">{rows}</ul>', rows=joined(rows))
