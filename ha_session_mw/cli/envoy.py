"""The configuration for Envoy. It is YAML in the form of JSON, so that nothing has to be quoted by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .balanced import CHECK_EVERY_S, FALL, KEEP_IDLE_S, Address, Balanced, Tls

_HTTP_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_AGGREGATE = "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig"
_OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_PREVIOUS = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_ALLOWED = "type.googleapis.com/envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig"
_PRIORITIES = "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
_UNSENT = "connect-failure,refused-stream,reset-before-request"

HOST = "x-ha-session-host"
"""Request field that keeps the name of the host over a redirect, which replaces it."""
NODES, READY, ALIVE = "ha_session", "ha_session_nodes", "ha_session_alive"
ANY_HEALTHY = 1_000_000
"""In percent. By default, Envoy sends requests to the next cluster as soon as a third of the nodes fails its checks."""
_BREAKERS = {"thresholds": [{"max_retries": 1024}]}
"""By default, Envoy tries no more than three requests elsewhere at the same time. A node that drains refuses more than that."""


def envoy(of: Balanced) -> str:
    """Return the configuration for Envoy."""
    document = {
        "static_resources": {
            "listeners": [_listener(of)],
            "clusters": [_either(), _cluster(READY, "readyz", of), _cluster(ALIVE, "livez", of), *_owners(of)],
        }
    }
    return (
        f"{of.headline}\n# envoy --mode validate -c FILE tests it; the file's name must end in .yaml.\n{json.dumps(document, indent=2)}\n"
    )


def _listener(of: Balanced) -> dict[str, Any]:
    manager = {
        "@type": _HTTP_MANAGER,
        "stat_prefix": "ha_session",
        "use_remote_address": True,
        # One spelling of each path, or the calls between the nodes could be reached by another one.
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
        "max_request_headers_kb": 64,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
        "route_config": {"virtual_hosts": [{"name": "ha_session", "domains": ["*"], "routes": _routes(of)}]},
    }
    return {
        "name": "ha_session",
        "address": _socket(of.listen),
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    }


def _routes(of: Balanced) -> list[dict[str, Any]]:
    """The first route that matches counts. A hash policy has its own route, because without a token it would hash any other cookie."""
    routes: list[dict[str, Any]] = [
        {"match": {"prefix": f"{of.endpoints}/{hidden}/"}, "direct_response": {"status": 404}} for hidden in ("peer", "admin")
    ]
    routes += _routes_to_owners(of)
    for field, pattern in (("cookie", of.cookie_pattern), ("authorization", of.bearer_pattern)):
        if pattern is not None:
            whole = {"regex": f".*?{pattern}.*" if field == "cookie" else f"{pattern}.*"}
            hashed = {"header": {"header_name": field, "regex_rewrite": {"pattern": whole, "substitution": "\\1"}}}
            routes += _of_each_method(of, {"name": field, "string_match": {"safe_regex": whole}}, [hashed])
    return routes + _of_each_method(of, None, [])


def _of_each_method(of: Balanced, header: dict[str, Any] | None, hash_policy: list[dict[str, Any]]) -> list[dict[str, Any]]:
    safe = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD|OPTIONS"}}}
    found = []
    for method, retry_on in ((safe, f"{_UNSENT},reset,retriable-status-codes"), (None, _UNSENT)):
        retry: dict[str, Any] = {
            "retry_on": retry_on,
            "num_retries": 3,
            "retry_back_off": {"base_interval": "0.025s"},
            "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": _PREVIOUS}}],
            "host_selection_retry_max_attempts": 9,
        }
        if method is not None:
            retry["retriable_status_codes"] = [503]
        # A stream or a download may take as long as it likes, and a node that says nothing may not.
        action: dict[str, Any] = {"cluster": NODES, "timeout": "0s", "idle_timeout": "60s", "retry_policy": retry}
        if hash_policy:
            action["hash_policy"] = hash_policy
        route: dict[str, Any] = {"match": {"prefix": "/", "headers": [one for one in (header, method) if one is not None]}, "route": action}
        if of.redirects:
            action["internal_redirect_policy"] = _carrying_out(of)
            route["request_headers_to_add"] = [_set("session-follows", of.follows), _set(HOST, "%REQ(:AUTHORITY)%")]
        found.append(route)
    return found


def _set(name: str, value: str) -> dict[str, Any]:
    """Set a request field, whatever the client has sent."""
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _carrying_out(of: Balanced) -> dict[str, Any]:
    """Carry out the redirects of nodes to the owner of a session. Redirects of the app are the client's."""
    allowed = {"@type": _ALLOWED, "allowed_route_names": [_owner(number) for number, _ in enumerate(of.nodes, 1)]}
    return {
        "max_internal_redirects": 1,
        "redirect_response_codes": [307],
        "allow_cross_scheme_redirect": True,  # from https outside to http inside
        "predicates": [{"name": "envoy.internal_redirect_predicates.allow_listed_routes", "typed_config": allowed}],
    }


