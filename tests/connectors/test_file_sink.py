"""FileSink: files appear with the checkpoint that covers them, once, and nobody else's go."""

import gc
import gzip
import random
from pathlib import Path

import msgpack
import pytest
import zstandard

import streamline as sl
from streamline.codec import decode, encode
from streamline.connectors.files import FileSink, FileSource
from streamline.errors import ConnectorError, EncodeError, UsageError
from streamline.formats import Csv, Json, MsgPack, Text
from tests.connectors.reading import now, read_all, writer_context
from tests.unit.small import rows


class Point(sl.Record):
    x: int
    name: str


def begin(sink, committables=None, **context):
    """An open writer that has recovered its share."""
    writer = sink.writer()
    now(writer.open(writer_context(**context)))
    now(writer.recover(committables or []))
    return writer


def restarted(sink, committables, run, epoch=1, **context):
    """A writer of a later run that goes on from a checkpoint."""
    return begin(sink, committables, run=run, restored=True, restored_epoch=epoch, **context)


def put(writer, epoch, *values):
    """Write and prepare; what comes back has been through the codec."""
    if values:
        writer.write(rows(*values))
    return decode(encode(now(writer.prepare(epoch))))


def commit(writer, epoch, *values):
    committables = put(writer, epoch, *values)
    now(writer.commit(committables))
    return committables


def parts(folder):
    return sorted(path for path in Path(folder).glob("part-*"))


def visible(folder):
    """All lines that a reader of the folder would see."""
    return sorted(line for path in parts(folder) for line in path.read_text().splitlines())


def pending(folder):
    return sorted((Path(folder) / ".pending").glob("*"))


@pytest.fixture
def sink(tmp_path):
    return FileSink(tmp_path / "out", Text())


def test_nothing_is_visible_before_the_commit(sink):
    writer = begin(sink)
    writer.write(rows("a", "b"))
    writer.write(rows("c"))
    assert parts(sink.directory) == []
    committables = put(writer, 1)
    assert parts(sink.directory) == []
    assert [path.read_text() for path in pending(sink.directory)] == ["a\nb\nc\n"]
    writer.write(rows("later"))
    now(writer.commit(committables))
    assert visible(sink.directory) == ["a", "b", "c"]
    commit(writer, 2)
    assert visible(sink.directory) == ["a", "b", "c", "later"]
    now(writer.close())
    assert not (Path(sink.directory) / ".pending").exists()


def test_what_is_pending_is_hidden_from_a_source(sink):
    writer = begin(sink)
    commit(writer, 1, "a")
    put(writer, 2, "b")
    assert read_all(FileSource(sink.directory, Text())) == ["a"]


def test_an_epoch_without_records_makes_no_file(sink):
    writer = begin(sink)
    assert put(writer, 1) == []
    now(writer.commit([]))
    assert commit(writer, 2, "a")
    assert put(writer, 3) == []
    assert len(parts(sink.directory)) == 1


def test_a_commit_may_be_repeated(sink):
    writer = begin(sink)
    first = commit(writer, 1, "a")
    second = put(writer, 2, "b")
    for _ in range(3):
        now(writer.commit(first + second))
        now(writer.commit(first))
    assert visible(sink.directory) == ["a", "b"]
    assert len(parts(sink.directory)) == 2


def test_bytes_are_counted(sink):
    writer = sink.writer()
    context = writer_context()
    now(writer.open(context))
    writer.write(rows("ab", "ü"))
    assert context.counters.bytes_out == 6
    now(writer.close())


def test_closing_commits_nothing(sink):
    writer = begin(sink)
    put(writer, 1, "a")
    writer.write(rows("b"))
    now(writer.close())
    now(writer.close())
    assert parts(sink.directory) == []
    assert len(pending(sink.directory)) == 2


def test_the_order_of_lines_is_kept_within_and_over_epochs(sink):
    writer = begin(sink)
    for epoch in range(1, 12):
        commit(writer, epoch, f"{epoch}-a", f"{epoch}-b")
    lines = [line for path in parts(sink.directory) for line in path.read_text().splitlines()]
    assert lines == [f"{epoch}-{letter}" for epoch in range(1, 12) for letter in "ab"]


# ---------------------------------------------------------------------- crashes


def test_a_crash_between_prepare_and_commit(sink):
    crashed = begin(sink)
    done = commit(crashed, 1, "one")
    promised = put(crashed, 2, "two")
    put(crashed, 3, "three")  # its checkpoint never completed
    crashed.write(rows("four"))
    now(crashed.close())
    writer = restarted(sink, done + promised, "run2", 2)
    assert visible(sink.directory) == ["one", "two"]
    assert pending(sink.directory) == []
    commit(writer, 3, "three again")
    assert visible(sink.directory) == ["one", "three again", "two"]


