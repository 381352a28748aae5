"""The keys of the cluster as one node sees them, for operators. Shows ids of keys, and no key."""

from __future__ import annotations

import msgspec

from .node import Node


def keys_of(node: Node) -> dict[str, object]:
    """Return the state of each key, and how far it can be known."""
    settings = node.settings
    life_s = max([settings.absolute_timeout, *(member.absolute_ms / 1000 for member in node.log.members())])
    members = dict(sorted(node.kids_of_members().items()))
    states = node.key_use.states(members, node.view.denied_keys, node.clock.boot_s(), life_s=life_s, expected=len(settings.peers))
    return {
        "node": node.node_id,
        "members": list(members),
        "hears_others": node.backend.hears_others or settings.cluster.scheme == "sqlite",  # whose processes tell each other their keys
        "keys": [msgspec.to_builtins(state) for state in states],
    }
