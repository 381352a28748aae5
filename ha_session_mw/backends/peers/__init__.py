"""``peers://``: the log without a server."""
