"""The state of an etcd in memory: keys with their history, and leases. Implements the calls of the JSON gateway; performs no I/O."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from ha_session_mw.backends.etcd.api import KeyValue

Answer = tuple[int, Mapping[str, Any]]
"""A status and a body."""


@dataclass
class Lease:
    """A lease, with the keys that end with it."""

    ttl_s: int
    end_s: float
    keys: set[bytes] = field(default_factory=set)


@dataclass(frozen=True)
class Change:
    """A change of one key at a revision.

    Attributes:
        pair: the key as it stands then; of a deleted key, its name and the revision only.
        replaced: the key as it stood before; None where it did not exist.
    """

    pair: KeyValue
    replaced: KeyValue | None
    is_deletion: bool = False

    def event(self) -> Mapping[str, Any]:
        return {"kv": self.pair, "type": "DELETE"} if self.is_deletion else {"kv": self.pair}


class EtcdState:
    """The state of an etcd.

    Attributes:
        keys: as they stand.
        leases: by their numbers.
        revision: of the last change.
        compacted: up to which revision the history is gone.
        changes: all changes since then, in their order.
        late_s: how much later leases end than they should.
        first_lease: the number of the first lease that is granted.
        is_full: whether it has no space left. It is read, and keys are deleted; nothing is put.
    """

    def __init__(self) -> None:
        self.keys: dict[bytes, KeyValue] = {}
        self.leases: dict[int, Lease] = {}
        self.revision = 1
        self.compacted = 0
        self.changes: list[Change] = []
        self.late_s = 0.0
        self.first_lease = 1
        self.is_full = False
        self._numbers = count()

    def answer(self, path: str, body: Mapping[str, Any], now_s: float) -> Answer:
        """Carry out a call.

        Args:
            path: of the call.
            body: of the call, decoded from JSON.
            now_s: the time, by which leases end.
        """
        self._end_leases(now_s)
        match path:
            case "/v3/lease/grant" if self.is_full:
                return _FULL
            case "/v3/kv/range":
                return self._range(body)
            case "/v3/kv/txn":
                return self._transact(body)
            case "/v3/lease/grant":
                number = self.first_lease + next(self._numbers)
                self.leases[number] = Lease(body["TTL"], now_s + body["TTL"])
                return 200, {"ID": str(number), "TTL": str(body["TTL"])}
            case "/v3/lease/keepalive":
                return 200, {"result": self._keep_alive(body["ID"], now_s)}
            case "/v3/lease/revoke":
                return (200, self.end_lease(body["ID"])) if body["ID"] in self.leases else _NO_LEASE
        return 404, {"error": "not found", "code": 5}

    def since(self, revision: int, start: bytes, end: bytes) -> list[Change]:
        """The changes of a range of keys from a revision on."""
        return [change for change in self.changes if change.pair.mod_revision >= revision and start <= change.pair.key < end]

    def compact(self) -> None:
        """Forget the history, but for how the keys stand now."""
        self.compacted = self.revision
        self.changes = []

    # Leases

    def _end_leases(self, now_s: float) -> None:
        for number, lease in [*self.leases.items()]:
            if lease.end_s + self.late_s <= now_s:
                self.end_lease(number)

    def end_lease(self, number: int) -> Mapping[str, Any]:
        """End a lease, and delete its keys."""
        self.revision += 1
        for key in sorted(self.leases.pop(number).keys):
            self._delete(key)
        return {}

    def _keep_alive(self, number: int, now_s: float) -> Mapping[str, Any]:
        lease = self.leases.get(number)
        if lease is None:
            return {"ID": str(number)}
        lease.end_s = now_s + lease.ttl_s
        return {"ID": str(number), "TTL": str(lease.ttl_s)}

    # Keys

    def _range(self, body: Mapping[str, Any]) -> Answer:
        asked = body.get("revision", 0)
        if asked > self.revision:
            return 400, {"error": "etcdserver: mvcc: required revision is a future revision", "code": 11}
        if 0 < asked < self.compacted:
            return 400, {"error": "etcdserver: mvcc: required revision has been compacted", "code": 11}
        start, end = b64decode(body["key"]), b64decode(body["range_end"])
        keys = self._at(asked or self.revision)
        after = body.get("min_mod_revision", 0)
        found = [keys[key] for key in sorted(keys) if start <= key < end and keys[key].mod_revision >= after]
        header = {"revision": str(self.revision)}
        return 200, {"header": header, "kvs": found[: body["limit"]], "more": len(found) > body["limit"]}

    def _at(self, revision: int) -> Mapping[bytes, KeyValue]:
        """The keys as they stood at a revision."""
        if revision == self.revision:
            return self.keys
        keys = dict(self.keys)
        for change in reversed(self.changes):
            if change.pair.mod_revision <= revision:
                break
            if change.replaced is None:
                del keys[change.pair.key]
            else:
                keys[change.pair.key] = change.replaced
        return keys

    def _transact(self, body: Mapping[str, Any]) -> Answer:
        succeeded = all(map(self._holds, body["compare"]))
        operations = body["success" if succeeded else "failure"]
        if self.is_full and any("request_put" in operation for operation in (*body["success"], *body["failure"])):
            return _FULL
        leases = {operation.get("request_put", {}).get("lease", 0) for operation in operations}
        if not leases <= {0, *self.leases}:
            return _NO_LEASE
        changes = len(self.changes)
        self.revision += 1
        reads = [self._read(**operation["request_range"]) for operation in operations if "request_range" in operation]
        for operation in operations:
            self._do(**operation)
        if len(self.changes) == changes:
            self.revision -= 1  # nothing was changed
        return 200, {"header": {"revision": str(self.revision)}, "succeeded": succeeded, "responses": reads}

    def _read(self, key: str, *, keys_only: bool) -> Mapping[str, Any]:
        found = self.keys.get(b64decode(key))
        return {"response_range": {"kvs": [found]} if found else {}}

    def _holds(self, comparison: Mapping[str, Any]) -> bool:
        found = self.keys.get(b64decode(comparison["key"]))
        match comparison["target"], comparison["result"]:
            case "MOD", "EQUAL":
                return bool((found.mod_revision if found else 0) == comparison["mod_revision"])
            case "VALUE", "LESS":
                return found is not None and found.value < b64decode(comparison["value"])
        raise AssertionError(comparison)

    def _do(
        self,
        request_put: Mapping[str, Any] | None = None,
        request_delete_range: Mapping[str, Any] | None = None,
        request_txn: Mapping[str, Any] | None = None,
        request_range: Mapping[str, Any] | None = None,  # was read before
    ) -> None:
        if request_txn is not None:
            for operation in request_txn["success" if all(map(self._holds, request_txn["compare"])) else "failure"]:
                self._do(**operation)
        if request_put is not None:
            key = b64decode(request_put["key"])
            value = self.keys[key].value if request_put.get("ignore_value") else b64decode(request_put["value"])
            self._put(key, value, request_put.get("lease", 0))
        if request_delete_range is not None:
            start = b64decode(request_delete_range["key"])
            end = b64decode(request_delete_range["range_end"]) if "range_end" in request_delete_range else start + b"\0"
            for key in sorted(key for key in self.keys if start <= key < end):
                self._delete(key)

    def _put(self, key: bytes, value: bytes, lease: int) -> None:
        before = self.keys.get(key)
        created = before.create_revision if before else self.revision
        self.keys[key] = KeyValue(key, value, created, self.revision)
        self.changes.append(Change(self.keys[key], before))
        if lease:
            self.leases[lease].keys.add(key)

    def _delete(self, key: bytes) -> None:
        before = self.keys.pop(key, None)
        if before is not None:
            self.changes.append(Change(KeyValue(key, mod_revision=self.revision), before, is_deletion=True))


_FULL: Answer = 429, {"error": "etcdserver: mvcc: database space exceeded", "code": 8}
_NO_LEASE: Answer = 404, {"error": "etcdserver: requested lease not found", "code": 5}