def test_a_crash_during_the_recovery(sink):
    crashed = begin(sink)
    promised = put(crashed, 1, "a") + put(crashed, 2, "b")
    now(crashed.close())
    halfway = sink.writer()
    now(halfway.open(writer_context(run="run2", restored=True, restored_epoch=2)))
    now(halfway.commit(promised[:1]))
    restarted(sink, promised, "run3", 2)
    assert visible(sink.directory) == ["a", "b"]


def test_opening_touches_nothing_that_was_prepared(sink):
    crashed = begin(sink)
    promised = put(crashed, 1, "a")
    for index in range(3):
        context = writer_context(
            run="run2", index=index, parallelism=3, restored=True, restored_epoch=1
        )
        now(sink.writer().open(context))
    assert len(pending(sink.directory)) == 1
    now(crashed.commit(promised))
    assert visible(sink.directory) == ["a"]


def test_recover_spares_what_other_writers_of_the_same_run_have_begun(sink):
    crashed = begin(sink, index=1, parallelism=2)
    put(crashed, 1, "lost")
    now(crashed.close())
    early = restarted(sink, [], "run2", 0, index=1, parallelism=2)
    early.write(rows("early"))
    restarted(sink, [], "run2", 0, index=0, parallelism=2)
    commit(early, 1)
    assert visible(sink.directory) == ["early"]
    assert pending(sink.directory) == []


def test_writers_of_one_sink_do_not_collide(sink):
    writers = [begin(sink, index=index, parallelism=4) for index in range(4)]
    promised = []
    for index, writer in enumerate(writers):
        promised += put(writer, 1, f"first of {index}") + put(writer, 2, f"second of {index}")
    for writer in writers:
        now(writer.close())
    restarted(sink, promised, "run2", 2, parallelism=2)
    assert len(visible(sink.directory)) == 8
    assert len(parts(sink.directory)) == 8


def test_the_folder_may_be_another_after_a_restart(tmp_path):
    old, new = FileSink(tmp_path / "old", Text()), FileSink(tmp_path / "new", Text())
    crashed = begin(old)
    promised = put(crashed, 1, "a")
    now(crashed.close())
    writer = restarted(new, promised, "run2", 1)
    commit(writer, 2, "b")
    assert (visible(tmp_path / "old"), visible(tmp_path / "new")) == (["a"], ["b"])


def test_a_relative_folder_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    crashed = begin(FileSink("out", Text()))
    promised = put(crashed, 1, "a")
    now(crashed.close())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    restarted(FileSink("out", Text()), promised, "run2", 1)
    assert visible(tmp_path / "out") == ["a"]


def test_a_pending_file_that_somebody_removed_is_reported(sink):
    crashed = begin(sink)
    promised = put(crashed, 1, "a")
    now(crashed.close())
    pending(sink.directory)[0].unlink()
    with pytest.raises(ConnectorError, match="somebody removed it, and its records are lost") as e:
        restarted(sink, promised, "run2")
    assert "sink 'out'" in str(e.value) and sink.directory in str(e.value)


def test_a_folder_that_somebody_removed_is_reported(sink):
    writer = begin(sink)
    promised = put(writer, 1, "a")
    pending(sink.directory)[0].unlink()
    (Path(sink.directory) / ".pending").rmdir()
    Path(sink.directory).rmdir()
    with pytest.raises(ConnectorError, match="records are lost"):
        now(writer.commit(promised))


# ---------------------------------------------------------------------- others in the folder


def test_two_sinks_in_one_folder_leave_each_other_alone(tmp_path):
    sink = FileSink(tmp_path, Text())
    others = [{"node": "out2"}, {"job": "job2"}]
    mine = begin(sink)
    theirs = [begin(sink, **other) for other in others]
    commit(mine, 1, "mine")
    promised = [commit(writer, 1, "theirs") and put(writer, 2, "promised") for writer in theirs]
    (tmp_path / "readme.txt").write_text("of a human")
    (tmp_path / "part-of-a-book").write_text("of a human")
    now(mine.close())
    restarted(sink, [], "run2", 0)
    begin(sink, run="run3", lineage="life2")  # starts over
    assert len(pending(tmp_path)) == 2
    for writer, committables in zip(theirs, promised):
        now(writer.commit(committables))
    assert visible(tmp_path) == ["of a human", "promised", "promised", "theirs", "theirs"]
    assert (tmp_path / "readme.txt").exists()


def test_names_that_read_alike_are_not_the_same_sink(tmp_path):
    sink = FileSink(tmp_path, Text())
    commit(begin(sink, job="a", node="b-c"), 1, "first")
    commit(begin(sink, job="a-b", node="c"), 1, "second")
    assert visible(tmp_path) == ["first", "second"]


