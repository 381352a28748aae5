"""TLS as the settings have it: whose certificates are believed, and which one is shown."""

from __future__ import annotations

import ssl
from pathlib import Path

_OF_ANOTHER_HOST = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH. Their texts name the host, which has no place in a log."""


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


def unreachable(failure: Exception) -> str:
    """What to tell of a server that a call did not get through to: where a certificate is to blame, what is wrong with it."""
    cause: BaseException | None = failure
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return f"cannot be reached ({type(failure).__name__})"
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = "it is another host's" if cause.verify_code in _OF_ANOTHER_HOST else cause.verify_message
        return f"shows a certificate that is not accepted: {why}"
    return f"cannot be reached over TLS ({cause.reason})"
