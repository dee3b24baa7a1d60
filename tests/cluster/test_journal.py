"""Journal: what was appended is there after a crash at any byte; damage is told, not passed over."""

import contextlib
import io
import random
import resource

import pytest

from streamline.cluster.journal import Journal
from streamline.errors import StateError

ENTRIES = [{"kind": "a", "n": 1}, {"kind": "b", "text": "ä" * 40}, {"kind": "c", "list": [1, None]}]


def written(path, entries=ENTRIES):
    journal = Journal(path)
    sizes = [0]
    for entry in entries:
        journal.append(entry)
        sizes.append(journal.size)
    journal.close()
    return sizes


def read(path):
    journal = Journal(path)
    journal.close()
    return journal.entries


def test_there_and_back(tmp_path):
    written(tmp_path / "j")
    assert read(tmp_path / "j") == ENTRIES
    written(tmp_path / "j", [{"more": True}])
    assert read(tmp_path / "j") == [*ENTRIES, {"more": True}]


def test_cut_off_at_every_byte(tmp_path):
    sizes = written(tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    for length in range(len(data) + 1):
        path = tmp_path / "cut"
        path.write_bytes(data[:length])
        whole = sum(size <= length for size in sizes[1:])
        assert read(path) == ENTRIES[:whole]
        assert path.stat().st_size == sizes[whole]
        written(path, [{"after": length}])
        assert read(path) == [*ENTRIES[:whole], {"after": length}]
        path.unlink()


def test_damage_in_the_middle_is_told(tmp_path):
    rng = random.Random(1)
    sizes = written(tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    for place in rng.sample(range(sizes[2]), 60):
        path = tmp_path / "damaged"
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(StateError, match="is damaged at byte"):
            Journal(path)
        assert path.read_bytes()[place] == data[place] ^ 1  # as it was found


def test_replaced_at_once(tmp_path):
    journal = Journal(tmp_path / "j")
    for entry in ENTRIES:
        journal.append(entry)
    journal.replace([{"all": 3}])
    journal.append({"then": 1})
    journal.close()
    assert read(tmp_path / "j") == [{"all": 3}, {"then": 1}]
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


def test_what_a_crash_left_of_a_replacement_is_removed(tmp_path):
    written(tmp_path / "j")
    (tmp_path / "j.new").write_bytes(b"half")
    assert read(tmp_path / "j") == ENTRIES
    assert not (tmp_path / "j.new").exists()


def test_a_place_that_cannot_be_used(tmp_path):
    with pytest.raises(StateError, match="cannot be used"):
        Journal(tmp_path / "nowhere" / "j")


@contextlib.contextmanager
def small_files():
    """Files may be no larger than this; the system takes a part of what is written, then none.

    Around single calls only: the limit is the whole process's, and the tests' own report may go
    to a file that is longer.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(tmp_path):
    """What could not be written is not there, and the next that fits is."""
    journal = Journal(tmp_path / "j")
    journal.append({"small": 1})
    for _ in range(2):
        with small_files(), pytest.raises(StateError, match="cannot be written: .*File too large"):
            journal.append({"large": "x" * 5_000})
        with small_files(), pytest.raises(StateError, match="cannot be written: .*File too large"):
            journal.replace([{"large": "x" * 5_000}])
    assert [path.name for path in tmp_path.iterdir()] == ["j"]
    assert (tmp_path / "j").stat().st_size == journal.size
    journal.append({"small": 2})
    journal.close()
    assert read(tmp_path / "j") == [{"small": 1}, {"small": 2}]


class BrokenFile(io.FileIO):
    """One that cannot even be cut."""

    def truncate(self, size=None):
        raise OSError(5, "Input/output error")


def test_nothing_is_taken_any_more_when_nobody_knows_what_stands_in_it(tmp_path):
    journal = Journal(tmp_path / "j")
    journal.append({"small": 1})
    journal._file.close()
    journal._file = BrokenFile(tmp_path / "j", "r+")
    with small_files(), pytest.raises(StateError, match="File too large"):
        journal.append({"large": "x" * 5_000})
    with pytest.raises(StateError, match="takes no more; start the cluster again"):
        journal.append({"small": 2})
    journal.close()
    assert read(tmp_path / "j") == [{"small": 1}]
