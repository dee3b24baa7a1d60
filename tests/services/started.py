"""Start a server, or say why the test cannot run."""

import os

import pytest

from streamline.testing.services import ServiceUnavailableError


def started(service):
    """A server that runs; without one, tests are skipped, but in CI they fail."""
    try:
        service.start()
    except ServiceUnavailableError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    return service
