"""The edge towards ASGI apps: the middleware, the session that an app sees, and what a client is told."""
