"""TLS as the settings have it: whose certificates are believed, and which one is shown."""

from __future__ import annotations

import ssl
from pathlib import Path


def tls_context(ca: str | Path | None, cert: str | Path | None, key: str | Path | None) -> ssl.SSLContext:
    """For calls over TLS; shows a certificate, if there is one.

    Args:
        ca: the authorities; by default the system's.
        cert: the certificate to show.
        key: its key.

    Raises:
        OSError: a file cannot be used.
    """
    context = ssl.create_default_context(cafile=ca)
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context
