"""The arguments of ``SessionMiddleware``: Starlette's signature becomes settings, and the settings become a manager."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

from starlette.datastructures import Secret

from .._settings.secrets import MAKE_ONE
from .._settings.setting import variable
from .._settings.values import LONGEST_S
from ..config import STARLETTE_MAX_AGE_S, Settings
from ..exceptions import ConfigurationError
from ..manager import SessionManager

logger = logging.getLogger("ha_session_mw")

UNSET: Any = object()
"""Default of an argument that was not given. The settings, the environment or the setting's default then apply."""

_managers: WeakValueDictionary[Settings, SessionManager] = WeakValueDictionary()


def manager_of_arguments(
    secret_key: Any = None,
    session_cookie: Any = UNSET,
    max_age: int | None = UNSET,
    path: Any = UNSET,
    same_site: Any = UNSET,
    https_only: Any = UNSET,
    domain: Any = UNSET,
    partitioned: Any = UNSET,
    *,
    settings: Settings | None = None,
    manager: SessionManager | None = None,
) -> SessionManager:
    """Return the manager that these arguments of the middleware name or describe.

    Raises:
        ConfigurationError: the arguments, or the environment, cannot be used.
    """
    cookie = {
        "cookie_name": session_cookie,
        "cookie_path": path,
        "cookie_same_site": same_site,
        "cookie_https_only": https_only,
        "cookie_domain": domain,
        "cookie_partitioned": partitioned,
    }
    return _manager_from(settings=settings, manager=manager, secret_key=secret_key, max_age=max_age, cookie=cookie)


def _manager_from(
    *, settings: Settings | None, manager: SessionManager | None, secret_key: Any, max_age: int | None, cookie: Mapping[str, Any]
) -> SessionManager:
    given = {name: value for name, value in cookie.items() if value is not UNSET}
    if manager is None:
        return _manager_for(_settings(settings, secret_key, max_age, given))
    if not isinstance(manager, SessionManager):
        raise ConfigurationError([f"SessionMiddleware(manager=…): must be a SessionManager, got {type(manager).__name__}"])
    if given or settings is not None or secret_key is not None or max_age is not UNSET:
        raise ConfigurationError(["SessionMiddleware(manager=…): the manager has its settings; no others can be given"])
    return manager


def _manager_for(settings: Settings) -> SessionManager:
    """The manager of this process for these settings: a process is one node, even with several middlewares.

    Litestar makes one middleware for each route, and a log-out on one route must hold on the others.
    """
    manager = _managers.get(settings)
    if manager is None:
        manager = _managers[settings] = SessionManager(settings)
    return manager


def _settings(settings: Settings | None, secret_key: Any, max_age: int | None, given: dict[str, Any]) -> Settings:
    """The settings from arguments, ``settings`` and the environment; the former override the latter."""
    if secret_key is not None:
        given = {**given, "secret_key": secret_key, "secret_key_file": None, "allow_weak_secret": True}
    empty = _secret_faults(secret_key)
    faults = [*empty, *_max_age_faults(max_age)]
    try:
        if settings is not None and not isinstance(settings, Settings):
            raise ConfigurationError([f"SessionMiddleware(settings=…): must be a Settings, got {type(settings).__name__}"])
        if settings is not None:
            found = replace(settings, **given)
        else:
            found = Settings.from_environ(defaults={} if secret_key is None else _starlette_defaults(max_age), **given)
    except ConfigurationError as exc:
        about_secret = (f"{variable('secret_key')}:", f"{variable('secret_key')}=")  # an empty argument is reported as what it is
        others = [fault for fault in exc.faults if not (empty and fault.startswith(about_secret))]
        raise ConfigurationError([*others, *faults]) from None
    if faults:
        raise ConfigurationError(faults)
    for fault in found.weak_keys():
        logger.warning("a weak secret is used, because secret_key=… was given and HA_SESSION_CLUSTER=memory://. %s", fault)
    return found if max_age is UNSET else found.with_max_age(max_age)


def _secret_faults(secret_key: Any) -> list[str]:
    keys = [secret_key] if isinstance(secret_key, (str, bytes, Secret)) else secret_key
    if keys is None or not isinstance(keys, Sequence) or any(str(key).strip() not in ("", "b''") for key in keys):
        return []
    return [f"SessionMiddleware(secret_key=…): is empty, perhaps because a variable is not set where the app reads it. {MAKE_ONE}"]


def _max_age_faults(max_age: object) -> list[str]:
    if max_age is UNSET or max_age is None or (isinstance(max_age, (int, float)) and abs(max_age) <= LONGEST_S):
        return []
    return [f"SessionMiddleware(max_age={max_age!r}): must be seconds, or None"]


def _starlette_defaults(max_age: int | None) -> dict[str, Any]:
    """The defaults of Starlette's middleware, for code that calls this one in the same way. The environment overrides them."""
    lives: dict[str, Any] = {}
    if max_age is not None:
        absolute = os.environ.get(variable("absolute_timeout"), STARLETTE_MAX_AGE_S)
        lives = {"idle_timeout": absolute, "absolute_timeout": absolute}
    return {"transports": "cookie", "cookie_https_only": False, "loses_late_changes": True, **lives}
