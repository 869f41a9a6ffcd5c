"""`mmjax train`: trains a config in a work directory, from the start or from where it was."""

import argparse
import pathlib
import sys
from logging import ERROR, LogRecord, getLogger

from absl import logging

from mmjax.commands import distributed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; `--config.key=value` changes fields of the config."""
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="an ml_collections config")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, metavar="DIR", help="where results go")
    distributed.add_argument(parser)
    parser.epilog = "Any field of the config can be set: --config.data.batch_size=512 --config.stages.train.lr=3e-4"


def said_once(record: LogRecord) -> bool:
    """False for errors of the storage library and its event loop: logged with their traceback, they are raised, too."""
    return record.levelno < ERROR or not ("orbax" in record.pathname or record.name == "asyncio")


def run(args: argparse.Namespace) -> int:
    """Trains; an interrupted run is saved and exits with 128 + the signal's number, as the shell expects."""
    import jax

    from mmjax import main
    from mmjax.core import config, processes
    from mmjax.train.loop import Interrupted

    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    if not args.debug:
        for logger in (logging.get_absl_logger(), getLogger("asyncio")):
            logger.addFilter(said_once)
    settings = config.load(args.config, args.overrides)
    with processes.job(args.distributed, lambda: going_on(args.workdir)):
        try:
            main.train(settings, args.workdir)
        except Interrupted as stop:
            if jax.process_index() == 0:
                print(f"{stop}: saved; the same command goes on from here", file=sys.stderr)
            return 128 + stop.signum
    return 0


def going_on(workdir: pathlib.Path) -> str:
    """What helps when a peer was lost."""
    from mmjax.train import checkpoint

    there = checkpoint.steps(workdir / "checkpoints")
    where = f"goes on from step {there[-1]}" if there else "begins anew"
    return f"start the same command again, on any number of processes: it {where}"