def _routes_to_owners(of: Balanced) -> list[dict[str, Any]]:
    """A route for each node. Only a request that a node has redirected takes it: a client cannot set the state of the filter."""
    if not of.redirects:
        return []
    redirected = {"key": "num_internal_redirects", "string_match": {"safe_regex": {"regex": "[0-9]+"}}}
    return [
        {
            "name": _owner(number),
            "match": {
                "prefix": "/",
                "headers": [{"name": ":authority", "string_match": {"exact": origin.partition("://")[2]}}],
                "filter_state": [redirected],
            },
            "request_headers_to_remove": ["session-follows"],
            "route": {
                "cluster": _owner(number),
                "timeout": "0s",
                "idle_timeout": "60s",
                "host_rewrite_header": HOST,
                "retry_policy": {
                    "retry_on": _UNSENT,
                    "num_retries": 3,
                    "retry_back_off": {"base_interval": "0.025s"},
                    "retry_priority": {
                        "name": "envoy.retry_priorities.previous_priorities",
                        "typed_config": {"@type": _PRIORITIES, "update_frequency": 1},
                    },
                },
            },
        }
        for number, origin in enumerate(of.origins, 1)
    ]


def _owners(of: Balanced) -> list[dict[str, Any]]:
    """A cluster for each node, in which the others stand in for it."""
    found = []
    for number, node in enumerate(of.nodes if of.redirects else (), 1):
        cluster = _cluster(_owner(number), "readyz", of)
        others = [other for other in of.nodes if other != node]
        cluster["lb_policy"] = "ROUND_ROBIN"
        cluster["load_assignment"]["endpoints"] = [_endpoints([node])] + ([_endpoints(others, priority=1)] if others else [])
        found.append(cluster)
    return found


def _owner(number: int) -> str:
    return f"ha_session_owner{number}"


def _either() -> dict[str, Any]:
    """While no node is ready, those that live answer: pages without a session work, and others get the reason."""
    config = {"@type": _AGGREGATE, "clusters": [READY, ALIVE]}
    return {
        "name": NODES,
        "connect_timeout": "1s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": config},
        "circuit_breakers": _BREAKERS,
    }


def _cluster(name: str, probe: str, of: Balanced) -> dict[str, Any]:
    every = f"{CHECK_EVERY_S:g}s"
    return {
        **({} if of.tls is None else {"transport_socket": _tls(of.tls)}),
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        # When one of three nodes goes, RING_HASH also moves every sixth session of the others.
        "lb_policy": "MAGLEV",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": _BREAKERS,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _OPTIONS,
                "common_http_protocol_options": {"idle_timeout": f"{KEEP_IDLE_S}s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
        "health_checks": [
            {
                "timeout": "1s",
                "interval": every,
                "no_traffic_interval": every,
                "unhealthy_threshold": FALL,
                "healthy_threshold": 1,
                "http_health_check": {"path": f"{of.endpoints}/{probe}"},
            }
        ],
        "load_assignment": {
            "cluster_name": name,
            "policy": {"overprovisioning_factor": ANY_HEALTHY},
            "endpoints": [_endpoints(of.nodes)],
        },
    }


def _endpoints(nodes: Iterable[Address], *, priority: int = 0) -> dict[str, Any]:
    return {"priority": priority, "lb_endpoints": [{"endpoint": {"address": _socket(node)}} for node in nodes]}


def _tls(tls: Tls) -> dict[str, Any]:
    names = [{"san_type": "DNS", "matcher": {"exact": tls.name}}]
    checked = {"trusted_ca": {"filename": tls.authorities}, "match_typed_subject_alt_names": names}
    config = {"@type": _TLS, "sni": tls.name, "common_tls_context": {"validation_context": checked}}
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


def _socket(address: Address) -> dict[str, Any]:
    return {"socket_address": {"address": address.bare_host, "port_value": address.port}}
