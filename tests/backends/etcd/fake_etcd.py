"""An etcd in memory, on a clock moved by hand: as much of one as locks and records ask for, and the freezing of it."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import anyio
import httpx2
import msgspec

from ha_session_mw.backends.etcd.api import KeyValue
from ha_session_mw.backends.etcd.gateway import EtcdGateway
from ha_session_mw.testing import ManualClock

_encode = msgspec.json.Encoder().encode


@dataclass
class Lease:
    """What keys hang on."""

    ttl_s: int
    end_s: float
    keys: set[bytes] = field(default_factory=set)


class FakeEtcd(httpx2.AsyncBaseTransport):
    """One member. Whoever calls it while it is frozen gets no answer, and it does what it was asked when it is thawed.

    Args:
        clock: by which it ends leases.

    Attributes:
        frozen: whether it stands still.
        freezes_at: a path; it freezes when it is asked there, and does nothing of that before it is thawed.
        loses: a path; the next answer from there is lost, and what was asked is done.
        late_s: how much later it ends leases than it should.
        asked: each path that was asked, in order.
        first_lease: the number of the first lease that it grants.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.freezes_at = self.loses = ""
        self.late_s = 0.0
        self.asked: list[str] = []
        self.keys: dict[bytes, KeyValue] = {}
        self.leases: dict[int, Lease] = {}
        self.revision = 1
        self._clock = clock
        self.first_lease = 1
        self._numbers = count()
        self.frozen = False
        self._waiting: list[httpx2.Request] = []

    def gateway(self, clock: ManualClock) -> EtcdGateway:
        """Calls it."""
        return EtcdGateway(["http://fake:1"], clock, transport=lambda: self)

    def thaw(self) -> None:
        self.freezes_at, self.frozen = "", False
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            self._answer(request)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path == "/v3/watch":
            await anyio.sleep_forever()  # it has no news
        self.asked.append(path)
        self.frozen = self.frozen or path == self.freezes_at
        if self.frozen:
            self._waiting.append(request)
            await anyio.sleep_forever()
        status, answer = self._answer(request)
        if path == self.loses:
            self.loses = ""
            raise httpx2.ReadError("cut off")
        return httpx2.Response(status, stream=httpx2.ByteStream(_encode(answer)))

    def _answer(self, request: httpx2.Request) -> tuple[int, Mapping[str, Any]]:
        self._end_leases()
        try:
            return 200, getattr(self, "_" + request.url.path.removeprefix("/v3/").replace("/", "_"))(msgspec.json.decode(request.content))
        except KeyError:
            return 404, {"error": "etcdserver: requested lease not found", "code": 5}

    def _end_leases(self) -> None:
        for number, lease in [*self.leases.items()]:
            if lease.end_s + self.late_s <= self._clock.boot_s():
                self._end(number)

    def _end(self, number: int) -> None:
        for key in self.leases.pop(number).keys:
            self.keys.pop(key, None)
        self.revision += 1

    def _lease_grant(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        number = self.first_lease + next(self._numbers)
        self.leases[number] = Lease(body["TTL"], self._clock.boot_s() + body["TTL"])
        return {"ID": str(number), "TTL": str(body["TTL"])}

    def _lease_keepalive(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        lease = self.leases.get(body["ID"])
        if lease is None:
            return {"result": {"ID": str(body["ID"])}}
        lease.end_s = self._clock.boot_s() + lease.ttl_s
        return {"result": {"ID": str(body["ID"]), "TTL": str(lease.ttl_s)}}

    def _lease_revoke(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.leases[body["ID"]]  # else it is told that there is none
        self._end(body["ID"])
        return {}

    def _kv_range(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        start, end = b64decode(body["key"]), b64decode(body["range_end"])
        found = [self.keys[key] for key in sorted(self.keys) if start <= key < end]
        return {"header": {"revision": str(self.revision)}, "kvs": found[: body["limit"]], "more": len(found) > body["limit"]}

    def _kv_txn(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        succeeded = all(self._holds(comparison) for comparison in body["compare"])
        for operation in body["success" if succeeded else "failure"]:
            if operation.get("request_put", {}).get("lease"):
                self.leases[operation["request_put"]["lease"]]  # before anything is done
        self.revision += succeeded
        for operation in body["success" if succeeded else "failure"]:
            self._do(**operation)
        return {"header": {"revision": str(self.revision)}, "succeeded": succeeded}

    def _holds(self, comparison: Mapping[str, Any]) -> bool:
        assert (comparison["target"], comparison["result"]) == ("MOD", "EQUAL")
        found = self.keys.get(b64decode(comparison["key"]), KeyValue())
        return bool(found.mod_revision == comparison["mod_revision"])

    def _do(self, request_put: Mapping[str, Any] | None = None, request_delete_range: Mapping[str, Any] | None = None) -> None:
        if request_put is not None:
            key, lease = b64decode(request_put["key"]), request_put["lease"]
            before = self.keys.get(key)
            created = before.create_revision if before else self.revision
            self.keys[key] = KeyValue(key, b64decode(request_put["value"]), created, self.revision)
            if lease:
                self.leases[lease].keys.add(key)
        if request_delete_range is not None:
            self.keys.pop(b64decode(request_delete_range["key"]), None)
