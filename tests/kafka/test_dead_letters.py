"""Records on which a function raised: to a topic, exactly once, with where they were read."""

import asyncio
import json

from tests.kafka.cases import PARTITIONS, RECORDS, Case
from tests.kafka.topics import create, read_all


def test_a_function_that_raises_in_another_process(kafka, orders, tmp_path):
    case = Case(kafka, orders, tmp_path, "picky")
    bad = f"{case.target}-bad"
    asyncio.run(create(case.servers, bad, 2))
    assert case.start(crash="committed@2").finish()["restarts"] >= 1
    case.check()
    letters = asyncio.run(read_all(case.servers, bad))
    numbers = []
    for letter in letters:
        number = json.loads(letter.value)["number"]
        numbers.append(number)
        headers = {name: value.decode() for name, value in letter.headers}
        assert headers["partition"] == f"{case.source}/{number % PARTITIONS}"
        assert headers["offset"] == str(number // PARTITIONS)
        assert headers["node"] == "user"
        assert "LookupError: nobody knows u" in headers["reason"]
        trace = headers["trace"].splitlines()
        assert len([line for line in trace if line.lstrip().startswith("File ")]) == 1, trace
        assert "jobs.py" in trace[1]
    assert sorted(numbers) == list(range(7, RECORDS, 1000))
