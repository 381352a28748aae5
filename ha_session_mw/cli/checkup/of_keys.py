"""The check of keys: whether running members and a node with this environment can validate each other's tokens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..._core.cluster.key_use import fit_of
from .findings import Finding

if TYPE_CHECKING:
    from ...config import Settings

HERE = "this environment"


def check_keys(settings: Settings, members: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Return the findings among the keys.

    Args:
        settings: of a node.
        members: the key ids of each running member, the newest first.
    """
    from ..._node.key_source import KeySource

    own = KeySource(settings, time.monotonic()).ring.kids
    for name in fit_of(HERE, {HERE: own, **members}, ()).apart:
        yield Finding(
            "error",
            "keys",
            f"member {name} and a node with {HERE} cannot validate each other's tokens",
            "give all nodes the same HA_SESSION_SECRET_KEY and HA_SESSION_AUDIENCE; to change the secret, see Rotate keys",
        )
