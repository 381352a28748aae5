"""The facts that the configuration of a balancer is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .._core.token.tokens import MAX_TOKEN_BYTES
from ..version import __version__

CHECK_EVERY_S = 0.5
"""Seconds between two checks of a node, where the balancer can check."""
FALL = 2
"""How many checks in a row take a node out. One lost answer is no fault."""
HEADER_BYTES = 8 * MAX_TOKEN_BYTES
"""Room for the header of a request or an answer. An answer may carry the largest token, the removal of 16 planted cookies, and the
app's own fields. By default, nginx gives an answer 4 kB and turns a larger one into 502."""
KEEP_IDLE_S = 1
"""How long the balancer keeps an idle connection to a node. By default, gunicorn closes one after 2 s, and uvicorn after 5 s. A node that
drains does so after 3 s. A POST that arrives on it at that very moment is lost."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host, with brackets around an IPv6 address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def bare_host(self) -> str:
        """The host without brackets."""
        return self.host.strip("[]")


@dataclass(frozen=True, slots=True)
class Tls:
    """How the balancer checks a node whose URL begins with https.

    Attributes:
        name: the name in the certificates of all nodes. The balancer sends it, too (SNI, RFC 6066 section 3).
        authorities: the file (PEM) of the authorities, on the balancer's machine.
    """

    name: str
    authorities: str


@dataclass(frozen=True, slots=True)
class Balanced:
    """The facts that a configuration is made of.

    Attributes:
        listen: where the balancer listens.
        nodes: the nodes.
        tls: how it checks the nodes; None if it speaks plain http to them.
        cookie: the name of the session cookie; None if cookies carry no tokens.
        bearer: whether bearer tokens are accepted.
        endpoints: the prefix of the probes.
        redirects: whether the balancer carries out redirects to the owner of a session.
    """

    listen: Address
    nodes: tuple[Address, ...]
    tls: Tls | None
    cookie: str | None
    bearer: bool
    endpoints: str
    redirects: bool

    @property
    def scheme(self) -> str:
        """The scheme of the nodes' URLs."""
        return "http" if self.tls is None else "https"

    @property
    def origins(self) -> tuple[str, ...]:
        """The origin of each node, in the spelling in which nodes compare them."""
        return tuple(f"{self.scheme}://{str(node).lower()}" for node in self.nodes)

    @property
    def follows(self) -> str:
        """The value of ``Session-Follows``: the nodes to which the balancer carries a request."""
        return ", ".join(self.origins)

    @property
    def cookie_pattern(self) -> str | None:
        """A regular expression (PCRE and RE2 alike) that finds the id of the session in the field ``Cookie``, as its first group."""
        if self.cookie is None:
            return None
        return f"(?:^|; *){re.escape(self.cookie)}=hs1[.]([A-Za-z0-9_-]+)[.]"

    @property
    def bearer_pattern(self) -> str | None:
        """The same for the field ``Authorization``. The name of a scheme ignores case (RFC 9110 section 11.1)."""
        return "^(?i:bearer) +hs1[.]([A-Za-z0-9_-]+)[.]" if self.bearer else None

    @property
    def headline(self) -> str:
        """The first line of a configuration."""
        return f"# Written by ha-session lb-config, release {__version__}. Write it anew when the nodes or the settings change."
