"""The attributes of Starlette's middleware that a subclass may set: those of the cookie are honoured, the others stop the start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NoReturn

from ..config import Settings
from ..exceptions import ConfigurationError
from .edge import Edge

_FLAGS = {"samesite": "cookie_same_site", "domain": "cookie_domain"}
_SWITCHES = {"secure": "cookie_https_only", "partitioned": "cookie_partitioned"}
_NAMES = ("session_cookie", "path", "security_flags", "max_age", "signer")


class CookieAttributes:
    """``session_cookie``, ``path``, ``security_flags``, ``max_age`` and ``signer``, as on Starlette's middleware.

    A subclass may set the first three, also while the app runs. The middleware reads and writes the cookie accordingly from then on.
    Another value of ``max_age``, and a ``signer``, would concern the tokens of all nodes, so they are faults.
    """

    _fault: ConfigurationError | None
    _prefix: str
    _edge: Edge
    _cookie_settings: Settings

    def _use_cookie(self, settings: Settings) -> None:
        """Read and write the cookie as these settings say."""
        self._cookie_settings = settings
        self._edge.use_cookie(settings)
        self._transports = self._edge.reader.transports

    def _change_cookie(self, attribute: str, **changes: Any) -> None:
        if not hasattr(self, "_cookie_settings"):
            return  # the start is refused already; or before the constructor, which overrides it as Starlette's does
        try:
            changed = replace(self._cookie_settings, **changes)
        except ConfigurationError as fault:
            self._refuse_start(f"{type(self).__name__}.{attribute}: {'; '.join(fault.faults)}")
        else:
            self._use_cookie(changed)

    def _refuse_start(self, fault: str) -> None:
        known = self._fault.faults if self._fault is not None else ()
        if fault not in known:
            self._fault = ConfigurationError([*known, fault])
            self._prefix = ""  # see the middleware's constructor

    def _refuse_overrides(self) -> None:
        for name in _NAMES:
            if getattr(type(self), name) is not getattr(CookieAttributes, name):
                self._refuse_start(f"{type(self).__name__}.{name}: overrides an attribute of the middleware; set it on the instance")

    @property
    def session_cookie(self) -> str:
        """The cookie's name."""
        return self._cookie_settings.cookie_name

    @session_cookie.setter
    def session_cookie(self, value: str) -> None:
        if not hasattr(self, "_cookie_settings") or value != self.session_cookie:
            self._change_cookie("session_cookie", cookie_name=value)

    @property
    def path(self) -> str:
        """The cookie's path."""
        return self._cookie_settings.cookie_path

    @path.setter
    def path(self, value: str) -> None:
        if not hasattr(self, "_cookie_settings") or value != self.path:
            self._change_cookie("path", cookie_path=value)

    @property
    def security_flags(self) -> str:
        """The cookie's other attributes, as Starlette writes them."""
        settings = self._cookie_settings
        flags = ["httponly", f"samesite={settings.cookie_same_site}"]
        if settings.cookie_https_only is True:
            flags.append("secure")
        if settings.cookie_domain is not None:
            flags.append(f"domain={settings.cookie_domain}")
        if settings.cookie_partitioned:
            flags.append("partitioned")
        return "; ".join(flags)

    @security_flags.setter
    def security_flags(self, value: str) -> None:
        changes: dict[str, Any] = {"cookie_https_only": False, "cookie_partitioned": False, "cookie_domain": None}
        unknown = []
        names = set()
        for flag in value.split(";"):
            name, _, rest = flag.strip().partition("=")
            names.add(name.lower())
            if name.lower() in _FLAGS:
                changes[_FLAGS[name.lower()]] = rest
            elif name.lower() in _SWITCHES:
                changes[_SWITCHES[name.lower()]] = True
            elif name.lower() not in ("httponly", ""):
                unknown.append(name)
        if unknown or not {"httponly", "samesite"} <= names:
            self._refuse_start(
                f"{type(self).__name__}.security_flags: must be httponly and samesite=…, and may be secure, domain=… and partitioned"
            )
            return
        self._change_cookie("security_flags", **changes)

    @property
    def max_age(self) -> int | None:
        """The session's life in seconds; None if the cookie ends with the browser."""
        settings = self._cookie_settings
        return int(settings.absolute_timeout) if settings.cookie_max_age else None

    @max_age.setter
    def max_age(self, value: int | None) -> None:
        if hasattr(self, "_cookie_settings") and value != self.max_age:
            self._refuse_start(f"{type(self).__name__}.max_age: cannot be set afterwards; give it to the constructor")

    @property
    def signer(self) -> NoReturn:
        """Not there: tokens have signers of their own."""
        raise AttributeError("signer")

    @signer.setter
    def signer(self, _: object) -> None:
        self._refuse_start(f"{type(self).__name__}.signer: cannot be replaced, because every node checks the signature of a token")
