"""The command ``ha-session``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Exits with 0 if all is well, with 1 for findings, and with 2 if it was used in a wrong way."""
    try:
        from .commands import ha_session
    except ModuleNotFoundError as exc:
        if exc.name != "click":
            raise
        sys.exit("ha-session needs click: pip install 'ha-session-mw[cli]'")
    ha_session(prog_name="ha-session")


if __name__ == "__main__":
    main()
