"""A submission as an example: in the API's document, for people and for what tries the API out.

It is a whole job in a few lines. It knows nothing of how a submission is taken.
"""

from __future__ import annotations

import base64
import io
import zipfile
from typing import Any

FILE = "job.py"
CODE = """\
import streamline as sl
from streamline.connectors.collection import CollectionSource
from streamline.connectors.stdout import StdoutSink

job = sl.Job("example")
job.source("numbers", CollectionSource([1, 2, 3])).sink("out", StdoutSink(sl.Json()))
"""


def submission() -> dict[str, Any]:
    """The body of a request that submits a job, which prints three numbers and ends."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(FILE), CODE)  # without the time: it is always the same
    return {"file": FILE, "archive": base64.b64encode(packed.getvalue()).decode()}
