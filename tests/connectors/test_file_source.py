"""FileSource: every line exactly once, however files are cut, packed, followed and restored."""

import asyncio
import gzip
import os
import random
from pathlib import Path

import msgpack
import pytest
import zstandard

import streamline as sl
from streamline.clock import ManualClock
from streamline.codec import decode, encode
from streamline.connectors.files import FileSource
from streamline.connectors.files.partitions import Stripe
from streamline.errors import ConnectorError, DecodeError, UsageError
from streamline.formats import Csv, Json, MsgPack, Raw, Text
from streamline.testing import CollectingSink, run_job
from tests.connectors.reading import Readers, now, read_all, reader_context


class Point(sl.Record):
    x: int
    name: str


CASES = {
    "empty": b"",
    "one": b"a\n",
    "one without an end": b"a",
    "only an end": b"\n",
    "empty lines": b"\n\na\n\n\nb\n\n",
    "plain": b"".join(b"line-%d\n" % number for number in range(9)),
    "no trailing newline": b"aa\nb\n\ncccc\nd",
    "crlf": b"aa\r\nb\r\n\r\nccc\r\n",
    "long lines": b"x" * 30 + b"\n" + b"y" + b"\n" + b"z" * 25 + b"\n" + b"w" * 40,
    "single bytes": b"a\nb\nc\nd\ne\nf\n",
}


def lines_of(data):
    return [line for line in data.split(b"\n") if line.strip()]


def numbered(count):
    return b"".join(b"%d,%s\n" % (number, b"v" * (number % 7)) for number in range(count))


# ---------------------------------------------------------------------- which files


def names_of(source):
    return [Path(Stripe.parse(name).path).name for name in now(source.discover())]


def test_a_file_a_folder_and_a_pattern(tmp_path):
    for name in ("b.txt", "a.txt", "c.log", "sub/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() + b"\n")
    assert read_all(FileSource(tmp_path / "b.txt", Text())) == ["b.txt"]
    assert names_of(FileSource(tmp_path, Text())) == ["a.txt", "b.txt", "c.log", "d.txt"]
    assert names_of(FileSource(tmp_path / "*.txt", Text())) == ["a.txt", "b.txt"]
    assert names_of(FileSource(str(tmp_path / "**" / "*.txt"), Text())) == [
        "a.txt",
        "b.txt",
        "d.txt",
    ]
    assert names_of(FileSource(tmp_path / "[bc].*", Text())) == ["b.txt", "c.log"]


def test_hidden_files_are_left_out(tmp_path):
    for name in ("a", ".hidden", ".pending/part", "sub/.x", "sub/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1\n")
    assert names_of(FileSource(tmp_path, Text())) == ["a", "b"]
    assert names_of(FileSource(tmp_path / "*", Text())) == ["a"]
    assert names_of(FileSource(tmp_path / "**", Text())) == ["a", "b"]


def test_a_folder_below_a_hidden_one_may_be_read(tmp_path):
    folder = tmp_path / ".cache" / "data"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"1\n")
    assert names_of(FileSource(folder, Text())) == ["a"]


def test_a_name_with_the_signs_of_a_pattern_or_a_partition_is_a_file(tmp_path):
    for name in ("a[1].txt", "b#0000-1-5-7", "c*"):
        (tmp_path / name).write_bytes(name.encode())
        assert read_all(FileSource(tmp_path / name, Text())) == [name]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing.txt", "does not exist; check the path"),
        ("*.nothing", "no file matches"),
        ("empty", "has no files to read"),
        ("hidden", "has no files to read"),
    ],
)
def test_nothing_to_read_is_an_error(tmp_path, path, reason):
    (tmp_path / "empty").mkdir()
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".x").write_bytes(b"")
    with pytest.raises(ConnectorError, match=reason) as caught:
        now(FileSource(tmp_path / path, Text()).discover())
    assert path in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [{"split_bytes": 0}, {"partitions": 0}, {"poll_every": "0s"}, {"poll_every": "soon"}],
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(UsageError, match=next(iter(settings))):
        FileSource("x", Text(), **settings)
    with pytest.raises(UsageError, match="needs a format"):
        FileSource("x", Text)


