"""Add the refusals of handlers that require a session to the OpenAPI document of a FastAPI app.

A dependency of FastAPI cannot describe its refusals itself. FastAPI calls ``app.openapi`` for each request of the document, and its
documentation names the replacement of that method as the way to extend the document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from .._core.problems import Execution
from ..exceptions import Action, InfrastructureFault, RetryWhere, SessionSuperseded, TokenMissing
from .guards import RequireSession, is_guarded

_COMPONENT = "SessionProblem"
_SCHEMA = {
    "title": _COMPONENT,
    "description": "A refusal (RFC 9457). The status is the one of the response.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "code", "retryable", "retry_where", "action", "outcome"],
    "properties": {
        **{name: {"type": "string"} for name in ("type", "title", "detail", "instance", "code")},
        "status": {"type": "integer"},
        "retryable": {"type": "boolean"},
        "retry_after_ms": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "retry_where": {"type": "string", "enum": list(get_args(RetryWhere))},
        "action": {"type": "string", "enum": list(get_args(Action))},
        "max_age": {"type": "integer"},
        "outcome": {"type": "string", "enum": list(get_args(Execution))},
    },
}
_DESCRIPTIONS = {
    str(TokenMissing.status): "The request has no session of a logged-in user, or its session has ended.",
    str(SessionSuperseded.status): "The session has a newer token than that of the request. Send the request again with the newer one.",
    str(InfrastructureFault.status): "The node cannot tell whether the session is valid. The session is not affected: try again.",
}


def describe_refusals(app: object) -> None:
    """Have the OpenAPI document of a FastAPI app list 401, 409 and 503 for each operation that requires a session.

    The middleware does this for the app around which it is put, at the start or at the first request. Call it by hand where a program
    calls ``app.openapi()`` and serves nothing. Another object than a FastAPI app is left alone, and a second call changes nothing.
    """
    openapi = getattr(app, "openapi", None)
    if not callable(openapi) or not hasattr(app, "openapi_schema") or hasattr(openapi, "describes_refusals"):
        return

    def with_refusals() -> dict[str, Any]:
        document: dict[str, Any] = openapi()
        for path, method in _guarded_operations(app):
            operation = document.get("paths", {}).get(path, {}).get(method)
            if operation is not None:
                _describe(operation, document)
        return document

    with_refusals.describes_refusals = True  # type: ignore[attr-defined]
    app.openapi = with_refusals  # type: ignore[attr-defined]


def _describe(operation: dict[str, Any], document: dict[str, Any]) -> None:
    document.setdefault("components", {}).setdefault("schemas", {}).setdefault(_COMPONENT, _SCHEMA)
    content = {"application/problem+json": {"schema": {"$ref": f"#/components/schemas/{_COMPONENT}"}}}
    for status, description in _DESCRIPTIONS.items():  # what the app itself says of a status stays
        operation.setdefault("responses", {}).setdefault(status, {"description": description, "content": content})


def _guarded_operations(app: Any) -> Iterator[tuple[str, str]]:
    from fastapi import routing

    # Releases of FastAPI that keep the routers of an app apart list their routes by this function.
    contexts = getattr(routing, "iter_route_contexts", iter)
    for route in contexts(app.routes):
        dependant = getattr(route, "dependant", None)
        if dependant is not None and (is_guarded(getattr(route, "endpoint", None)) or _requires_session(dependant)):
            for method in route.methods or ():
                yield route.path_format, method.lower()


def _requires_session(dependant: Any) -> bool:
    return isinstance(dependant.call, RequireSession) or any(_requires_session(one) for one in dependant.dependencies)
