"""What a job's file may do when it is looked at; and who is told the token of a job's process."""

import asyncio
import base64
import io
import os
import zipfile

import psutil
import pytest

from streamline.cluster import child, machine
from streamline.cluster.files import JobFolder, MasterAddress, write_json
from streamline.cluster.machine import BrokenJobError, ThisMachine
from streamline.cluster.submission import Submission, unpack

GOOD = """
import streamline as sl
from streamline.connectors.collection import CollectionSource
from streamline.connectors.stdout import StdoutSink
job = sl.Job("good")
job.source("n", CollectionSource([1])).sink("out", StdoutSink(sl.Json()))
"""


async def look(folder, code):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("job.py", code)
    submission = Submission("job.py", base64.b64encode(buffer.getvalue()).decode())
    job = JobFolder(folder)
    job.source.mkdir(exist_ok=True)
    unpack(submission, job.source)
    return await ThisMachine("token").look_at(job, submission)


async def test_what_it_prints_does_not_get_between(tmp_path):
    code = "import os, sys\nprint('{')\nos.write(1, b'[')\nprint(1, file=sys.stderr)" + GOOD
    assert (await look(tmp_path, code))["name"] == "good"
    assert {path.name for path in tmp_path.iterdir()} == {"src"}


async def test_what_it_starts_ends_with_it(tmp_path):
    code = "import subprocess\nopen('pid', 'w').write(str(subprocess.Popen(['sleep', '100']).pid))"
    assert (await look(tmp_path, code + GOOD))["name"] == "good"
    pid = int((tmp_path / "src" / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_it_may_not_print_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "MOST_PRINTED", 1 << 20)
    with pytest.raises(BrokenJobError, match="the job file printed more than 1 MiB"):
        await look(tmp_path, "while True: print('x' * 1000)")


async def test_it_may_not_take_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_INSPECT_S", 0.5)
    with pytest.raises(BrokenJobError, match=r"the job file was not done within 0\.5 s"):
        await look(tmp_path, "import time\nwhile True: time.sleep(1)")


async def test_it_ends_with_whoever_asked_for_it(tmp_path):
    asked = asyncio.ensure_future(
        look(tmp_path, "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(100)")
    )
    pid = tmp_path / "src" / "pid"
    while not (pid.exists() and pid.read_text()):
        await asyncio.sleep(0.01)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert not psutil.pid_exists(int(pid.read_text()))


async def test_it_dies(tmp_path):
    with pytest.raises(BrokenJobError, match="the process that built the job died") as raised:
        await look(tmp_path, "import os\nos.write(2, b'bye')\nos._exit(3)")
    assert raised.value.trace == "bye"


async def test_a_stranger_on_the_port_of_a_job_is_not_told_the_token(tmp_path):
    came = []

    async def take(reader, writer):
        came.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        folder = JobFolder(tmp_path)
        write_json(folder.address, MasterAddress(pid=os.getpid(), port=port))
        assert await ThisMachine("token").process(folder).connect() is None
    assert came == []
