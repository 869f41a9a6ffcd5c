"""Images per second and core of the input pipeline: decode, augmentation, tokenising.

    python experiments/benchmarks/input_pipeline.py [--pairs 256] [--size 480] [--pixels 224] [--json FILE]

JPEG pairs in a tar shard are read in one thread, in turn by more and more of the pipeline; rates are by processor time,
so that they say what one core gives whatever else the machine does. The files are in the page cache. `batches` is what
a training step gets. The last column says how many cores feed a device that takes 1,000 images a second.
"""

import argparse
import pathlib
import sys
import tempfile
import time

import _table

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # the pairs are those of the tests

from mmjax.data import augment
from mmjax.data import text as texts
from mmjax.data.pipeline import Pipeline
from mmjax.data.sources import open_source
from mmjax.data.tokenizers import open_tokenizer
from tests.data import own_data


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--size", type=int, default=480, help="side of the JPEG files")
    parser.add_argument("--pixels", type=int, default=224, help="side of the model's images")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    _table.add_arguments(parser)
    args = parser.parse_args()
    pairs = [
        own_data.Pair(f"{place:05}", own_data.encode(own_data.picture(place, args.size), "JPEG", quality=90),
                      own_data.caption(place).encode())
        for place in range(args.pairs)
    ]  # fmt: skip
    size = sum(len(pair.image or b"") for pair in pairs) / len(pairs) / 1000
    tokenizer = open_tokenizer("clip_bpe")
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(own_data.WRITERS["webdataset"](pairs, pathlib.Path(folder)))
        image = augment.from_config({"preset": "clip", "size": args.pixels})
        pipeline = Pipeline(
            source, tokenizer=tokenizer, length=77, image=image, text=texts.from_config({}), batch_size=args.batch
        )
        lines = [pair.text.decode() for pair in pairs]
        steps = {
            "records": (len(pairs), lambda: [source.record(place) for place in range(len(pairs))]),
            "decoded": (len(pairs), lambda: [source[place] for place in range(len(pairs))]),
            "texts tokenised": (len(lines), lambda: tokenizer.batch(lines, 77)),
            "batches": (
                len(pairs) // args.batch * args.batch,
                lambda: [pipeline[step] for step in range(len(pairs) // args.batch)],
            ),
        }
        rates: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(args.rounds):
            for name, (count, do) in steps.items():
                start = time.process_time()
                do()
                rates[name].append(count / (time.process_time() - start))
    rows = []
    for name, found in rates.items():
        median = _table.middle(found)
        row = {"what": name, "per s and core": median, "spread": _table.spread(found, 0)}
        rows.append(row | {"cores for 1,000/s": 1000 / median})
    title = f"input pipeline: {len(pairs)} JPEG files of {args.size} px and {size:.1f} kB to {args.pixels} px"
    _table.publish(title, _table.machine("mmjax", "numpy", "pillow", "grain"), rows, args.json)


if __name__ == "__main__":
    main()
