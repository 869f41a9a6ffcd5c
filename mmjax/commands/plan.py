"""`mmjax plan`: whether a config fits on devices that need not be there, and how long a step takes at least."""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; `--config.key=value` changes fields of the config."""
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="an ml_collections config")
    parser.add_argument(
        "--topology", required=True, metavar="KIND:SIZE", help="the devices: cpu:8, v5e:16x16, v5p:8x8x8, h100:8, …"
    )
    parser.add_argument(
        "--compile", choices=("auto", "always", "never"), default="auto",
        help="ask the compiler for memory where there is one here (TPU: the extra tpu), insist, or estimate only",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def run(args: argparse.Namespace) -> int:
    """Prints the plan; whether it fits is in what it prints: the plan itself was made."""
    import jax

    from mmjax.core import config
    from mmjax.plan import report, topology

    jax.config.update("jax_platforms", "cpu")  # nothing is looked for, and nothing runs, on accelerators
    found = report.plan(config.plain(config.load(args.config, args.overrides)), topology.parse(args.topology),
                        args.compile)  # fmt: skip
    print(json.dumps(found, indent=1) if args.json else report.text(found))
    return 0
