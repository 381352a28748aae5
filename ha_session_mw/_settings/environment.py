"""Environment variables as settings: which of them name a setting, and the mistakes of the files that set them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

from .setting import ENV_PREFIX, variable

# Kubernetes injects such names into every pod of a namespace that has a service called "ha-session…".
_INJECTED = re.compile(r"_(PORT|PORT_.*|SERVICE_(HOST|PORT.*))$")
_QUOTED = re.compile(r"""\s*(["']).*\1\s*""", re.DOTALL)
_UNQUOTE = "has quotation marks around its value; remove them. docker run --env-file takes them for a part of the value"


def read(
    environ: Mapping[str, str], settings: Collection[str], deprecated: Collection[str], read_as: Mapping[str, Callable[[str], object]]
) -> tuple[dict[str, object], list[str]]:
    """Return the values that the environment gives, by setting, and the faults of its variables.

    Args:
        environ: the environment.
        settings: the names of the settings.
        deprecated: old names that still work.
        read_as: how the text of some settings is read; that of others is the value.
    """
    given: dict[str, object] = {}
    found = []
    for key, value in environ.items():
        if not key.startswith(ENV_PREFIX):
            continue
        name = key.removeprefix(ENV_PREFIX).lower()
        if (name in settings or name in deprecated) and key == variable(name):
            if _QUOTED.fullmatch(value):
                found.append(f"{key}: {_UNQUOTE}")
                value = value.strip()[1:-1]  # so that no other fault follows from the marks
            if value.strip():  # Compose files and Helm charts write an empty value for a setting that is not set.
                given[name] = read_as.get(name, str)(value)
        elif not _INJECTED.search(key):
            found.append(f"{key}: is not a setting of this release{_did_you_mean(name, settings)}")
    return given, found


def _did_you_mean(name: str, settings: Collection[str]) -> str:
    from difflib import get_close_matches  # only for a message about a mistake

    close = get_close_matches(name, settings, n=1)
    return f". Did you mean {variable(close[0])}?" if close else ""
