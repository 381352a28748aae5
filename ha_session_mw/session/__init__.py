"""The session as an app sees it, and the one commit of a request."""
