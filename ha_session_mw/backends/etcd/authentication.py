"""The user's token: obtained when etcd asks for one, shared by all calls, renewed when etcd no longer accepts it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping

import anyio

from ...abc import Clock
from .api import AuthenticationNeeded, EtcdRefused

REFUSED_S = 2.0
"""Time for which a refused password is not sent again. Checking one is expensive for etcd, and an operator needs longer to mend it."""


class Authentication:
    """The user of one etcd cluster.

    Args:
        clock: measures ``REFUSED_S``.
        user: None if no user is configured.
        password: returns the user's current password.

    Attributes:
        token: sent with every call; None until etcd has asked for one.
    """

    def __init__(self, clock: Clock, user: str | None, password: Callable[[], str]) -> None:
        self._clock = clock
        self._user = user
        self._password = password
        self.token: str | None = None
        self._lock = anyio.Lock()
        self._refusal: EtcdRefused | None = None
        self._refused_until_s = -math.inf

    def begin(self) -> None:
        """Begin in a new event loop."""
        self._lock = anyio.Lock()

    async def renew(
        self, used: str | None, why: AuthenticationNeeded, request_token: Callable[[Mapping[str, object]], Awaitable[str]]
    ) -> None:
        """Obtain a new token, unless another call has done so already.

        Args:
            used: the token that was not accepted.
            why: etcd's answer to it.
            request_token: sends the credentials to etcd, and returns its token.

        Raises:
            EtcdError: etcd refuses the user, or asks for one and none is configured.
        """
        if why.denied and (self._user is None or used is not None):
            raise why.final()
        if self._user is None:
            raise EtcdRefused("asks for a user: set HA_SESSION_CLUSTER_USER and HA_SESSION_CLUSTER_PASSWORD")
        async with self._lock:
            if self.token != used:
                return
            if self._refusal is not None and self._clock.boot_s() < self._refused_until_s:
                raise self._refusal
            self.token = None
            try:
                self.token = await request_token(self._credentials())
            except EtcdRefused as exc:
                self._refusal, self._refused_until_s = exc, self._clock.boot_s() + REFUSED_S
                raise

    def _credentials(self) -> Mapping[str, object]:
        try:
            return {"name": self._user, "password": self._password()}
        except OSError as exc:
            raise EtcdRefused("cannot be asked: HA_SESSION_CLUSTER_PASSWORD_FILE cannot be read") from exc
