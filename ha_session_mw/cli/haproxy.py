"""The configuration for HAProxy, from release 2.6 on."""

from __future__ import annotations

import re

from .balanced import CHECK_EVERY_S, FALL, HEADER_BYTES, KEEP_IDLE_S, Balanced, Tls

_FILE = """\
{headline}
# haproxy -c -f FILE tests it.
global
    # Room for the header of an answer with a large token, or of a request with other cookies.
    tune.bufsize {bufsize}

defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
    timeout check 1s
    timeout http-request 10s
    retries 3
    # A request that could not be sent goes to another node. A safe method is repeated there after 503 or a lost answer, too.
    option redispatch 1
    retry-on conn-failure empty-response response-timeout 503
    option forwardfor
    default-server check inter {inter_ms}ms fall {fall} rise 1 pool-purge-delay {idle_s}s init-addr last,libc,none{tls}

frontend ha_session
    bind {listen}
    # The calls between the nodes, and of operators, are no business of clients, in whatever spelling.
    http-request return status 404 if {{ path,url_dec -m beg {endpoints}/peer/ {endpoints}/admin/ }}
    http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
    http-request set-header X-Forwarded-Proto http if !{{ ssl_fc }} !{{ req.hdr(x-forwarded-proto) -m found }}
{follows}{sid}
    # While no node is ready, those that live answer: pages without a session work, and others get the reason.
    use_backend ha_session_alive if {{ nbsrv(ha_session_nodes) eq 0 }}
    default_backend ha_session_nodes

backend ha_session_nodes
    option httpchk GET {endpoints}/readyz
    http-check expect status 200
{balance}
{servers}

backend ha_session_alive
    option httpchk GET {endpoints}/livez
    http-check expect status 200
{balance}
{servers}
"""

_NO_REDIRECTS = """\
    # HAProxy carries out no redirects, and hides the client's nodes from ours. So each node answers by itself.
    http-request del-header Session-Follows
"""
_BALANCE = """\
    # The id of the session decides. Requests without one go to each node in turn.
    balance hash var(txn.ha_session_id)
    hash-type consistent
    http-request disable-l7-retry unless { method GET HEAD OPTIONS }"""


def haproxy(of: Balanced) -> str:
    """Return the configuration for HAProxy."""
    return _FILE.format(
        headline=of.headline,
        bufsize=HEADER_BYTES,
        inter_ms=round(CHECK_EVERY_S * 1000),
        fall=FALL,
        idle_s=KEEP_IDLE_S,
        listen=of.listen,
        endpoints=of.endpoints,
        follows=_NO_REDIRECTS if of.redirects else "",
        sid="\n".join(_sid(of)),
        balance=_BALANCE,
        tls="" if of.tls is None else _tls(of.tls),
        servers="\n".join(f"    server node{number} {node}" for number, node in enumerate(of.nodes, 1)),
    )


def _tls(tls: Tls) -> str:
    """The rest of ``default-server``, for the checks, too. HAProxy compares a certificate with names only, and not with addresses."""
    return f" ssl verify required ca-file {tls.authorities} sni str({tls.name}) check-sni {tls.name} verifyhost {tls.name}"


def _sid(of: Balanced) -> list[str]:
    """The variable ``txn.ha_session_id``: from the cookie, or else from the bearer token."""
    lines = []
    if of.bearer:
        is_ours = r"req.hdr(authorization) -m reg -i ^bearer\ +hs1[.]"
        lines.append(f"    http-request set-var(txn.ha_session_id) req.hdr(authorization),word(2,\\ ),field(2,.) if {{ {is_ours} }}")
    if of.cookie is not None:
        fetch, ours = _quoted(of.cookie, ",field(2,.)"), _quoted(of.cookie)
        lines.append(f"    http-request set-var(txn.ha_session_id) {fetch} if {{ {ours} -m beg hs1. }}")
    return lines


def _quoted(cookie: str, rest: str = "") -> str:
    """The expression that reads a cookie, in quotes if a letter of the name may mean something in it."""
    if re.fullmatch(r"[\w.-]+", cookie):
        return f"req.cook({cookie}){rest}"
    name = cookie.replace("$", "\\$")
    return f'"req.cook(\\"{name}\\"){rest}"'