@pytest.mark.parametrize(
    ("if_exists", "left"), [("replace", ["new"]), ("append", ["new", "old", "old"])]
)
def test_starting_over(tmp_path, if_exists, left):
    sink = FileSink(tmp_path, Text(), if_exists=if_exists)
    old = begin(sink, lineage="life1")
    commit(old, 1, "old")
    commit(old, 2, "old")
    put(old, 3, "never")
    now(old.close())
    new = begin(sink, run="run2", lineage="life2")
    assert pending(tmp_path) == []
    commit(new, 1, "new")
    assert visible(tmp_path) == left


def test_starting_over_may_be_refused(tmp_path):
    sink = FileSink(tmp_path, Text(), if_exists="fail")
    first = begin(sink)
    commit(first, 1, "old")
    with pytest.raises(ConnectorError, match="holds 1 file of an earlier run; remove"):
        begin(sink, run="run2", lineage="life2")
    assert visible(tmp_path) == ["old"]
    begin(sink, run="run2", lineage="life2", node="out2")
    restarted(sink, [], "run3", 1)  # going on is not starting over
    assert visible(tmp_path) == ["old"]


def test_only_the_first_writer_starts_over(tmp_path):
    sink = FileSink(tmp_path, Text())
    commit(begin(sink), 1, "old")
    begin(sink, run="run2", lineage="life2", index=1, parallelism=2)
    assert visible(tmp_path) == ["old"]


def test_going_on_replaces_nothing(sink):
    first = begin(sink)
    done = commit(first, 1, "a")
    writer = restarted(sink, done, "run2", 1)
    commit(writer, 2, "b")
    assert visible(sink.directory) == ["a", "b"]


# ---------------------------------------------------------------------- taken back


def test_what_is_behind_the_restored_checkpoint_is_taken_back(sink):
    first = begin(sink)
    committed = [item for epoch in (1, 2, 3) for item in commit(first, epoch, f"epoch {epoch}")]
    now(first.close())
    writer = restarted(sink, committed[:2], "run2", 2)
    assert visible(sink.directory) == ["epoch 1", "epoch 2"]
    commit(writer, 3, "epoch 3 again")
    assert visible(sink.directory) == ["epoch 1", "epoch 2", "epoch 3 again"]


def test_what_is_of_another_life_is_not_taken_back(tmp_path):
    sink = FileSink(tmp_path, Text(), if_exists="append")
    commit(begin(sink, lineage="life1"), 9, "of another life")
    second = begin(sink, run="run2", lineage="life2")
    commit(second, 5, "of this life")
    restarted(sink, [], "run3", 4, lineage="life2")
    assert visible(tmp_path) == ["of another life"]


def test_other_writers_take_nothing_back(sink):
    first = begin(sink)
    commit(first, 5, "a")
    restarted(sink, [], "run2", 1, index=1, parallelism=2)
    assert visible(sink.directory) == ["a"]


@pytest.mark.parametrize("seed", range(30))
def test_every_record_once_whatever_happens(tmp_path, seed):
    """Crashes anywhere, going on from the last complete checkpoint, with other parallelism."""
    rng = random.Random(seed)
    sink = FileSink(tmp_path, Text())
    number = epoch = run = 0
    checkpoint = (0, 0, [])  # epoch, records covered, committables
    for _ in range(6):
        run += 1
        restored = {"restored": run > 1, "restored_epoch": checkpoint[0] if run > 1 else None}
        count = rng.randrange(1, 4)
        writers = {}
        for index in rng.sample(range(count), count):
            context = {"run": f"run{run}", "index": index, "parallelism": count, **restored}
            share = [item for of, item in checkpoint[2] if of % count == index]
            writers[index] = begin(sink, share, **context)
        epoch, number, prepared = checkpoint[0], checkpoint[1], []
        for _ in range(rng.randrange(6)):
            epoch += 1
            for _ in range(rng.randrange(5)):
                writers[rng.randrange(count)].write(rows(f"{number:05d}"))
                number += 1
            some = [index for index in writers if rng.random() < 0.9]
            prepared += [(index, item) for index in some for item in put(writers[index], epoch)]
            if len(some) < len(writers):
                break  # a crash before the checkpoint is complete
            checkpoint = (epoch, number, list(prepared))
            if rng.random() < 0.2:
                break  # a crash before the commit
            for index, writer in writers.items():
                now(writer.commit([item for of, item in prepared if of == index]))
            if rng.random() < 0.5:
                prepared = []
                checkpoint = (epoch, number, [])
        for writer in writers.values():
            now(writer.close())
    restarted(sink, [item for _, item in checkpoint[2]], "last", checkpoint[0])
    assert visible(tmp_path) == [f"{number:05d}" for number in range(checkpoint[1])]
    assert pending(tmp_path) == []


