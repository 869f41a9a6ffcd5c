"""How fast each source reads the same pairs in order.

    python experiments/benchmarks/sources.py [--pairs 512] [--size 256]

Writes the pairs in every form, then reads each form from begin to end several times, in turn, and prints for the best
of them pairs per second of processor time by one thread: records (bytes and texts alone) and examples (images decoded),
and the share of the fastest. The files are in the page cache by then: what is compared is the formats, not the disk.

Measured on one core of a quiet machine (512 JPEG pairs of 256 px, best of 7 rounds), examples/s and share:

    easy_vqa 2624, 100 %    webdataset 2591, 99 %    jsonl 2507, 96 %          folder 2497, 95 %
    coco     2618, 100 %    parquet    2532, 96 %    arrayrecord 2506, 96 %    tfds   2394, 91 %
                            csv        2515, 96 %
"""

import argparse
import functools
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # the pairs are those of the tests

from mmjax.data.sources import open_source
from tests.data import own_data


def make_pairs(count: int, size: int, kind: str) -> list[own_data.Pair]:
    """Undamaged pairs of JPEG (or other) images of size x size pixels."""
    options = {"quality": 90} if kind != "PNG" else {}
    return [
        own_data.Pair(f"{place:05}", own_data.encode(own_data.picture(place, size), kind, **options), caption.encode())
        for place, caption in ((place, own_data.caption(place)) for place in range(count))
    ]


def seconds(read: Callable[[int], Any], count: int) -> float:
    """Processor time for reading everything once."""
    start = time.process_time()
    for place in range(count):
        read(place)
    return time.process_time() - start


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--kind", default="JPEG", choices=("JPEG", "PNG", "WEBP"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    pairs = make_pairs(arguments.pairs, arguments.size, arguments.kind)
    writers = own_data.WRITERS | {"tfds": functools.partial(own_data.write_tfds, inside=True)}
    with tempfile.TemporaryDirectory() as folder:
        sources = {name: open_source(write(pairs, pathlib.Path(folder) / name)) for name, write in writers.items()}
        best: dict[tuple[str, str], float] = {}
        for _ in range(arguments.rounds):
            for name, source in sources.items():
                for what, read in (("records", source.record), ("examples", source.__getitem__)):
                    took = seconds(read, len(pairs))
                    best[name, what] = min(took, best.get((name, what), took))
    fastest = min(took for (_, what), took in best.items() if what == "examples")
    size = sum(len(pair.image or b"") for pair in pairs) / len(pairs) / 1000
    print(f"{len(pairs)} pairs, {arguments.kind} of {arguments.size} px and {size:.1f} kB")
    print(f"{'source':12s} {'records/s':>10s} {'examples/s':>11s} {'of the fastest':>15s}")
    for name in sources:
        records, examples = (len(pairs) / best[name, what] for what in ("records", "examples"))
        print(f"{name:12s} {records:10.0f} {examples:11.0f} {fastest / best[name, 'examples']:15.0%}")


if __name__ == "__main__":
    main()
