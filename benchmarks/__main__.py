"""Measure: ``python -m benchmarks [NAME ...]``; prints a table and writes it as Markdown."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks import kafka, postgres, service
from benchmarks.measure import (
    ROUNDS,
    Result,
    folder,
    plain,
    plain_twice,
    rounds,
    streamline,
    write_orders,
)
from benchmarks.pause import longest_pauses

RECORDS = 1_500_000


def against_plain(job: str, wanted: float) -> Result:
    """Rate of a job as a part of the plain loop's, start-up subtracted on both sides."""
    with folder() as work:
        data, one = work / "in.jsonl", work / "one.jsonl"
        write_orders(data, RECORDS)
        write_orders(one, 1)
        times = rounds(
            lambda: plain(job, data, work),
            lambda: streamline(job, work, input=data)[0],
            lambda: plain(job, one, work),
            lambda: streamline(job, work, input=one)[0],
        )
    loop_start, start = min(times[2]), min(times[3])
    loop = [seconds - loop_start for seconds in times[0]]
    ours = [seconds - start for seconds in times[1]]
    ratio = min(loop) / min(ours)
    detail = f"{_rate(ours)} records/s, the loop {_rate(loop)}; start {start:.2f} s"
    return Result(
        f"{job} job / plain loop", f"{ratio:.2f}", f">= {wanted}", ratio >= wanted, detail
    )


def two_processes() -> Result:
    """Rate of the keyed job in two processes as a part of that in one.

    Two plain loops side by side tell how much two processes can do on this machine at all.
    """
    with folder() as work:
        data, half, one = work / "in.jsonl", work / "half.jsonl", work / "one.jsonl"
        write_orders(data, 2 * RECORDS)
        write_orders(half, RECORDS)
        write_orders(one, 1)
        times = rounds(
            lambda: streamline("keyed", work, input=data)[0],
            lambda: streamline("keyed", work, "--parallelism", "2", input=data)[0],
            lambda: streamline("keyed", work, input=one)[0],
            lambda: streamline("keyed", work, "--parallelism", "2", input=one)[0],
            lambda: plain("keyed", half, work),
            lambda: plain_twice("keyed", half, work),
        )
    single = min(times[0]) - min(times[2])
    double = min(times[1]) - min(times[3])
    ceiling = 2 * min(times[4]) / min(times[5])
    ratio = single / double
    detail = f"{single:.2f} s, {double:.2f} s; two plain loops side by side: {ceiling:.2f}"
    return Result("two processes / one", f"{ratio:.2f}", ">= 1.6", ratio >= 1.6, detail)


def checkpoint_cost() -> Result:
    """What a checkpoint every second takes of the rate."""
    with folder() as work:
        data = work / "in.jsonl"
        write_orders(data, 3 * RECORDS)
        times = rounds(
            lambda: streamline("keyed", work, input=data)[0],
            lambda: streamline("keyed", work, "--checkpoint-every", "1h", input=data)[0],
        )
    cost = 1 - min(times[1]) / min(times[0])
    detail = f"{min(times[0]):.2f} s, without {min(times[1]):.2f} s"
    return Result("a checkpoint every second", f"{cost:.1%}", "< 10 %", cost < 0.1, detail)


def flat_memory() -> Result:
    """Memory of the worker over 10 M records: the last third against the second."""
    samples: list[tuple[float, int]] = []

    def watch(pid: int) -> None:
        try:
            children = psutil.Process(pid).children()
            samples.append((time.perf_counter(), sum(c.memory_info().rss for c in children)))
        except psutil.Error:
            pass  # it has just ended

    with folder() as work:
        data = work / "in.jsonl"
        write_orders(data, 10_000_000)
        streamline("keyed", work, watch=watch, input=data)
    sizes = [size for _, size in samples if size]
    third = len(sizes) // 3
    middle, last = max(sizes[third : 2 * third]), max(sizes[2 * third :])
    growth = last / middle - 1
    detail = f"{middle / 1e6:.0f} MB in the second third, {last / 1e6:.0f} MB in the last"
    return Result("memory over 10 M records", f"{growth:+.1%}", "< +5 %", growth < 0.05, detail)


def many_keys() -> Result:
    """5 M keys with a table of 200,000 entries."""
    with folder() as work:
        seconds, summary = streamline("many_keys", work, "--table-entries", "200000")
    rate = summary["records_in"] / seconds
    size = summary["last_checkpoint"]["size_bytes"] / 1e6
    detail = f"{summary['records_in']:,} records in {seconds:.1f} s, checkpoint {size:.0f} MB"
    return Result("5 M keys, table of 200,000", f"{rate:,.0f}/s", "runs", met=True, detail=detail)


def first_result() -> Result:
    """From the command to the end of a job over 1,000 records."""
    with folder() as work:
        data = work / "in.jsonl"
        write_orders(data, 1_000)
        (times,) = rounds(lambda: streamline("keyed", work, input=data)[0])
    seconds = min(times)
    return Result("first result of a small job", f"{seconds:.2f} s", "< 1.5 s", seconds < 1.5)


def pauses() -> Result:
    """The longest the task stands still for a checkpoint of 1 M dirty entries."""
    rounds_of = []
    for _ in range(ROUNDS):
        with folder() as work:
            rounds_of.append(longest_pauses(work, entries=1_000_000))
    parts = min(rounds_of, key=lambda parts: max(parts.values()))  # the machine pauses us too
    worst = max(parts.values())
    detail = ", ".join(f"{name} {ms:.1f} ms" for name, ms in parts.items())
    return Result("pause at 1 M dirty entries", f"{worst:.1f} ms", "< 20 ms", worst < 20, detail)


MEASURES: dict[str, Callable[[], Result | list[Result]]] = {
    "keyed": lambda: against_plain("keyed", 0.5),
    "stateless": lambda: against_plain("stateless", 0.7),
    "processes": two_processes,
    "checkpoints": checkpoint_cost,
    "memory": flat_memory,
    "keys": many_keys,
    "first": first_result,
    "pauses": pauses,
    "kafka-read": kafka.reading,
    "kafka-keyed": kafka.keyed,
    "kafka-columns": kafka.columns,
    "kafka-quix": kafka.beside_quix,
    "kafka-latency": kafka.latency,
    "postgres": postgres.copying,
    "service": service.standing_still,
    "many-jobs": service.many_jobs,
}


def main() -> None:
    """Take the measurements named, or all."""
    names = sys.argv[1:] or list(MEASURES)
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        sys.exit(f"no measurement named {unknown[0]}; there are {', '.join(MEASURES)}")
    lines = ["| measured | figure | wanted | met | detail |", "|---|---|---|---|---|"]
    for name in names:
        found = MEASURES[name]()
        for result in found if isinstance(found, list) else [found]:
            met = "yes" if result.met else "NO"
            lines.append(
                f"| {result.name} | {result.value} | {result.wanted} | {met} | {result.detail} |"
            )
            print(lines[-1], flush=True)
    target = Path("build") / "benchmarks.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines) + "\n")
    print(f"written to {target}")


def _rate(times: list[float]) -> str:
    return f"{RECORDS / min(times):,.0f}"


if __name__ == "__main__":
    main()
