"""The suites of other packages with our middleware in the place of Starlette's, and the page of the docs that needs large packages.

``make prove`` runs them, in an environment of their own, with the releases that stand in ``__main__.py``.
"""
