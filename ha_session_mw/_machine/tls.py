"""TLS as the settings say: which authorities are trusted, and which certificate is shown."""

from __future__ import annotations

import ssl
from pathlib import Path

_OF_ANOTHER_HOST = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH. Their texts name the host, which must not be logged."""


def tls_context(ca: str | Path | None, cert: str | Path | None, key: str | Path | None) -> ssl.SSLContext:
    """Return a context for calls over TLS. It shows a certificate if one is given.

    Args:
        ca: the trusted authorities; by default those of the system.
        cert: the certificate to show.
        key: the key of the certificate.

    Raises:
        OSError: a file cannot be used. If it cannot be read, the error has its name, which OpenSSL's errors do not have.
    """
    for file in (ca, cert, key):
        if file is not None:
            Path(file).read_bytes()
    context = ssl.create_default_context(cafile=ca)
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context


def unreachable(failure: Exception) -> str:
    """Return why a call did not reach a server. If a certificate is to blame, the text names its fault."""
    cause: BaseException | None = failure
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return f"cannot be reached ({type(failure).__name__})"
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = "it is another host's" if cause.verify_code in _OF_ANOTHER_HOST else cause.verify_message
        return f"shows a certificate that is not accepted: {why}"
    return f"cannot be reached over TLS ({cause.reason})"
