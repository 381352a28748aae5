"""The configuration for nginx. It has no active checks: a node that is gone is found by the requests that it does not answer."""

from __future__ import annotations

from .balanced import HEADER_BYTES, KEEP_IDLE_S, Balanced, Tls

_FILE = """\
{headline}
# nginx -t -c FILE tests it. To use it within another configuration, take what stands inside http.
worker_processes auto;

events {{
    worker_connections 1024;
}}

http {{
    # The id of the session, from cookie or bearer token. $cookie_… cannot read a name with dashes, such as __Host-session.
{maps}
    # A request without a token may go anywhere.
    map $ha_session_id $ha_session_key {{
        "" $request_id;
        default $ha_session_id;
    }}
    map $request_method $ha_session_safe {{
        default "";
        GET 1;
        HEAD 1;
        OPTIONS 1;
    }}
    map $http_x_forwarded_proto $ha_session_proto {{
        "" $scheme;
        default $http_x_forwarded_proto;
    }}
    map $http_upgrade $ha_session_connection {{
        "" "";
        default upgrade;
    }}

    # A node that refuses or drops connections rests for 3 s. A 503 says nothing against a node: it may be all that any node can say.
    upstream ha_session_nodes {{
        zone ha_session_nodes 128k;
        hash $ha_session_key consistent;
{servers}
        keepalive 32;
        keepalive_timeout {idle_s}s;
    }}
    # The nodes once more, for the second try after a 503. Here a 503 counts, so the next such request tries the others first.
    upstream ha_session_others {{
        zone ha_session_others 128k;
        random;
{servers}
        keepalive 32;
        keepalive_timeout {idle_s}s;
    }}
{owners}
    server {{
        listen {listen};
        # A browser may send a token of {largest} bytes beside other cookies.
        large_client_header_buffers 4 {header_k}k;
        client_max_body_size 0;

        # The default of 4 kB turns an answer with a large token into 502.
        proxy_buffer_size {header_k}k;
        proxy_buffers 4 {header_k}k;
        proxy_buffering off;
        proxy_http_version 1.1;
        proxy_connect_timeout 1s;
        proxy_next_upstream error timeout;
        proxy_next_upstream_tries {tries};
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $ha_session_proto;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $ha_session_connection;
{follows}        recursive_error_pages on;
{tls}
        # The calls between the nodes, and of operators, are no business of clients.
        location {endpoints}/peer/ {{
            return 404;
        }}
        location {endpoints}/admin/ {{
            return 404;
        }}
        location / {{
            error_page 418 = @ha_session_safe;
            if ($ha_session_safe) {{
                return 418;
            }}
            proxy_pass {scheme}://ha_session_nodes;
        }}
        # A safe method that got 503 is tried at the other nodes. If none helps within 2 s each, the node of the session has the last word.
        location @ha_session_safe {{
            proxy_intercept_errors on;
            error_page 503 = @ha_session_others;
            proxy_pass {scheme}://ha_session_nodes;
        }}
        location @ha_session_others {{
            proxy_next_upstream error timeout http_503;
            proxy_read_timeout 2s;
            error_page 502 504 = @ha_session_last;
            proxy_pass {scheme}://ha_session_others;
        }}
        location @ha_session_last {{
            proxy_pass {scheme}://ha_session_nodes;
        }}
{places}    }}
}}
"""


_OWNER = """\
    upstream ha_session_owner{number} {{
        zone ha_session_owner{number} 128k;
{servers}
        keepalive 8;
        keepalive_timeout {idle_s}s;
    }}
"""
_FOLLOWS = """\
        # The nodes learn to which of them nginx carries a request. What a client says about that does not arrive.
        set $ha_session_follows "{follows}";
        proxy_set_header Session-Follows $ha_session_follows;
"""
_PLACE = """\
        location @{origin} {{
            set $ha_session_follows "";
            proxy_pass {scheme}://ha_session_owner{number};
        }}
"""


def nginx(of: Balanced) -> str:
    """Return the configuration for nginx."""
    numbered = [*enumerate(of.origins, 1)] if of.redirects else []
    return _FILE.format(
        owners=_owners(of, [number for number, _ in numbered]),
        follows=_FOLLOWS.format(follows=of.follows) if of.redirects else "",
        places=_places(of, numbered),
        headline=of.headline,
        maps=_maps(of),
        servers="\n".join(f"        server {node} max_fails=1 fail_timeout=3s;" for node in of.nodes),
        listen=of.listen,
        endpoints=of.endpoints,
        idle_s=KEEP_IDLE_S,
        header_k=HEADER_BYTES // 1024,
        largest=HEADER_BYTES // 8,
        tries=len(of.nodes),
        scheme=of.scheme,
        tls="" if of.tls is None else _tls(of.tls),
    )


def _tls(tls: Tls) -> str:
    return f"""
        # The nodes are called over TLS, and a node whose certificate is not theirs gets nothing.
        proxy_ssl_verify on;
        proxy_ssl_verify_depth 4;
        proxy_ssl_trusted_certificate {tls.authorities};
        proxy_ssl_server_name on;
        proxy_ssl_name {tls.name};
        proxy_ssl_protocols TLSv1.2 TLSv1.3;
"""


def _owners(of: Balanced, numbers: list[int]) -> str:
    """An upstream for each node, in which the others stand in for it."""
    if not numbers:
        return ""
    found = ["    # The owner of a session, and the other nodes in case that it is gone.\n"]
    for number in numbers:
        servers = "\n".join(
            f"        server {node} max_fails=1 fail_timeout=3s{'' if place == number else ' backup'};"
            for place, node in enumerate(of.nodes, 1)
        )
        found.append(_OWNER.format(number=number, servers=servers, idle_s=KEEP_IDLE_S))
    return "".join(found)


def _places(of: Balanced, numbered: list[tuple[int, str]]) -> str:
    """A location for each node, by the name that ``X-Accel-Redirect`` carries."""
    if not numbered:
        return ""
    told = "        # A node names the owner of the session by X-Accel-Redirect. Method, body and credentials stay.\n"
    return told + "".join(_PLACE.format(number=number, origin=origin, scheme=of.scheme) for number, origin in numbered)


def _maps(of: Balanced) -> str:
    """The variable ``$ha_session_id``: from the cookie, or else from the bearer token."""
    if of.cookie_pattern is None:
        return _map("$http_authorization", "$ha_session_id", of.bearer_pattern)
    if of.bearer_pattern is None:
        return _map("$http_cookie", "$ha_session_id", of.cookie_pattern)
    bearer = _map("$http_authorization", "$ha_session_bearer", of.bearer_pattern)
    return bearer + "\n" + _map("$http_cookie", "$ha_session_id", of.cookie_pattern, otherwise="$ha_session_bearer")


def _map(field: str, variable: str, pattern: str | None, *, otherwise: str = '""') -> str:
    return f"""\
    map {field} {variable} {{
        default {otherwise};
        "~{pattern}" $1;
    }}"""
