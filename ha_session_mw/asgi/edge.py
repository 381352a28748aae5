"""The values that all requests of one middleware share, and the answer to a request that is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import uuid4

from starlette.types import Receive, Scope, Send

from .._core.paths import below_root, matcher
from .._core.problems import Execution
from .._core.request_fields import Header, last_value
from .._core.token.cookies import TokenReader
from .._core.token.tokens import Transport
from .._node.issuing import cookie_writer
from ..config import Settings
from ..exceptions import NodeStarting, ProblemError
from ..manager import node_of
from ..session.session import SCOPE_KEY, Session
from .headers import PASSIVE_HEADER, hands_out_token
from .log_in_page import log_in_address, redirect
from .problems import send_problem
from .streams import Connections

if TYPE_CHECKING:
    from .._node.node import Node

logger = logging.getLogger("ha_session_mw")


class Edge:
    """The values that all requests of one middleware share.

    Attributes:
        node: this node.
        node_fields: the header field that names it in its answers, if there is one.
        names_node: whether there is one.
        connections: the open connections, which end with their session.
        cookie: writes the session's cookie.
        reader: reads tokens from requests.
        cookie_https_only: whether the cookie is Secure.
        set_cookie: the beginning of each field that sets the session's cookie.
        vary: the header field that names what a response depends on.
        wall_s: the wall clock.
        has_met: whether the app around which the middleware was put has been seen.
        default_transport: how a new token is handed to a client that sent none.
    """

    def __init__(self, node: Node) -> None:
        settings = node.settings
        cookie, bearer = "cookie" in settings.transports, "bearer" in settings.transports
        self.node = node
        self.node_fields = node.node_fields
        self.names_node = bool(node.node_fields)
        self.connections = Connections(node.view)
        self.vary = (b"vary", b", ".join([b"Cookie"] * cookie + [b"Authorization"] * bearer))
        self.wall_s = node.clock.wall_s
        self.default_transport: Transport = "cookie" if cookie else "bearer"
        self._log_in_page = settings.login_url
        self._is_passive_path = matcher(settings.passive)
        self._full = settings.error_detail == "full"
        self.use_cookie(settings)
        self._told_not_started = self._told_neighbour = self.has_met = False

    def use_cookie(self, settings: Settings) -> None:
        """Read and write the cookie as these settings say."""
        self.reader = TokenReader(settings.cookie_name if "cookie" in settings.transports else None, bearer="bearer" in settings.transports)
        self.cookie = cookie_writer(settings)
        self.node.issuer.leave_room(self.cookie)
        self.cookie_https_only = settings.cookie_https_only
        self.set_cookie = f"{settings.cookie_name}=".encode()

    def warn_of_neighbour(self, headers: Iterable[Header], scope: Scope, session: Session) -> None:
        """Log once that another session further in sets a cookie of our name, so that each of the two replaces the other's.

        Args:
            headers: of the response.
            scope: of the request.
            session: which the middleware gave the request.
        """
        inner = scope.get("session")
        if self._told_neighbour or inner is session or not hands_out_token(headers, self.set_cookie):
            return
        if isinstance(inner, Session) and inner is scope[SCOPE_KEY] and node_of(inner.manager) is self.node:
            return  # a middleware of the same settings, for a part of the app
        self._told_neighbour = True
        logger.warning(
            "another session middleware in this app sets a cookie of the same name, %r, so each of the two replaces the other's cookie "
            "and its users lose their sessions. Give one of them another name: HA_SESSION_COOKIE_NAME, or session_cookie=…",
            self.cookie.name,
        )

    def is_passive(self, scope: Scope, root_path: str) -> bool:
        """Whether a request must not keep an idle session alive."""
        return last_value(scope["headers"], PASSIVE_HEADER, 2) == "1" or self._is_passive_path(below_root(scope["path"], root_path))

    async def refuse(
        self,
        problem: ProblemError,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        outcome: Execution = "not_executed",
        is_counted: bool = False,
    ) -> None:
        """Answer with a problem document or with the way to the log-in page, and count the problem.

        Args:
            problem: why the request is refused.
            scope, receive, send: of the request.
            outcome: whether the app had handled the request.
            is_counted: whether the problem was counted when the request was let in as a visitor's.
        """
        if isinstance(problem, NodeStarting) and not self.node.supervisor.is_running and not self._told_not_started:
            self._told_not_started = True
            from .._node.node import NOT_STARTED  # loaded with the node

            logger.error("%s", NOT_STARTED)
        if self._log_in_page is not None and (address := log_in_address(self._log_in_page, problem, scope)) is not None:
            if not is_counted:
                self.node.errors.note(problem, None)
            await redirect(address, send, vary=self.vary[1])
            return
        instance = uuid4().urn
        self.node.errors.note(problem, instance, is_counted=is_counted)
        await send_problem(
            problem,
            scope,
            receive,
            send,
            self.node.settings.endpoints,
            instance=instance,
            vary=self.vary[1],
            full=self._full,
            outcome=outcome,
            more=self.node_fields,
        )
