"""TLS settings of a client that asks servers on loopback over plain HTTP."""

from __future__ import annotations

import ssl

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Verifies nothing. A client that is made for one request would otherwise load certificates or ciphers, which takes ten times as long."""
NO_TLS.check_hostname = False
NO_TLS.verify_mode = ssl.CERT_NONE
