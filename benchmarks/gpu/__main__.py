"""Benchmarks on one GPU: correctness first, then the kernels, then whole networks.

    python -m benchmarks.gpu                          # from the root of the repository, with sasa importable
    python -m benchmarks.gpu --only gate kernels      # rows whose names begin so
    python -m benchmarks.gpu --json FILE              # rows that FILE already holds are not measured again
    python -m benchmarks.gpu --device cpu --quick     # tries the command without a GPU: no measurement

Every row is printed and saved when it is there. The exit status is 1 if one failed, 2 if nothing could be measured.
"""

import argparse
import datetime
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import in_words
from benchmarks.gpu.goals import table
from benchmarks.gpu.record import OtherMachineError, Record
from benchmarks.gpu.rows import FAILED, Bench, Row
from benchmarks.gpu.worker import Worker, all_rows

RESULTS = Path(__file__).parents[1] / "results"
LIMIT = 540.0  # seconds
LEAST = 5.0  # seconds that must be left for another row


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line names; print the table of what is asked; the exit status."""
    words = command_line(arguments)
    bench = Bench(words.device, 2 if words.quick else words.batch, words.quick)
    rows = [row for row in all_rows(bench) if not words.only or row.name.startswith(tuple(words.only))]
    record = Record(words.json)
    try:
        measure(record.missing(rows), bench, record, words.limit)
    except OtherMachineError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"\n{table(record.rows)}", flush=True)
    left = len([row for row in rows if row.name not in record.rows])
    print(f"{len(rows) - left} of {len(rows)} rows measured", flush=True)
    return int(any(FAILED in record.rows.get(row.name, {}) for row in rows))


def measure(rows: Sequence[Row], bench: Bench, record: Record, limit: float) -> None:
    """Run the rows one after the other, each in a process of its back-end, until the time is up."""
    began = time.monotonic()
    worker: Worker | None = None
    try:
        for row in rows:
            left = limit - (time.monotonic() - began)
            if left < LEAST:
                print(f"# {limit:.0f} s have passed: the rest is not measured", flush=True)
                return
            if worker is None or worker.backend != row.backend or not worker.usable:
                worker = _replace(worker, row.backend, bench)
                if not worker.usable:
                    print(f"# no process could be started: {worker.machine}", flush=True)
                    return
                record.set_machine(worker.machine)
            values = worker.run(row.name, min(row.seconds, left))
            record.put(row.name, values)
            print(f"{row.name}: {in_words(values)}", flush=True)
    finally:
        if worker is not None:
            worker.stop()


def _replace(worker: Worker | None, backend: str, bench: Bench) -> Worker:
    if worker is not None:
        worker.stop()
    began = time.monotonic()
    worker = Worker(backend, bench)
    print(f"# {worker.machine}, SASA_GPU={backend}, started in {time.monotonic() - began:.1f} s", flush=True)
    return worker


def command_line(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; a message and exit status 2 where they do not fit."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows whose names begin so")
    parser.add_argument("--json", type=Path, help="[default: benchmarks/results/DATE-gpu.json; none with --quick]")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds, after which no row begins [%(default)s]")
    parser.add_argument("--batch", type=int, default=Bench.batch, help="networks run with a quarter of it too")
    parser.add_argument("--device", choices=("cuda", "cpu"), default=Bench.device)
    parser.add_argument("--quick", action="store_true", help="small networks and maps: no measurement")
    words = parser.parse_args(arguments)
    if words.json is None and not words.quick:
        words.json = RESULTS / f"{datetime.date.today()}-gpu.json"
    return words


if __name__ == "__main__":
    sys.exit(main())