def test_partitions_are_the_same_every_time(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(numbered(50))
    source = FileSource(tmp_path, Text(), split_bytes=16, partitions=3)
    names = now(source.discover())
    assert names == now(source.discover()) == sorted(names)
    assert len(set(names)) == len(names) == 9
    assert [Stripe.parse(name).name() for name in names] == names


# ---------------------------------------------------------------------- every line once


@pytest.mark.parametrize("name", CASES)
def test_every_line_once_however_it_is_cut(tmp_path, name):
    data = CASES[name]
    path = tmp_path / "in"
    path.write_bytes(data)
    expected = lines_of(data)
    for split_bytes in range(1, len(data) + 2):
        for partitions in range(1, 9):
            source = FileSource(path, Raw(), split_bytes=split_bytes, partitions=partitions)
            found = read_all(source, batch_rows=1 + split_bytes % 3)
            assert sorted(found) == sorted(expected), (split_bytes, partitions)
            if split_bytes > max(map(len, data.split(b"\n"))):
                assert found == expected, (split_bytes, partitions)  # one reader reads in order


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("name", CASES)
def test_every_line_once_by_several_readers(tmp_path, name, count):
    data = CASES[name]
    path = tmp_path / "in"
    path.write_bytes(data)
    for split_bytes in range(1, len(data) + 2, 2):
        for partitions in (2, 3, 8):
            source = FileSource(path, Raw(), split_bytes=split_bytes, partitions=partitions)
            found = read_all(source, count, batch_rows=2)
            assert sorted(found) == sorted(lines_of(data)), (split_bytes, partitions)


@pytest.mark.parametrize("data", [b"", b"x,name\n", b"x,name", b"x,name\n1,a\n22,b\n\n333,c"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_header_is_read_by_nobody(tmp_path, data, count):
    path = tmp_path / "in.csv"
    path.write_bytes(data)
    expected = [(int(x), name) for x, name in (b.decode().split(",") for b in lines_of(data)[1:])]
    for split_bytes in range(1, len(data) + 2):
        for partitions in range(1, 9):
            source = FileSource(path, Csv(Point), split_bytes=split_bytes, partitions=partitions)
            found = [(point.x, point.name) for point in read_all(source, count, batch_rows=2)]
            assert sorted(found) == expected, (split_bytes, partitions)


def test_every_file_has_its_header(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.csv").write_bytes(b"x,name\n%d,a\n%d,b\n" % (number, number + 10))
    found = read_all(FileSource(tmp_path, Csv(Point), split_bytes=3), 2)
    assert sorted(point.x for point in found) == [0, 1, 2, 10, 11, 12]


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_both_layouts(tmp_path, layout):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(b'{"x":%d,"name":"n%d"}\n' % (n, n) for n in range(100)))
    source = FileSource(path, Json(Point), split_bytes=50)
    found = read_all(source, 2, layout=layout)
    assert sorted(point.x for point in found) == list(range(100))
    assert {type(point) for point in found} == {Point}


def test_bytes_are_counted(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(numbered(500))
    with Readers(FileSource(path, Raw(), split_bytes=64), 3) as readers:
        readers.read_all()
        assert readers.counted("bytes_in") == len(numbered(500))


def test_batches_have_about_as_many_rows_as_wished(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(b"x" * 20 + b"\n" + b"0123456\n" * 5000)
    with Readers(FileSource(path, Raw()), batch_rows=100) as readers:
        readers.read_all()
        # How long a line is, is learned from the first ones.
        assert max(len(batch) for batch in readers.batches[1:]) <= 200
        assert len(readers.batches) <= 100


def test_more_files_than_may_be_open(tmp_path):
    for number in range(150):
        (tmp_path / f"{number:03d}").write_bytes(b"%d\n%d\n" % (number, number + 1000))
    with Readers(FileSource(tmp_path, Raw(), split_bytes=1), batch_rows=1) as readers:
        found = sorted(map(int, readers.read_all()))
        assert found == [*range(150), *range(1000, 1150)]
        assert not readers.readers[0]._files  # what has been read is closed


# ---------------------------------------------------------------------- packed files


def pack_gzip(data):
    return gzip.compress(data)


def pack_gzip_members(data):
    middle = len(data) // 2
    return gzip.compress(data[:middle]) + gzip.compress(b"") + gzip.compress(data[middle:])


def pack_zstd(data):
    return zstandard.compress(data)


def pack_zstd_frames(data):
    middle = len(data) // 3
    return zstandard.compress(data[:middle]) + zstandard.compress(data[middle:])


PACKED = [
    (".gz", pack_gzip),
    (".gz", pack_gzip_members),
    (".zst", pack_zstd),
    (".zst", pack_zstd_frames),
]
PACKED_IDS = ["gzip", "gzip members", "zstd", "zstd frames"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("suffix", "pack"), PACKED, ids=PACKED_IDS)
def test_packed_files(tmp_path, suffix, pack, name):
    path = tmp_path / f"in{suffix}"
    path.write_bytes(pack(CASES[name]))
    for batch_rows in (1, 2, 100):
        source = FileSource(path, Raw(), split_bytes=3)
        assert read_all(source, 2, batch_rows=batch_rows) == lines_of(CASES[name])


@pytest.mark.parametrize(("suffix", "pack"), PACKED, ids=PACKED_IDS)
def test_packed_files_are_restored_within(tmp_path, suffix, pack):
    path = tmp_path / f"in{suffix}"
    path.write_bytes(pack(numbered(300)))
    check_restore_everywhere(FileSource(path, Raw()), lines_of(numbered(300)), batch_rows=40)


def test_a_packed_file_of_csv(tmp_path):
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress(b"x,name\n1,a\n2,b\n"))
    found = read_all(FileSource(tmp_path, Csv(Point)))
    assert [point.x for point in found] == [1, 2]


@pytest.mark.parametrize(("suffix", "pack"), PACKED, ids=PACKED_IDS)
@pytest.mark.parametrize("harm", ["cut off", "garbage"])
def test_a_damaged_packed_file_is_an_error(tmp_path, suffix, pack, harm):
    rng = random.Random(1)
    data = b"".join(b"%d\n" % rng.randrange(1 << 60) for _ in range(5000))
    packed = pack(data)
    path = tmp_path / f"in{suffix}"
    path.write_bytes(packed[:-2000] if harm == "cut off" else b"garbage that is no archive")
    with pytest.raises(ConnectorError) as caught:
        read_all(FileSource(path, Raw()), batch_rows=1000)
    assert "source 'in'" in str(caught.value) and str(path) in str(caught.value)


# ---------------------------------------------------------------------- snapshots


def check_restore_everywhere(source, expected, *, batch_rows=3, counts=(1, 2, 3)):
    """Snapshot after every number of polls, restore into another number of readers."""
    for count in counts:
        polls = 0
        while True:
            with Readers(source, count, batch_rows=batch_rows) as readers:
                read = list(readers.poll_some(polls).values)
                positions = decode(encode(readers.snapshot()))
                ended = not readers.active
            for other in counts:
                if (polls + other) % 2 and len(counts) > 2 and other != count:
                    continue  # half of them is enough
                with Readers(source, other, positions, batch_rows=batch_rows) as restored:
                    rest = restored.read_all()
                    assert sorted(read + rest) == sorted(expected), (count, polls, other)
                    again = decode(encode(restored.snapshot()))
                with Readers(source, 1, again) as nothing:
                    assert nothing.read_all() == []
            if ended:
                break
            polls += 1


@pytest.mark.parametrize("name", CASES)
def test_restore_anywhere_gives_exactly_the_rest(tmp_path, name):
    path = tmp_path / "in"
    path.write_bytes(CASES[name])
    for split_bytes in (1, 2, 5, 1000):
        source = FileSource(path, Raw(), split_bytes=split_bytes, partitions=4)
        check_restore_everywhere(source, lines_of(CASES[name]), batch_rows=1)


def test_restore_anywhere_of_a_folder(tmp_path):
    expected = []
    for number, length in enumerate((0, 1, 5, 17)):
        data = b"".join(b"%d-%d\n" % (number, line) for line in range(length))
        (tmp_path / f"{number}.csv").write_bytes(data)
        expected += lines_of(data)
    source = FileSource(tmp_path, Raw(), split_bytes=7, partitions=3)
    check_restore_everywhere(source, expected, batch_rows=2)


def test_restore_anywhere_with_a_header(tmp_path):
    path = tmp_path / "in.csv"
    path.write_bytes(b"x,name\n" + b"".join(b"%d,n\n" % number for number in range(20)))
    for split_bytes in (1, 4, 30):
        source = FileSource(path, Csv(Point), split_bytes=split_bytes, partitions=3)
        expected = [Point(number, "n") for number in range(20)]
        check = [(point.x, point.name) for point in expected]
        for polls in range(25):
            with Readers(source, 2, batch_rows=2) as readers:
                read = list(readers.poll_some(polls).values)
                positions = readers.snapshot()
            rest = read_all(source, 3, positions)
            assert sorted((point.x, point.name) for point in read + rest) == check


@pytest.mark.parametrize("seed", range(30))
def test_many_restores_in_a_row(tmp_path, seed):
    rng = random.Random(seed)
    expected = []
    for number in range(rng.randrange(1, 4)):
        lines = [rng.randbytes(rng.randrange(12)).hex().encode() for _ in range(rng.randrange(80))]
        ending = rng.choice([b"\n", b""])
        (tmp_path / f"{number}").write_bytes(b"\n".join(lines) + ending)
        expected += [line for line in lines if line]
    source = FileSource(
        tmp_path, Raw(), split_bytes=rng.randrange(1, 60), partitions=rng.randrange(1, 9)
    )
    positions, found = None, []
    while True:
        with Readers(
            source, rng.randrange(1, 5), positions, batch_rows=rng.randrange(1, 9)
        ) as readers:
            found += readers.poll_some(rng.randrange(1, 12)).values
            positions = decode(encode(readers.snapshot()))
            if not readers.active:
                break
    assert sorted(found) == sorted(expected)


def test_lines_that_were_appended_since_it_was_dealt_out_are_not_read_twice(tmp_path):
    """A job that ends reads what there was when it began; it may as well have more."""
    path = tmp_path / "in"
    path.write_bytes(numbered(20))
    source = FileSource(path, Raw(), split_bytes=16, partitions=3)
    with Readers(source, 2, batch_rows=2) as readers:
        read = list(readers.poll_some(4).values)
        positions = readers.snapshot()
    with path.open("ab") as file:
        file.write(b"later\n" * 20)
    rest = read_all(source, 3, positions)
    assert sorted(read + rest) == sorted(lines_of(numbered(20)))


def test_active_becomes_empty_with_the_last_record(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(numbered(30))
    (tmp_path / "empty").write_bytes(b"")
    with Readers(FileSource(tmp_path, Raw(), split_bytes=9), 2, batch_rows=5) as readers:
        assert all(reader.active for reader in readers.readers)
        readers.read_all()
        assert readers.active == set()
        positions = readers.snapshot()
    with Readers(FileSource(tmp_path, Raw(), split_bytes=9), 3, positions) as readers:
        assert readers.active == set()
        assert readers.snapshot() == positions


def test_a_snapshot_has_every_partition_ever_assigned(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(numbered(30))
    source = FileSource(tmp_path, Raw(), split_bytes=9, partitions=3)
    names = set(now(source.discover()))
    with Readers(source, 2, batch_rows=4) as readers:
        assert readers.snapshot().keys() == names
        while readers.active:
            readers.poll()
            assert readers.snapshot().keys() == names


# ---------------------------------------------------------------------- following


def test_follow_sees_what_is_appended(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"a\nb\n")
    source = FileSource(path, Text(), follow=True)
    assert not source.bounded
    with Readers(source) as readers:
        assert readers.read_what_is_there() == ["a", "b"]
        with path.open("ab") as file:
            file.write(b"c\nd")
            file.flush()
            assert readers.read_what_is_there() == ["a", "b", "c"]
            assert not readers.poll()  # half a line is none
            file.write(b"ee")
            file.flush()
            assert not readers.poll()
            file.write(b"f\n\ng\n")
        assert readers.read_what_is_there() == ["a", "b", "c", "deef", "g"]
        assert readers.active


def test_follow_is_restored_within_a_half_written_line(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"a\nbb\nha")
    source = FileSource(path, Text(), follow=True)
    with Readers(source) as readers:
        assert readers.read_what_is_there() == ["a", "bb"]
        positions = decode(encode(readers.snapshot()))
    with path.open("ab") as file:
        file.write(b"lf\nc\n")
    with Readers(source, 2, positions) as readers:
        assert readers.read_what_is_there() == ["half", "c"]


@pytest.mark.parametrize("begun", [b"", b"x,na", b"x,name"])
def test_follow_a_half_written_header(tmp_path, begun):
    path = tmp_path / "log.csv"
    path.write_bytes(begun)
    with Readers(FileSource(path, Csv(Point), follow=True)) as readers:
        assert readers.read_what_is_there() == []
        positions = decode(encode(readers.snapshot()))
        with path.open("ab") as file:
            file.write(b"x,name\n1,a\n"[len(begun) :])
        assert [point.x for point in readers.read_what_is_there()] == [1]
    with Readers(FileSource(path, Csv(Point), follow=True), 1, positions) as readers:
        assert [point.x for point in readers.read_what_is_there()] == [1]


def test_follow_finds_new_files(tmp_path):
    (tmp_path / "a").write_bytes(b"a1\n")
    source = FileSource(tmp_path, Text(), follow=True)
    with Readers(source, 2) as readers:
        known = set(now(source.discover()))
        assert readers.read_what_is_there() == ["a1"]
        (tmp_path / "b").write_bytes(b"b1\n")
        with (tmp_path / "a").open("ab") as file:
            file.write(b"a2\n")
        new = set(now(source.discover())) - known
        assert len(new) == 1
        readers.readers[1].assign(dict.fromkeys(new))
        assert sorted(readers.read_what_is_there()) == ["a1", "a2", "b1"]
        assert readers.snapshot().keys() == known | new


def test_follow_a_folder_that_is_empty_still(tmp_path):
    source = FileSource(tmp_path, Text(), follow=True)
    assert now(source.discover()) == []
    with Readers(source) as readers:
        assert not readers.poll()
        (tmp_path / "a").write_bytes(b"a1\n")
        readers.assign(dict.fromkeys(now(source.discover())))
        assert readers.read_what_is_there() == ["a1"]


def positions_of(source, polls=1000):
    with Readers(source, batch_rows=3) as readers:
        readers.poll_some(polls)
        return readers.snapshot(), readers.values


def test_a_whole_file_has_one_name_whatever_the_pieces(tmp_path):
    (tmp_path / "in.txt").write_bytes(numbered(9))
    for follow in (True, False):
        names = [
            now(FileSource(tmp_path, Raw(), follow=follow, split_bytes=size).discover())
            for size in (1 << 19, 1 << 20)
        ]
        assert names[0] == names[1]


@pytest.mark.parametrize("before", ["follow", "an older version", "bounded", "bounded to the end"])
def test_following_goes_on_from_every_checkpoint_of_a_whole_file(tmp_path, before):
    path = tmp_path / "in.txt"
    path.write_bytes(numbered(9))
    source = FileSource(path, Raw(), follow=not before.startswith("bounded"))
    positions, first = positions_of(source, 1000 if before.endswith("end") else 1)
    if before == "an older version":
        positions = {f"{path}#0000-1-524288-": next(iter(positions.values()))}
    path.write_bytes(numbered(12))
    source = FileSource(path, Raw(), follow=True, split_bytes=7)
    known = source.adopt(positions)
    assert known.keys() == set(now(source.discover()))
    with Readers(source, 1, known) as readers:
        assert first + readers.read_what_is_there() == lines_of(numbered(12))


def test_what_was_read_in_parts_is_not_followed(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(numbered(50))
    positions, _ = positions_of(FileSource(path, Raw(), split_bytes=32), 2)
    assert len(positions) > 1
    with pytest.raises(ConnectorError, match="parts and cannot be followed.*without follow=True"):
        FileSource(path, Raw(), follow=True).adopt(positions)


def test_parts_that_are_known_stay_as_they_were_cut(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(numbered(50))
    positions, first = positions_of(FileSource(path, Raw(), split_bytes=32), 2)
    source = FileSource(path, Raw(), split_bytes=17)
    rest = read_all(source, 2, source.adopt(positions))
    assert sorted(first + rest) == sorted(lines_of(numbered(50)))


def test_a_job_that_follows_goes_on_with_other_pieces(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(numbered(9))
    results = []
    for split_bytes, count in ((1 << 19, 9), (1 << 10, 12)):
        path.write_bytes(numbered(count))
        job, sink = sl.Job("following"), CollectingSink()
        source = FileSource(tmp_path, Raw(), follow=True, split_bytes=split_bytes)
        job.source("in", source).sink("out", sink)
        wanted = count - len(results)
        run_job(job, until=lambda: len(sink.records) >= wanted, folder=tmp_path / ".state")
        results += sink.records
    assert results == lines_of(numbered(12))


def test_a_missing_file_cannot_be_followed(tmp_path):
    with pytest.raises(ConnectorError, match="does not exist"):
        now(FileSource(tmp_path / "x", Text(), follow=True).discover())


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_packed_file_cannot_be_followed(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"")
    with pytest.raises(ConnectorError, match="cannot be followed"):
        now(FileSource(tmp_path, Text(), follow=True).discover())


def test_a_quiet_file_does_not_keep_others_waiting(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(b"%s0\n" % name.encode())
    source = FileSource(tmp_path, Text(), follow=True)
    marks = {}
    with Readers(source, watermarks=marks) as readers:
        readers.read_what_is_there()
        marks |= {name: number for number, name in enumerate(now(source.discover()))}
        for number in range(1, 10):
            for name in "cb":
                with (tmp_path / name).open("ab") as file:
                    file.write(b"%s%d\n" % (name.encode(), number))
            readers.read_what_is_there()
        assert sorted(readers.values) == sorted(
            ["a0", *(f"{name}{number}" for name in "bc" for number in range(10))]
        )


def test_a_long_half_written_line(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"a\n" + b"x" * 5000)
    with Readers(FileSource(path, Text(), follow=True), batch_rows=1) as readers:
        assert readers.read_what_is_there() == ["a"]
        with path.open("ab") as file:
            file.write(b"y\nb\n")
        assert readers.read_what_is_there() == ["a", "x" * 5000 + "y", "b"]


def test_waiting_takes_as_long_as_was_said(tmp_path):
    (tmp_path / "a").write_bytes(b"a\n")

    async def wait(source):
        reader = source.reader()
        await reader.open(reader_context())
        await asyncio.wait_for(reader.wait(), 5)
        await reader.close()

    asyncio.run(wait(FileSource(tmp_path, Text(), follow=True, poll_every="1ms")))
    asyncio.run(wait(FileSource(tmp_path, Text())))


# ---------------------------------------------------------------------- MessagePack


def packed_values():
    return [
        {"n": 1},
        [1, [2, [3]]],
        "x" * 5000,
        b"",
        None,
        {"deep": {"a": ["b" * 300]}},
        b"y" * 9000,
        *range(-5, 5),
        2.5,
        "",
    ]


@pytest.mark.parametrize("split_bytes", [1, 7, 100, 10_000])
@pytest.mark.parametrize("count", [1, 3])
def test_lag_is_what_has_not_been_read(tmp_path, split_bytes, count):
    """In bytes: of all readers together, however files are cut; lines go over the cuts."""
    clock = ManualClock()
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(numbered(200))
    whole = 2 * len(numbered(200))
    source = FileSource(tmp_path, Raw(), split_bytes=split_bytes)
    with Readers(source, count, batch_rows=13, clock=clock) as readers:

        def lag():
            clock.advance(1_000)
            return sum(reader.lag_bytes or 0 for reader in readers.readers)

        before = lag()
        assert before == whole
        while readers.active:
            readers.poll()
            left = lag()
            assert left <= before
            if split_bytes >= 100:  # a line that goes over a cut is read by who has its beginning
                assert abs(whole - readers.counted("bytes_in") - left) <= 16 * 2 * 8
            before = left
        assert before == 0


def test_lag_of_files_that_are_followed_or_packed(tmp_path):
    clock = ManualClock()
    (tmp_path / "a").write_bytes(b"1\n2\n")
    with Readers(FileSource(tmp_path, Raw(), follow=True), clock=clock) as readers:
        (reader,) = readers.readers
        assert reader.lag_bytes == 4
        readers.poll()
        assert reader.lag_bytes == 4  # files are looked at once a second
        clock.advance(1_000)
        assert reader.lag_bytes == 0
        with (tmp_path / "a").open("ab") as file:
            file.write(b"33\n")
        clock.advance(1_000)
        assert reader.lag_bytes == 3
        (tmp_path / "a").unlink()
        clock.advance(1_000)
        assert reader.lag_bytes is None
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"1\n"))
    with Readers(FileSource(tmp_path / "b.gz", Raw()), clock=clock) as readers:
        assert readers.readers[0].lag_bytes is None  # how long it is when unpacked is not known


@pytest.mark.parametrize("batch_rows", [1, 2, 7, 1000])
def test_messagepack_values_across_reads(tmp_path, batch_rows):
    values = packed_values() * 3
    path = tmp_path / "in.msgpack"
    path.write_bytes(b"".join(map(msgpack.packb, values)))
    source = FileSource(path, MsgPack(), split_bytes=3)
    with Readers(source, 2, batch_rows=batch_rows) as readers:
        assert readers.read_all() == values
        assert max(len(batch) for batch in readers.batches) <= batch_rows
        assert readers.counted("bytes_in") == path.stat().st_size


def test_messagepack_is_restored_anywhere(tmp_path):
    values = packed_values()
    path = tmp_path / "in.msgpack"
    path.write_bytes(b"".join(map(msgpack.packb, values)))
    source = FileSource(path, MsgPack())
    for polls in range(30):
        with Readers(source, batch_rows=2) as readers:
            read = list(readers.poll_some(polls).values)
            positions = decode(encode(readers.snapshot()))
        assert read + read_all(source, 2, positions) == values


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_messagepack_value_that_is_cut_off(tmp_path, cut):
    path = tmp_path / "in.msgpack"
    whole, half = msgpack.packb({"a": 1}), msgpack.packb("b" * 11)
    path.write_bytes(whole + half[:cut])
    with Readers(FileSource(path, MsgPack())) as readers:
        assert readers.poll()
        with pytest.raises(DecodeError, match="cut off") as caught:
            readers.poll()
    assert readers.values == [{"a": 1}]
    text = str(caught.value)
    assert "source 'in'" in text and str(path) in text and f"byte {len(whole)}:" in text


def test_messagepack_is_followed(tmp_path):
    path = tmp_path / "in.msgpack"
    data = b"".join(map(msgpack.packb, packed_values()))
    path.write_bytes(b"")
    rng = random.Random(3)
    with Readers(FileSource(path, MsgPack(), follow=True)) as readers:
        at = 0
        while at < len(data):
            end = min(len(data), at + rng.choice([1, 2, 100, 4000]))
            with path.open("ab") as file:
                file.write(data[at:end])
            at = end
            readers.read_what_is_there()
        assert readers.values == packed_values()


def test_packed_messagepack(tmp_path):
    path = tmp_path / "in.msgpack.gz"
    path.write_bytes(gzip.compress(b"".join(map(msgpack.packb, packed_values()))))
    assert read_all(FileSource(path, MsgPack()), batch_rows=3) == packed_values()


@pytest.mark.parametrize("follow", [False, True])
def test_a_byte_that_is_never_messagepack(tmp_path, follow):
    path = tmp_path / "in.msgpack"
    path.write_bytes(msgpack.packb(1) + b"\xc1" + msgpack.packb(2))
    with Readers(FileSource(path, MsgPack(), follow=follow)) as readers:
        with pytest.raises((ConnectorError, DecodeError)) as caught:
            for _ in range(5):
                readers.poll()
    assert str(path) in str(caught.value)


# ---------------------------------------------------------------------- files that misbehave


@pytest.mark.parametrize("count", [1, 3])
def test_a_file_that_shrank_is_an_error(tmp_path, count):
    path = tmp_path / "in"
    path.write_bytes(numbered(100))
    source = FileSource(path, Raw(), split_bytes=32)
    with Readers(source, count, batch_rows=4) as readers:
        readers.poll_some(count)
        path.write_bytes(numbered(5))
        with pytest.raises(ConnectorError, match="has become shorter"):
            readers.read_all()


@pytest.mark.parametrize("polls", range(0, 12, 3))
def test_a_file_that_shrank_before_a_restore_is_an_error(tmp_path, polls):
    path = tmp_path / "in"
    path.write_bytes(numbered(30))
    source = FileSource(path, Raw(), split_bytes=32, partitions=4)
    with Readers(source, 2, batch_rows=3) as readers:
        positions = readers.poll_some(polls).snapshot()
    path.write_bytes(numbered(30)[:-3])
    with pytest.raises(ConnectorError, match="has become shorter"):
        read_all(source, 3, positions)


def test_a_followed_file_that_shrank_is_an_error(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(numbered(10))
    source = FileSource(path, Raw(), follow=True)
    with Readers(source) as readers:
        readers.read_what_is_there()
        positions = readers.snapshot()
        path.write_bytes(b"0,\n")
        with pytest.raises(ConnectorError, match="has become shorter"):
            readers.poll()
    with Readers(source, 2, positions) as readers:
        with pytest.raises(ConnectorError, match="has become shorter"):
            readers.poll_some(2)


def test_a_file_that_is_gone_when_it_is_opened(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(numbered(10))
    with Readers(FileSource(path, Raw())) as readers:
        path.unlink()
        with pytest.raises(ConnectorError, match="source 'in': .* cannot be read") as caught:
            readers.read_all()
    assert str(path) in str(caught.value)


def test_a_file_that_is_a_folder_when_it_is_opened(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(numbered(10))
    with Readers(FileSource(path, Raw())) as readers:
        path.unlink()
        path.mkdir()
        with pytest.raises(ConnectorError, match="source 'in': .* cannot be read"):
            readers.read_all()


def test_a_file_without_access_is_named(tmp_path, monkeypatch):
    path = tmp_path / "in"
    path.write_bytes(numbered(10))
    path.chmod(0)
    # The superuser may read it all the same.
    monkeypatch.setattr(os, "access", lambda file, mode: Path(file) != path)
    with pytest.raises(ConnectorError, match="permission denied") as caught:
        now(FileSource(tmp_path, Raw()).discover())
    assert str(path) in str(caught.value)


def test_a_broken_link_is_not_a_file_to_read(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConnectorError, match="does not exist"):
        now(FileSource(tmp_path / "link", Raw()).discover())
    (tmp_path / "a").write_bytes(b"1\n")
    assert names_of(FileSource(tmp_path, Raw())) == ["a"]


# ---------------------------------------------------------------------- bad records

BAD = (
    b'{"x":1,"name":"a"}\n\n{"x":"no"}\n{"x":2,"name":"b"}\n  \nnot json at all\n{"x":3,"name":"c"}'
)


def offsets_of(data, *parts):
    return [data.index(part) for part in parts]


@pytest.mark.parametrize("split_bytes", [1, 7, 30, 1000])
def test_a_bad_record_fails_and_is_shown(tmp_path, split_bytes):
    path = tmp_path / "in.jsonl"
    path.write_bytes(BAD)
    source = FileSource(path, Json(Point), split_bytes=split_bytes)
    assert not source.dead_letters
    with pytest.raises(DecodeError) as caught:
        read_all(source)
    text = str(caught.value)
    offset = BAD.index(b'{"x":"no')
    assert f"source 'in', file {path}, byte {offset}: " in text
    assert repr(b'{"x":"no"}') in text
    assert "on_error=" in text


def test_a_long_bad_record_is_shown_in_part(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"1\n" + b"y" * 100_000 + b"\n")
    with pytest.raises(DecodeError, match=r"byte 2: .*\.\.\. \(") as caught:
        read_all(FileSource(path, Json()))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("split_bytes", [1, 7, 30, 1000])
def test_bad_records_are_skipped_and_counted(tmp_path, split_bytes, layout):
    path = tmp_path / "in.jsonl"
    path.write_bytes(BAD)
    source = FileSource(path, Json(Point, on_error="skip"), split_bytes=split_bytes)
    with Readers(source, 2, layout=layout) as readers:
        assert sorted(point.x for point in readers.read_all()) == [1, 2, 3]
        assert readers.counted("skipped") == 2
        assert readers.counted("dead_letters") == 0


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("batch_rows", [1, 3, 100])
@pytest.mark.parametrize("split_bytes", [1, 7, 30, 1000])
def test_bad_records_become_dead_letters(tmp_path, split_bytes, batch_rows, layout):
    path = tmp_path / "in.jsonl"
    path.write_bytes(BAD)
    source = FileSource(path, Json(Point, on_error="dead_letter"), split_bytes=split_bytes)
    assert source.dead_letters
    letters = []
    with Readers(source, 2, batch_rows=batch_rows, layout=layout, dead_letters=letters) as readers:
        assert sorted(point.x for point in readers.read_all()) == [1, 2, 3]
        assert readers.counted("dead_letters") == 2
        assert readers.counted("skipped") == 0
    letters.sort(key=lambda letter: letter.offset)
    bad = [b'{"x":"no"}', b"not json at all"]
    assert [letter.data for letter in letters] == bad
    assert [letter.offset for letter in letters] == offsets_of(BAD, *bad)
    assert {(letter.node, letter.partition) for letter in letters} == {("in", str(path))}
    assert all(letter.reason for letter in letters)


def test_offsets_in_packed_files_are_those_of_the_unpacked(tmp_path):
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(BAD))
    letters = []
    source = FileSource(path, Json(Point, on_error="dead_letter"))
    with Readers(source, batch_rows=1, dead_letters=letters) as readers:
        readers.read_all()
    assert [letter.offset for letter in letters] == offsets_of(BAD, b'{"x":"no"}', b"not json")


def test_offsets_of_csv_count_the_header(tmp_path):
    data = b"x,name\n1,a\nzwei,b\r\n3\n4,d\n"
    path = tmp_path / "in.csv"
    path.write_bytes(data)
    letters = []
    source = FileSource(path, Csv(Point, on_error="dead_letter"), split_bytes=5)
    with Readers(source, 2, dead_letters=letters) as readers:
        assert sorted(point.x for point in readers.read_all()) == [1, 4]
    found = {letter.offset: letter.data.rstrip(b"\r") for letter in letters}
    assert found == {data.index(b"zwei"): b"zwei,b", data.index(b"3\n"): b"3"}


def test_bad_messagepack_values(tmp_path):
    values = [{"x": 1, "name": "a"}, {"x": "no"}, 7, {"x": 2, "name": "b"}]
    packed = [msgpack.packb(value) for value in values]
    path = tmp_path / "in.msgpack"
    path.write_bytes(b"".join(packed))
    letters = []
    source = FileSource(path, MsgPack(Point, on_error="dead_letter"))
    with Readers(source, dead_letters=letters) as readers:
        assert [point.x for point in readers.read_all()] == [1, 2]
    assert [letter.data for letter in letters] == packed[1:3]
    assert [letter.offset for letter in letters] == [len(packed[0]), len(packed[0] + packed[1])]


def test_nothing_but_bad_records_lets_others_have_their_turn(tmp_path):
    """A poll comes back now and then, and a snapshot is right in the middle of it."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"bad\n" * 9000 + b"1\n")
    source = FileSource(path, Json(on_error="skip"))
    with Readers(source, batch_rows=10) as readers:
        assert not readers.poll()
        skipped = readers.counted("skipped")
        assert 0 < skipped < 9000
        positions = readers.snapshot()
    with Readers(source, positions=positions) as readers:
        assert readers.read_all() == [1]
        assert readers.counted("skipped") == 9000 - skipped


def test_text_that_is_not_utf8(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(b"a\n\xff\xfe\nb\n")
    letters = []
    source = FileSource(path, Text(on_error="dead_letter"))
    with Readers(source, dead_letters=letters) as readers:
        assert readers.read_all() == ["a", "b"]
    assert [(letter.offset, letter.data) for letter in letters] == [(2, b"\xff\xfe")]


# ---------------------------------------------------------------------- order of event time


def test_every_file_is_looked_at_before_any_is_read_on(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(b"".join(b"%s%d\n" % (name.encode(), n) for n in range(50)))
    with Readers(FileSource(tmp_path, Text()), batch_rows=2) as readers:
        readers.poll_some(3)
        assert sorted({value[0] for value in readers.values}) == ["a", "b", "c"]


@pytest.mark.parametrize("split_bytes", [1 << 19, 40])
def test_the_file_furthest_behind_is_read_first(tmp_path, split_bytes):
    times = {"a": range(1000, 1400), "b": range(0, 1200, 3), "c": range(500, 900)}
    for name, stamps in times.items():
        (tmp_path / name).write_bytes(b"".join(b"%d\n" % stamp for stamp in stamps))
    marks = {}
    source = FileSource(tmp_path, Json(), split_bytes=split_bytes)
    with Readers(source, watermarks=marks, batch_rows=5) as readers:
        reader = readers.readers[0]
        looked_at = set()
        while reader.active:
            before = {name: marks.get(name) for name in reader.active}
            batch = reader.poll()
            if batch is None:
                continue
            for name in before.keys() - reader.active - {batch.partition}:
                del before[name]  # it has ended
            if before.keys() <= looked_at:
                assert before[batch.partition] == min(before.values())
            looked_at.add(batch.partition)
            values = batch.to_rows().values
            readers.values += values
            marks[batch.partition] = max(values)
        assert sorted(readers.values) == sorted(stamp for part in times.values() for stamp in part)
        highest = 0
        for value in readers.values[250:]:  # behind the first look at each
            assert value >= highest - 60
            highest = max(highest, value)


def test_stripes_of_one_file_are_read_in_order(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(2000)))
    source = FileSource(path, Json(), split_bytes=50, partitions=8)
    assert len(now(source.discover())) == 8
    with Readers(source, 2, batch_rows=8) as readers:
        for reader in readers.readers:
            assert len(reader.active) == 1  # they count as one
        readers.read_all()
        for number in range(2):
            mine = [batch for batch in readers.batches if batch.partition.endswith(f"#{number}/2")]
            values = [value for batch in mine for value in batch.to_rows().values]
            assert values == sorted(values)
        highest = 0
        for value in readers.values:  # side by side: none is far ahead
            assert value >= highest - 200
            highest = max(highest, value)


def test_after_a_restore_files_are_read_in_order_too(tmp_path):
    for name, first in (("a", 0), ("b", 100)):
        (tmp_path / name).write_bytes(b"".join(b"%d\n" % (first + n) for n in range(900)))
    source = FileSource(tmp_path, Json())
    with Readers(source, batch_rows=10) as readers:
        positions = readers.poll_some(2).snapshot()
        lanes = {Path(name.rpartition("#")[0]).name: name for name in readers.active}
    marks = {lanes["a"]: 50, lanes["b"]: 150}
    with Readers(source, positions=positions, watermarks=marks, batch_rows=5) as readers:
        readers.poll_some(3)
        assert {batch.partition for batch in readers.batches} == {lanes["a"]}


@pytest.mark.parametrize("seed", range(10))
def test_lines_longer_than_a_piece_are_read_in_order_too(tmp_path, seed):
    rng = random.Random(seed)
    lines = [f"{number:03d}" + "x" * rng.choice((0, 1, 9, 40)) for number in range(60)]
    path = tmp_path / "in.txt"
    path.write_text("\n".join(lines))
    source = FileSource(path, Text(), split_bytes=rng.choice((1, 5, 16)), partitions=4)
    assert len(now(source.discover())) == 4
    assert read_all(source, batch_rows=rng.choice((1, 7))) == lines