# ---------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("compression", "suffix", "unpack"),
    [
        (None, ".txt", bytes),
        ("gzip", ".txt.gz", gzip.decompress),
        ("zstd", ".txt.zst", lambda data: zstandard.ZstdDecompressor().stream_reader(data).read()),
    ],
)
def test_packed_files_can_be_read(tmp_path, compression, suffix, unpack):
    sink = FileSink(tmp_path, Text(), compression=compression)
    writer = begin(sink)
    lines = [f"line {number:04d}" for number in range(1000)]
    writer.write(rows(*lines[:500]))
    writer.write(rows(*lines[500:]))
    commit(writer, 1)
    commit(writer, 2, "another")
    names = [path.name for path in parts(tmp_path)]
    assert len(names) == 2 and all(name.endswith(suffix) for name in names)
    assert unpack(parts(tmp_path)[0].read_bytes()).decode().splitlines() == lines
    assert sorted(read_all(FileSource(tmp_path, Text()), 2)) == ["another", *lines]
    if compression:
        assert parts(tmp_path)[0].stat().st_size < 6000


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_each_file_of_csv_has_a_header(tmp_path, compression):
    writer = begin(FileSink(tmp_path, Csv(Point), compression=compression))
    commit(writer, 1, Point(1, "a"), Point(2, "b,c"))
    commit(writer, 2, Point(3, 'd"'))
    found = read_all(FileSource(tmp_path, Csv(Point)))
    assert sorted((point.x, point.name) for point in found) == [(1, "a"), (2, "b,c"), (3, 'd"')]
    if compression is None:
        assert parts(tmp_path)[0].read_text() == 'x,name\n1,a\n2,"b,c"\n'


def test_csv_without_a_header(tmp_path):
    commit(begin(FileSink(tmp_path, Csv(Point, header=False))), 1, Point(1, "a"))
    assert parts(tmp_path)[0].read_text() == "1,a\n"


def test_messagepack(tmp_path):
    commit(begin(FileSink(tmp_path, MsgPack())), 1, {"a": 1}, [b"\n"])
    (path,) = parts(tmp_path)
    assert path.suffix == ".msgpack"
    assert path.read_bytes() == msgpack.packb({"a": 1}) + msgpack.packb([b"\n"])


def test_json(tmp_path):
    commit(begin(FileSink(tmp_path, Json(Point))), 1, Point(1, "a\nb"))
    assert parts(tmp_path)[0].read_text() == '{"x":1,"name":"a\\nb"}\n'


def test_a_value_that_is_two_lines_is_refused(sink):
    writer = begin(sink)
    writer.write(rows("a"))
    with pytest.raises(EncodeError, match="line break"):
        writer.write(rows("b", "c\nd"))
    now(writer.close())


# ---------------------------------------------------------------------- trouble


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"compression": "rar"}, "compression='rar'"), ({"if_exists": "ask"}, "if_exists='ask'")],
)
def test_settings_that_cannot_be_are_refused(settings, reason):
    with pytest.raises(UsageError, match=reason):
        FileSink("x", Text(), **settings)
    with pytest.raises(UsageError, match="needs a format"):
        FileSink("x", Text)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConnectorError, match="sink 'out' cannot write") as caught:
        begin(FileSink(tmp_path / "out", Text()))
    assert str(tmp_path / "out") in str(caught.value)


def test_a_folder_that_cannot_be_written(tmp_path):
    sink = FileSink(tmp_path / "out", Text())
    writer = begin(sink)
    (tmp_path / "out" / ".pending").write_text("in the way")
    with pytest.raises(ConnectorError, match="sink 'out' cannot write"):
        writer.write(rows("a"))
    now(writer.close())


def on_a_full_disk(sink):
    """A writer whose next file takes nothing."""
    writer = begin(sink)
    commit(writer, 1, "a")
    (name,) = [path.name for path in parts(sink.directory)]
    tag = name.split("-")[1]
    full = Path(sink.directory) / ".pending" / f"{tag}-run1-00000-00000002.txt"
    full.symlink_to("/dev/full")
    writer.write(rows("b"))
    return writer


def test_a_full_disk_is_reported_when_preparing(sink):
    writer = on_a_full_disk(sink)
    with pytest.raises(ConnectorError, match="sink 'out' cannot write .* No space left"):
        now(writer.prepare(2))
    now(writer.close())
    gc.collect()  # a file left open would be complained about
    assert visible(sink.directory) == ["a"]


def test_closing_on_a_full_disk(sink):
    """What is given up need not be written."""
    writer = on_a_full_disk(sink)
    now(writer.close())
    now(writer.close())
    assert visible(sink.directory) == ["a"]
