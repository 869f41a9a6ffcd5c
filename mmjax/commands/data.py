"""`mmjax data`: what a source holds (`inspect`), and a source rewritten as shards (`convert`)."""

import argparse
import json
import os
import pathlib

FORMATS = ("arrayrecord", "webdataset")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two actions and their arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="inspect|convert")
    inspect = actions.add_parser("inspect", help="counts, captions, images, duplicates, what would be dropped")
    convert = actions.add_parser("convert", help="rewrite any source as ArrayRecord or webdataset shards")
    for action in (inspect, convert):
        action.add_argument("--data", required=True, metavar="SPEC", help="source, such as jsonl:pairs.jsonl")
        action.add_argument(
            "--workers", type=int, metavar="N", help="at the same time (default: one per core, up to 8)"
        )
        action.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    inspect.add_argument("--limit", type=int, metavar="N", help="at most N items, spread evenly over the source")
    inspect.add_argument("--out", type=pathlib.Path, metavar="DIR", help="contact.png and survey.json go here")
    inspect.add_argument("--json", type=pathlib.Path, metavar="FILE", help="the findings as JSON")

    convert.add_argument("--output", type=pathlib.Path, required=True, metavar="DIR", help="where the shards go")
    convert.add_argument("--format", choices=FORMATS, required=True, help="of the shards")
    convert.add_argument("--shards", type=int, default=1, metavar="N", help="files (default 1)")
    convert.add_argument("--unchecked", action="store_true",
                         help="copy images without decoding them: faster; damaged ones are copied, too")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Runs the action.

    Raises:
      UserError: an unusable source, numbers out of range, or an output that holds something else.
    """
    from mmjax.core.errors import UserError

    if args.workers is None:
        args.workers = min(8, os.cpu_count() or 1)
    for name in ("workers", "limit", "shards"):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: at least 1")
    return inspect(args) if args.action == "inspect" else convert(args)


def inspect(args: argparse.Namespace) -> int:
    """Prints the findings, and writes them and the contact sheet where told."""
    from mmjax.core.errors import UserError
    from mmjax.data.sources import open_source
    from mmjax.data.survey import contact_sheet, survey
    from mmjax.train.progress import Progress

    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise UserError(f"--json {args.json}: there is no directory {args.json.absolute().parent}")
    source = open_source(args.data)
    bar = Progress(min(len(source), args.limit or len(source)), stage="reading")
    try:
        found, shown = survey(source, limit=args.limit, workers=args.workers, tick=bar.update)
    finally:
        bar.close()
    print("\n".join(found.lines()))
    text = json.dumps(found.as_dict(), indent=1, ensure_ascii=False) + "\n"
    if args.json is not None:
        args.json.write_text(text, encoding="utf-8")
    if args.out is None:
        print("pictures    none asked for: --out DIR writes a contact sheet")
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "survey.json").write_text(text, encoding="utf-8")
    (args.out / "contact.png").write_bytes(contact_sheet(shown))
    print(f"pictures    {args.out / 'contact.png'}")
    return 0


def convert(args: argparse.Namespace) -> int:
    """Writes the shards and prints what was written and what was dropped."""
    from mmjax.data import ledger, rewrite
    from mmjax.data.sources import open_source
    from mmjax.train.progress import Progress

    bar = Progress(len(open_source(args.data)), stage="writing")
    try:
        written = rewrite.convert(
            args.data, args.output, args.format, args.shards, args.workers, checked=not args.unchecked, tick=bar.update
        )
    finally:
        bar.close()
    size = written["bytes"] / 2**20
    print(f"{args.output}: {written['records']:,} records in {len(written['shards'])} shards, {size:,.1f} MiB")
    if written["dropped"]:
        print(f"dropped: {ledger.words(written['dropped'])}; {args.output / ledger.FILE} says which")
    print(f"opens as: {written['opens_as']}")
    return 0
