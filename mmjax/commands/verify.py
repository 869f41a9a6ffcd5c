"""`mmjax verify`: re-computes golden fixtures and compares every output."""

import argparse
import json
import pathlib
import sys

MOST_NAMED = 12  # failures in the last line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "folders", nargs="+", type=pathlib.Path, metavar="DIR", help="a fixture, or a folder of fixtures (at any depth)"
    )
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write the results as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints max |Δ| of every output; 0 if all are within tolerance, 1 if not.

    Raises:
      UserError: a folder is no fixture, or a file of it is missing or unreadable.
    """
    from mmjax.commands import golden
    from mmjax.core import files

    folders = [fixture for folder in args.folders for fixture in golden.find_fixtures(folder)]
    results = []
    for folder in folders:
        for result in golden.run_fixture(folder):
            results.append(result)
            print(result.line(), flush=True)
    failed = [result for result in results if not result.passed]
    for why in sorted({result.why for result in failed if "\n" in result.why}):
        print(why, file=sys.stderr)
    print(f"{len(folders)} fixtures, {len(results)} outputs, {len(failed)} failed")
    if args.json is not None:
        files.write_text(args.json, json.dumps([result.as_dict() for result in results], indent=1) + "\n")
    if failed:
        names = [f"{result.fixture} {result.task}/{result.output}" for result in failed]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        print(f"failed: {', '.join(names[:MOST_NAMED])}{more}", file=sys.stderr)
    return 1 if failed else 0
