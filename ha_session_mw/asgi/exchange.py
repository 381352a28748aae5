"""The way back of a request: the ``send`` that commits the session when the response starts, and the response to a failure of the app."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Iterable, Sequence

import msgspec
from starlette.types import Message, Receive, Scope, Send

from .._core.problems import Execution
from .._core.request_fields import Header, last_value
from .._core.token.cookies import INDEX_HEADER, MAX_HOST_LENGTH, claims_https
from .._core.token.data import CANNOT_TRAVEL, encode_again
from .._core.token.tokens import PREFIX
from .._node.uncancelled import Uncancelled
from ..exceptions import ProblemError
from ..session.commit import Client, Outcome, close, commit, has_nothing_to_commit
from ..session.late_save import has_late_changes, save_late
from ..session.presented import begins_anew, revoke_if_ended
from ..session.session import Session, state_of
from ..session.state import STARTED, RequestState
from .edge import Edge
from .handing_over import goes_by
from .headers import (
    TOKEN_HEADER,
    changes_token,
    forbid_storing,
    hands_out_token,
    is_event_stream,
    is_for_everybody,
    is_of_events,
    make_private,
    with_vary,
)
from .streams import Connection, Waits
from .transfer import telling_of_transfer

logger = logging.getLogger("ha_session_mw")

ORDINARY_TYPES = frozenset(
    kind + charset
    for kind in (b"text/plain", b"text/html", b"application/json", b"text/css", b"text/javascript", b"image/png", b"image/jpeg")
    for charset in (b"", b"; charset=utf-8")
)
"""The values of ``Content-Type`` in most responses. No other field that is looked at has such a value."""
_LOOKED_AT = frozenset((b"vary", b"content-type", b"set-cookie", TOKEN_HEADER))
"""The fields of a response that count even if there is nothing to commit."""
_PRIVATE = frozenset(("protected", "guarded"))
"""The kinds of paths whose responses no shared cache may keep."""
GIVE_UP_S = 15.0
"""Seconds that a log-out may take after the app has failed. A log needs less to write and fence it, or to refuse it."""


class Exchange(msgspec.Struct, eq=False):
    """One request after its session was found. A struct and its bound method cost a third less than a closure or a partial."""

    edge: Edge
    session: Session
    scope: Scope
    receive: Receive
    send: Send
    root_path: str
    connection: Connection | None = None
    waits: Waits | None = None

    __repr__ = object.__repr__  # the generated one would print the token

    @property
    def state(self) -> RequestState:
        """The state of the session."""
        return state_of(self.session)

    # From the server to the app

    async def __call__(self) -> Message:
        """Return the next message from the server: the exchange itself is the app's ``receive``, which saves each request a bound method.

        Once the session of a stream has ended, that is a client that has gone.
        """
        if self.waits is not None:
            return await self.waits.wait(self.receive) or {"type": "http.disconnect"}
        message = await self.receive()
        if not message.get("more_body"):  # all further calls wait for the end of the connection
            self._waits()
        return message

    def _waits(self) -> Waits:
        if self.waits is None:
            self.waits = Waits()
        return self.waits

    # A response starts

    def pass_on(self, message: Message) -> Awaitable[None]:
        """Send a message of the app's; commit the session first if this message starts the response."""
        session = self.session
        made = session._made  # noqa: SLF001 - a call would take longer than all of this
        if made is STARTED:  # so there is no connection: that has a state
            if "more_body" in message:
                return self._pass_more(message)
            send = self.send
            return send(message)
        if message["type"] != "http.response.start":
            return self._pass_more(message)
        edge = self.edge
        try:
            headers = message["headers"]
        except KeyError:
            headers = None
        if type(headers) is not list:  # an app may send any iterable, even one that can be read once only
            headers = [*(headers or ())]
            message = {**message, "headers": headers}
        wall_s = edge.wall_s
        now_s = wall_s()
        if made is None and not session.modified and now_s < session._verified.quiet_until_s:  # type: ignore[union-attr] # noqa: SLF001
            session._made = STARTED  # noqa: SLF001
        else:
            data = b""
            if type(made) is bytes and not session.modified and now_s < session._verified.quiet_until_s:  # type: ignore[union-attr] # noqa: SLF001
                try:
                    data = encode_again(session)
                except CANNOT_TRAVEL:  # so it has changed
                    data = b""
            if data == made:
                session._made, made = STARTED, None  # noqa: SLF001
            elif (sent := self._start_with_care(message, now_s)) is not None:
                return sent
        varies = edge.names_node
        for name, value in headers:  # once, for all: each pass costs a thirtieth of everything the middleware does
            if name in _LOOKED_AT and value not in ORDINARY_TYPES:
                if name == b"content-type":
                    if is_of_events(value) and self.connection is None:
                        self._note_stream(in_order=True)
                elif name == b"vary":
                    varies = True
                else:
                    edge.warn_of_neighbour(headers, self.scope, session)
        if made is not None and self._is_private():
            return self._start_private(message)
        if session.accessed:
            if varies:
                message = {**message, "headers": [*with_vary(headers, edge.vary), *edge.node_fields]}
            else:
                # Into the app's own list, as Starlette's middlewares do. If the app sends the list again, it has the field already.
                headers.append(edge.vary)
        send = self.send
        return send(message)

    def _start_with_care(self, message: Message, wall_s: float) -> Awaitable[None] | None:
        """Find out whether there is something to commit. Return what sends the message then, and None if there is nothing."""
        session, state = self.session, self.state
        if state.read_only is STARTED:
            return self._pass_more(message)
        verified = state.verified
        if session.modified or not (verified is None or has_nothing_to_commit(session, state, verified, wall_s)):
            return self._commit_and_start(message)
        state.read_only = STARTED
        return None

    def _pass_more(self, message: Message) -> Awaitable[None]:
        """Send a message of a stream, or of a response that consists of several."""
        if self.connection is None:
            if message.get("more_body"):
                self._note_stream(in_order=False)
            if self.connection is None:
                return self.send(message)
        return self._save_and_send(message) if self.state.is_late else self.connection.send(message)

    def _is_private(self) -> bool:
        return self.state.path_kind in _PRIVATE or self.state.stale_s is not None

    def _start_private(self, message: Message) -> Awaitable[None]:
        """Start a response that no shared cache may keep, or that rests on old knowledge, and that nothing was committed for."""
        state = self.state
        if state.path_kind == "protected" or state.stale_s is not None:
            return self.send(self._start(message, _stale_fields(state)))
        return self._start_guarded(message) if self.session.accessed else self.send(message)

    async def _commit_and_start(self, message: Message) -> None:
        session, state = self.session, self.state
        self.edge.warn_of_neighbour(message["headers"], self.scope, session)
        if state.turned_away is not None and message["status"] >= 500:
            state.refusal = state.turned_away
        if state.refusal is not None:
            await self._refuse(state.refusal)
            return
        for_everybody = state.path_kind not in _PRIVATE and is_for_everybody(message["headers"])
        was_used = session.accessed or session.modified
        with Uncancelled() as uncancelled:
            outcome = await self._commit(message["status"], message["headers"], uncancelled, renew=not for_everybody)
            close(session, STARTED)
            if is_event_stream(message["headers"]):
                self._note_stream(in_order=True)
            fields = self._fields(outcome)
            if fields or was_used or not for_everybody:
                message = self._start(message, fields)
            await uncancelled.finish(lambda: self.send(message))

    async def _commit(self, status: int, headers: Iterable[Header], uncancelled: Uncancelled, *, renew: bool = True) -> Outcome:
        state = self.state
        came = state.came_in
        # A mere renewal must not undo the changes of an inner middleware, or a change of the cookie by the app.
        renew = renew and not hands_out_token(headers, self.edge.set_cookie)
        try:
            passive = self.edge.is_passive(self.scope, self.root_path)
            outcome = await commit(self.session, self.edge.node, status, self._client, uncancelled, renew=renew, passive=passive)
        except ProblemError as problem:
            state.commit_failure = problem
            raise
        if came is not None and outcome.token is not None:
            self.send = telling_of_transfer(self.send, self.edge.node, came.issuer, state)
        if state.hold is not None:  # after a failure the lock stays until the request ends: the app may answer by itself
            await uncancelled.run(state.release_lock)
        return outcome

    async def _save_and_send(self, message: Message) -> None:
        await self.save()
        await (self.send if self.connection is None else self.connection.send)(message)

    async def save(self) -> None:
        """Save the changes since the session was handed out, as far as they can be saved."""
        await save_late(self.session, self.state, self.edge.node, self.scope)

    async def _start_guarded(self, message: Message) -> None:
        """Start the response of a handler with a guard, which nothing was committed for."""
        refusal = self.state.turned_away
        if refusal is not None and message["status"] >= 500:  # the framework took the guard's error for one of the app
            await self._refuse(refusal)
        else:
            await self.send(self._start(message, ()))

    async def _refuse(self, problem: ProblemError) -> None:
        """Answer with a problem document in place of the app's response."""
        await self._abandon()
        await self._send_problem(problem)
        close(self.session, STARTED)
        self.send = drop

    async def _send_problem(self, problem: ProblemError) -> None:
        scope = {**self.scope, "root_path": self.root_path}  # a router inside may have changed it, and our pages are not below a mount
        is_counted = problem is self.state.problem
        await self.edge.refuse(problem, scope, self.receive, self.send, outcome=self._outcome(problem), is_counted=is_counted)

    def _outcome(self, problem: ProblemError) -> Execution:
        """Whether the app had handled the request: to its end if the commit failed, and not at all if a guard raised the problem."""
        if problem is self.state.commit_failure:
            return "executed"
        return "not_executed" if problem is self.state.turned_away else "unknown"

    def _client(self) -> Client:
        client = self.scope.get("client")
        from .._core.records.user_agents import LONGEST  # only where log-ins are recorded

        return last_value(self.scope["headers"], b"user-agent", LONGEST), client[0] if client else None

    def _note_stream(self, *, in_order: bool) -> None:
        """Let the stream end with the session that the client has now, which this very response may have begun.

        Args:
            in_order: whether it ends as if it were complete.
        """
        verified = self.state.verified
        if verified is None or self.state.claims is None:
            return
        in_order = in_order or self.state.passes_events
        self.connection = Connection(verified, "http", self.receive, self.send, self._waits(), in_order=in_order)
        self.edge.connections.add(self.connection)

    def _start(self, message: Message, fields: Sequence[Header]) -> Message:
        """The start of the response with fields added. It is a copy, because an app may send the same message again."""
        headers = with_vary(message["headers"], self.edge.vary)
        headers += (*self.edge.node_fields, *fields)
        if changes_token(fields):
            forbid_storing(headers)
        elif self.state.path_kind in _PRIVATE:
            make_private(headers)
        return {**message, "headers": headers}

    def _fields(self, outcome: Outcome) -> list[Header]:
        node, state = self.edge.node, self.state
        found: list[Header] = []
        came = state.transport
        goes = goes_by(state, self.scope["headers"], self.edge.default_transport, node.settings.transports)
        if outcome.token is not None and goes != "cookie":
            found.append((TOKEN_HEADER, outcome.token))
        if goes != "bearer" or came in ("cookie", "both") or outcome.removes_variants:
            secure = self._secure()
            if outcome.removes_variants:
                found += [(b"set-cookie", line) for line in self._variants(secure=secure)]
            if outcome.token is not None and goes != "bearer":
                found.append((b"set-cookie", self.edge.cookie.set(outcome.token, max_age_s=outcome.max_age_s, secure=secure)))
            elif outcome.remove or outcome.token is not None:  # the cookie's session has ended, and goes on as a bearer token
                found.append((b"set-cookie", self.edge.cookie.remove(secure=secure)))
        if outcome.acknowledgement is not None:
            found.append((b"session-revocation", outcome.acknowledgement.mode.encode()))
            if index := node.log.index():
                found.append((INDEX_HEADER, index.encode()))
        found += _stale_fields(state)
        return found

    def _variants(self, *, secure: bool) -> list[bytes]:
        """The lines that remove the client's other cookies of our name, unless one of them may be another app's."""
        cookies = [token for transport, token in self.state.presented if transport == "cookie"]
        if len(cookies) < 2 or not all(token.startswith(PREFIX) for token in cookies):
            return []
        host = last_value(self.scope["headers"], b"host", MAX_HOST_LENGTH + 7)  # and a port
        return self.edge.cookie.remove_variants(host=host, path=self.scope["path"], secure=secure)

    def _secure(self) -> bool:
        https_only = self.edge.cookie_https_only
        return claims_https(self.scope.get("scheme", "http"), self.scope["headers"]) if https_only == "auto" else https_only

    # The app returns or fails

    def is_unfinished(self) -> bool:
        """Whether something is to be done once the app has returned."""
        state = self.state
        return state.read_only is not STARTED or self.connection is not None or has_late_changes(self.session, state)

    async def end(self) -> None:
        """The app has returned. A response that it did not begin is not begun here either, unless the app has refused the request.

        Raises:
            SessionEnded: the response is cut off.
        """
        try:
            if self.state.read_only is not STARTED:
                await self._abandon()
                if self.state.refusal is not None:
                    await self._send_problem(self.state.refusal)
            else:
                await self.save()
            if self.connection is not None:
                await self.connection.app_is_over()
        finally:
            self.forget()

    def forget(self) -> None:
        """Let the connection no longer end with its session."""
        if self.connection is not None:
            self.edge.connections.remove(self.connection)

    async def handles(self, failure: BaseException) -> bool:
        """The app has raised. Return whether that is dealt with: the connection had ended, or the client got a problem document.

        Raises:
            SessionEnded: the response is cut off.
        """
        try:
            if self.connection is not None and self.connection.ended and isinstance(failure, Exception):
                await self.connection.app_is_over()  # the app saw a client that has gone
                return True
            return await self._handles(failure)
        finally:
            self.forget()

    async def _handles(self, failure: BaseException) -> bool:
        state = self.state
        if state.read_only is STARTED:
            if state.is_late:
                await self._abandon()
            return failure is state.turned_away and self.send is drop  # the client has got it
        await self._abandon()
        problem = self._problem(failure)
        if problem is None:
            return False
        await self._send_problem(problem)
        return True

    def _problem(self, failure: BaseException) -> ProblemError | None:
        while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:  # of a task group
            failure = failure.exceptions[0]
        # Starlette and Litestar take an error out of ``send`` for one after the start, and raise another because of it.
        cause = self.state.commit_failure
        problem = cause if cause and failure.__cause__ is cause else failure
        return problem if isinstance(problem, ProblemError) else None

    async def _abandon(self) -> None:
        """The app failed before it answered. Nothing is saved then, but a log-out that it asked for holds."""
        # If the commit failed, it has already tried the log-out.
        if self.state.commit_failure is None and not begins_anew(self.session, self.state):
            try:
                with Uncancelled() as uncancelled:
                    await revoke_if_ended(self.state, self.edge.node, uncancelled, limit_s=GIVE_UP_S)
            except (ProblemError, TimeoutError) as problem:  # logged only, because the client gets the app's failure
                logger.error("the app failed, and the log-out that it had asked for is not durable: %r", problem)
        await self.state.release_lock()


async def drop(message: Message) -> None:
    """Drop a message that the app sends after its request was refused."""


def _stale_fields(state: RequestState) -> list[Header]:
    """Mark a response that rests on knowledge older than the freshness limit, on a path where the settings permit that."""
    return [] if state.stale_s is None else [(b"session-stale", b"%d" % math.ceil(state.stale_s))]
