"""An etcd of one member in memory, on a clock moved by hand, for locks and records: it freezes, and loses answers."""

from __future__ import annotations

import anyio
import httpx2
import msgspec

from ha_session_mw.backends.etcd.gateway import EtcdGateway
from ha_session_mw.testing import ManualClock

from .fake_state import Answer, EtcdState, Lease

__all__ = ["FakeEtcd", "Lease"]

_encode = msgspec.json.Encoder().encode


class FakeEtcd(EtcdState, httpx2.AsyncBaseTransport):
    """One member. A call of a frozen member gets no answer, and is done once the member is thawed.

    Args:
        clock: by which it ends leases.

    Attributes:
        frozen: whether it stands still.
        freezes_at: a path; it freezes when it is asked there, and does nothing of that before it is thawed.
        loses: a path whose next answer is lost, although the request is carried out.
        asked: each path that was asked, in order.
    """

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self.freezes_at = self.loses = ""
        self.asked: list[str] = []
        self._clock = clock
        self.frozen = False
        self._waiting: list[httpx2.Request] = []

    def gateway(self, clock: ManualClock) -> EtcdGateway:
        """Calls it."""
        return EtcdGateway(["http://fake:1"], clock, transport=lambda: self)

    def thaw(self) -> None:
        self.freezes_at, self.frozen = "", False
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            self._do_call(request)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path == "/v3/watch":
            await anyio.sleep_forever()  # it has no news
        self.asked.append(path)
        self.frozen = self.frozen or path == self.freezes_at
        if self.frozen:
            self._waiting.append(request)
            await anyio.sleep_forever()
        status, answer = self._do_call(request)
        if path == self.loses:
            self.loses = ""
            raise httpx2.ReadError("cut off")
        return httpx2.Response(status, stream=httpx2.ByteStream(_encode(answer)))

    def _do_call(self, request: httpx2.Request) -> Answer:
        return self.answer(request.url.path, msgspec.json.decode(request.content), self._clock.boot_s())
