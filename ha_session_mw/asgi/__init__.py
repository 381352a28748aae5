"""The edge towards ASGI apps: the middleware, the routes that it serves itself, and the responses that clients get."""
