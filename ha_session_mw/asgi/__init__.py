"""The edge towards ASGI apps: the middleware, the routes it serves itself, and what a client is told."""
