"""The way back of a WebSocket: the handshake's answer commits the session, and later changes go to the store."""

from __future__ import annotations

from starlette.types import Message, Scope

from .._node.uncancelled import Uncancelled
from ..exceptions import ProblemError
from ..session.commit import close, has_nothing_to_commit
from ..session.late_save import has_late_changes
from ..session.state import WEBSOCKET
from .exchange import Exchange, drop
from .headers import changes_token, forbid_storing
from .streams import Connection

"""The status of a handshake that the app closes without having accepted it, as the ASGI specification says."""
SWITCHING_PROTOCOLS = 101
_ANSWERS = frozenset(("websocket.accept", "websocket.close", "websocket.http.response.start"))


def takes_headers(scope: Scope) -> bool:
    """Whether the server sends header fields of ``websocket.accept``, as it does from version 2.1 of the specification on.

    A server that offers the extension of a later version does, too: Starlette's test client names no version. Two servers drop the
    fields: daphne, which offers neither, and granian, the only one that offers to send files over a WebSocket.
    """
    version = (scope.get("asgi") or {}).get("spec_version", "2.0")
    numbers = tuple(int(part) for part in version.split(".") if part.isdecimal())
    extensions = scope.get("extensions") or {}
    return (numbers >= (2, 1) or "websocket.http.response" in extensions) and "http.response.pathsend" not in extensions


class WebSocketExchange(Exchange, eq=False):
    """One WebSocket after its session was found.

    Attributes:
        first: the first message from the server, once the app or ``opening`` has received it.
        answered: whether the app has answered the handshake.
    """

    first: Message | None = None
    answered: bool = False

    def open(self) -> None:
        """Begin: let the connection end with its session."""
        self.state.is_websocket = True
        if self.state.read_only is None and not takes_headers(self.scope):
            close(self.session, WEBSOCKET)
        self._connect()

    def _connect(self) -> None:
        """Let the connection end with the session that the client has now, which the handshake may have begun."""
        verified, known = self.state.verified, self.connection
        if known is not None and known.verified is verified:
            return
        self.forget()
        if verified is not None and self.state.claims is not None:
            self.connection = Connection(verified, "websocket", self.receive, self.send, has_left=self._has_left)
            self.edge.connections.add(self.connection)

    def _has_left(self) -> bool:
        """Whether the app has logged its session out in time for the handshake to say so. The connection goes on as a visitor's."""
        return not self.answered and self.state.read_only is None and self.state.claims is None

    def forget(self) -> None:
        """Let the connection no longer end with its session."""
        if self.connection is not None:
            self.edge.connections.remove(self.connection)
            self.connection = None

    # From the server to the app

    async def __call__(self) -> Message:
        if self.answered and has_late_changes(self.session, self.state):
            await self.save()
        if self.first is None:
            return await self.opening()
        return await (self.receive() if self.connection is None else self.connection.receive())

    async def opening(self) -> Message:
        """Return the first message from the server, whether the app has received it already or not."""
        if self.first is None:
            self.first = await (self.receive() if self.connection is None else self.connection.receive())
        return self.first

    # From the app to the server

    async def pass_on(self, message: Message) -> None:
        """Send a message of the app's; commit the session first if this message answers the handshake."""
        if not self.answered:
            if self.state.commit_failure is not None:  # the framework closes because the commit has failed
                await self._refuse(self.state.commit_failure)
                return
            if self.state.turned_away is not None and message["type"] != "websocket.accept":
                return  # a guard has refused the handshake, and the framework closes it in its own way
            if message["type"] in _ANSWERS:
                await self._answer_and_send(message)
                return
            self.answered = True
        elif has_late_changes(self.session, self.state):
            await self.save()
        await self._send_on(message)

    async def _send_on(self, message: Message) -> None:
        await (self.send if self.connection is None else self.connection.send)(message)

    async def _answer_and_send(self, message: Message) -> None:
        with Uncancelled() as uncancelled:
            answer = await self._answer(message, uncancelled)
            self.answered = True
            await uncancelled.finish(lambda: self._send_on(answer))

    async def _answer(self, message: Message, uncancelled: Uncancelled) -> Message:
        session, state = self.session, self.state
        if state.read_only is not None or (self.connection is not None and self.connection.ended):
            return message  # nothing can be committed; or the client has got the closing message already
        if message["type"] == "websocket.close":  # carries no header fields
            state.is_late = session.modified
            self.forget()  # a log-out that the app asks for must not end the handshake in its own way
            close(session, WEBSOCKET)
            await self.save()
            return message
        headers = [*(message.get("headers") or ())]
        if not self._has_changes():
            close(session, WEBSOCKET)
            return message
        self.forget()  # likewise
        outcome = await self._commit(message.get("status", SWITCHING_PROTOCOLS), headers, uncancelled)
        close(session, WEBSOCKET)
        self._connect()
        fields = self._fields(outcome)
        if changes_token(fields):  # a handshake that the app refuses has an answer like any other
            forbid_storing(headers)
        return {**message, "headers": headers + fields}

    def _has_changes(self) -> bool:
        verified = self.state.verified
        return self.session.modified or (
            verified is not None and not has_nothing_to_commit(self.session, self.state, verified, self.edge.wall_s())
        )

    # The app returns or fails

    async def end(self) -> None:
        """The app has returned."""
        if self.answered:
            await self.save()
        else:
            await self._abandon()
            if self.state.turned_away is not None:  # the framework made something else of the guard's error
                await self._refuse(self.state.turned_away)

    async def handles(self, failure: BaseException) -> bool:
        """The app has raised. Return whether that is dealt with: the connection had ended, or the client got a problem document."""
        if self.connection is not None and self.connection.ended and isinstance(failure, Exception):
            return True  # the app saw a client that has gone
        if not self.answered or self.state.is_late:
            await self._abandon()
        problem = self._problem(failure)
        if self.answered or problem is None:
            return problem is not None and self.send is drop  # the client has got one
        await self._refuse(problem)
        return True

    async def _refuse(self, problem: ProblemError) -> None:
        self.answered = True
        self.forget()
        send, self.send = self.send, drop
        scope = {**self.scope, "root_path": self.root_path}
        is_counted = problem is self.state.problem
        await self.edge.refuse(problem, scope, self.opening, send, outcome=self._outcome(problem), is_counted=is_counted)
