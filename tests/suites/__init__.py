"""The suites of other packages with our middleware in the place of Starlette's or around each app, and the page of the docs that needs
large packages.

``make prove`` runs each in an environment of its own, with the releases that stand in ``__main__.py``. The tests come from source
distributions. Those of marimo have no tests, and those of Starlette-Login lack the files that its tests import, so that these two come
from their repositories.
"""
