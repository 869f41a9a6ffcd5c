"""`mmjax capfilt`: writes captions of a source's images, and keeps of all texts those that fit (BLIP, §3.3)."""

import argparse
import pathlib


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--captioner", type=pathlib.Path, required=True, metavar="DIR", help="checkpoint that writes")
    parser.add_argument("--filter", type=pathlib.Path, required=True, metavar="DIR", help="checkpoint that matches")
    parser.add_argument("--data", required=True, metavar="SPEC", help="source of images and their texts")
    parser.add_argument("--output", type=pathlib.Path, required=True, metavar="DIR", help="the new data set")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="files (default 1)")
    parser.add_argument("--process", type=int, default=0, metavar="I", help="number of this process, from 0")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="that share the shards (default 1)")
    parser.add_argument("--threshold", type=float, default=0.5, metavar="P",
                        help="keep texts whose probability to fit is at least P (default 0.5)")  # fmt: skip
    parser.add_argument("--nucleus", type=float, default=0.9, metavar="P", help="of sampling captions (default 0.9)")
    parser.add_argument("--max-length", type=int, default=20, metavar="N", help="tokens of a caption (default 20)")
    parser.add_argument("--min-length", type=int, default=5, metavar="N", help="tokens at least (default 5)")
    parser.add_argument("--prompt", help="of the captions (default: the captioner's own)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of sampling (default 0)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="over all devices (default 64)")


def run(args: argparse.Namespace) -> int:
    """Works on this process's shards and prints what was kept; started again, it goes on.

    Raises:
      UserError: models that cannot write or match, a source or a folder that cannot be used.
    """
    from absl import logging

    from mmjax import model
    from mmjax.capfilt import SAMPLING, Plan, capfilt
    from mmjax.core.errors import UserError
    from mmjax.data.sources import open_source

    logging.set_verbosity(logging.ERROR)
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: at least 1")
    settings = {**SAMPLING, "top_p": args.nucleus, "max_length": args.max_length, "min_length": args.min_length}
    plan = Plan(args.data, len(open_source(args.data)), str(args.captioner), str(args.filter), settings, args.prompt,
                args.threshold, args.shards, args.seed)  # fmt: skip
    captioner, judge = (model.load(path, batch_size=args.batch_size) for path in (args.captioner, args.filter))
    manifest = capfilt(
        plan, captioner, judge, args.output, process=args.process, processes=args.processes,
        tick=lambda shard, of: print(f"shard {shard} of {of} is whole", flush=True),
    )  # fmt: skip
    if manifest is None:
        print("this process's shards are whole; others are still at work")
        return 0
    for line in summary(manifest["counts"]):
        print(line)
    print(f"opens as {manifest['opens_as']}")
    return 0


def summary(counts: dict[str, int]) -> list[str]:
    """The counts of a manifest in words."""

    def share(part: str, whole: str) -> str:
        return f"{counts[part]:,} of {counts[whole]:,} ({counts[part] / max(counts[whole], 1):.1%})"

    lines = [f"kept: web texts {share('web_kept', 'web')}, synthetic {share('synthetic_kept', 'synthetic')}; "
             f"images with a text {share('kept_images', 'images')}"]  # fmt: skip
    if counts["wrong"] + counts["right"]:
        lines.append(f"of texts whose truth is known: wrong ones removed {share('wrong_removed', 'wrong')}, "
                     f"right ones kept {share('right_kept', 'right')}")  # fmt: skip
    return lines
