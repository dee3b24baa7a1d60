"""The text of metrics is read back by Prometheus's own parser."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamline.cluster.metrics import as_text


def job(**more):
    told = {
        "id": "orders-1",
        "state": "running",
        "restarts": 2,
        "refused": 0,
        "last_checkpoint": None,
        "tasks": [],
        "counters": {},
    }
    return told | more


def samples(text):
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize("name", ['say "so"', "back\\slash", "two\nlines", r"\n", "größer", "a,b}"])
def test_a_label_is_read_back_whatever_stands_in_it(name):
    found = samples(as_text([job(counters={name: {"late": 3}})]))
    assert found[("streamline_node_late_total", "orders-1", name)] == 3


@pytest.mark.parametrize("value", [0, 12_345_678_901_234, 0.1, 1e-9, 1e22])
def test_a_value_is_read_back(value):
    last = {"duration_s": value, "size_bytes": 1, "age_s": 1}
    found = samples(as_text([job(last_checkpoint=last)]))
    assert found[("streamline_checkpoint_duration_seconds", "orders-1")] == value


def test_samples_of_a_metric_stand_together():
    """Prometheus takes one block of a name; what it has seen of a second one is not said."""
    text = as_text([job(id="a"), job(id="b")], {"wrong_tokens": 1, "silent_connections": 0})
    names = [line.split()[2] for line in text.decode().splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names)) > 20
    block = text.decode().partition("# TYPE streamline_restarts_total counter\n")[2].splitlines()
    assert block[:2] == [
        'streamline_restarts_total{job="a"} 2',
        'streamline_restarts_total{job="b"} 2',
    ]
    assert block[2].startswith("# HELP")


def test_what_is_not_known_is_left_out():
    found = samples(as_text([job()]))
    assert set(found) == {
        ("streamline_job_state", "orders-1", "running"),
        ("streamline_restarts_total", "orders-1"),
        ("streamline_refused_total", "orders-1"),
    }
