"""The version of the package, in one place.

pyproject.toml takes it from here too, so that the package and ``__version__`` cannot differ.
"""

VERSION = "0.1.0"
