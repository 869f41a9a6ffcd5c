"""`mmjax train`: trains a config in a work directory, from the start or from where it was."""

import argparse
import pathlib
import sys
from logging import ERROR, LogRecord, getLogger

from absl import logging


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; `--config.key=value` changes fields of the config."""
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="an ml_collections config")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, metavar="DIR", help="where results go")
    parser.add_argument(
        "--distributed", action="store_true", help="join the other processes of this job (found as JAX finds them)"
    )
    parser.epilog = "Any field of the config can be set: --config.data.batch_size=512 --config.stages.train.lr=3e-4"


def said_once(record: LogRecord) -> bool:
    """False for errors of the storage library and its event loop: logged with their traceback, they are raised, too."""
    return record.levelno < ERROR or not ("orbax" in record.pathname or record.name == "asyncio")


def run(args: argparse.Namespace) -> int:
    """Trains; an interrupted run is saved and exits with 128 + the signal's number, as the shell expects."""
    import jax

    from mmjax import main
    from mmjax.core import config
    from mmjax.train.loop import Interrupted

    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    if not args.debug:
        for logger in (logging.get_absl_logger(), getLogger("asyncio")):
            logger.addFilter(said_once)
    if args.distributed:
        jax.distributed.initialize()
    try:
        main.train(config.load(args.config, args.overrides), args.workdir)
    except Interrupted as stop:
        print(f"{stop}: saved; the same command goes on from here", file=sys.stderr)
        return 128 + stop.signum
    return 0
