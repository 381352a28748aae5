"""Name a device by its ``User-Agent``. The name contains no text that a client sent."""

from __future__ import annotations

UNKNOWN = "Unknown device"

# The first match counts. Most browsers also claim to be others: Edge claims to be Chrome, and Chrome to be Safari.
_PROGRAMS = (
    ("edg", "Edge"),
    ("opr/", "Opera"),
    ("samsungbrowser/", "Samsung Internet"),
    ("vivaldi/", "Vivaldi"),
    ("firefox/", "Firefox"),
    ("fxios/", "Firefox"),
    ("crios/", "Chrome"),
    ("chrome/", "Chrome"),
    ("chromium/", "Chrome"),
    ("safari/", "Safari"),
    ("curl/", "curl"),
    ("wget/", "Wget"),
    ("postmanruntime/", "Postman"),
    ("python-httpx", "httpx"),
    ("python-requests", "Requests"),
    ("python-urllib", "Python"),
    ("aiohttp/", "aiohttp"),
    ("okhttp/", "OkHttp"),
    ("go-http-client/", "Go"),
    ("java/", "Java"),
    ("node", "Node.js"),
)

# Android claims to be Linux, and iPhones and iPads are "like Mac OS X".
_SYSTEMS = (
    ("ipad", "iPadOS"),
    ("iphone", "iOS"),
    ("android", "Android"),
    ("cros ", "ChromeOS"),
    ("windows", "Windows"),
    ("mac os x", "macOS"),
    ("macintosh", "macOS"),
    ("freebsd", "FreeBSD"),
    ("linux", "Linux"),
)

LONGEST = 512
"""How many characters of a ``User-Agent`` are searched. Real ones are shorter, and a client may send a long one."""


def label(user_agent: str) -> str:
    """Return a name for a device, such as ``Firefox on Linux``.

    Example:
        >>> label("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
        'Firefox on Linux'
        >>> label("curl/8.5.0")
        'curl'
        >>> label("<script>")
        'Unknown device'
    """
    said = user_agent[:LONGEST].lower()
    program = next((name for sign, name in _PROGRAMS if sign in said), None)
    system = next((name for sign, name in _SYSTEMS if sign in said), None)
    if program and system:
        return f"{program} on {system}"
    return program or system or UNKNOWN
