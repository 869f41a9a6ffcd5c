"""The `mmjax` command: parses, runs one of mmjax/commands, and turns a user's mistake into one line and exit code 2."""

import argparse
import importlib
import re
import signal
import sys
from collections.abc import Sequence

from mmjax import __version__
from mmjax.core import files, host_memory
from mmjax.core.errors import UserError

# name -> (module with add_arguments and run, help)
COMMANDS = {
    "train": ("mmjax.commands.train", "train a config; continues what the work directory holds"),
    "eval": ("mmjax.commands.evaluate", "evaluate a checkpoint"),
    "embed": ("mmjax.commands.embed", "write embeddings of pictures or texts to a file"),
    "capfilt": ("mmjax.commands.capfilt", "caption images, and keep the texts that fit them"),
    "generate": ("mmjax.commands.generate", "write captions of pictures, or answers about them"),
    "chat": ("mmjax.commands.chat", "talk with a checkpoint about pictures"),
    "search": ("mmjax.commands.search", "search pictures by a text or by another picture"),
    "convert": ("mmjax.commands.convert", "convert a checkpoint between layouts"),
    "data": ("mmjax.commands.data", "inspect a data source, or convert it to shards"),
    "plan": ("mmjax.commands.plan", "whether a config fits on devices, and how long a step takes"),
    "verify": ("mmjax.commands.verify", "re-compute golden fixtures"),
}


def make_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser; only the asked command's module is imported, so that `--help` answers at once."""
    parser = argparse.ArgumentParser(prog="mmjax", description="Multimodal models in JAX.")
    parser.add_argument("--version", action="version", version=f"mmjax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if name == command:
            importlib.import_module(module).add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 2 for a user's mistake, 130 for Ctrl-C, else the command's."""
    argv = list(sys.argv[1:] if argv is None else argv)
    host_memory.keep()
    command = next((word for word in argv if word in COMMANDS), None)
    parser = make_parser(command)
    args, rest = parser.parse_known_args(argv)
    overrides = [word for word in rest if word.startswith("--config.")]
    unknown = [word for word in rest if word not in overrides]
    bare = [word for word in overrides if "=" not in word]
    if bare:
        parser.error(f"{bare[0]} needs its value behind an equals sign: {bare[0]}=VALUE")
    if unknown or (overrides and not hasattr(args, "config")):
        parser.error(f"unknown arguments: {' '.join(unknown or overrides)}")
    args.overrides = overrides
    try:
        return importlib.import_module(COMMANDS[args.command][0]).run(args)
    except (UserError, OSError) as error:
        if args.debug:
            raise
        print(f"mmjax {args.command}: {said(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if args.debug:
            raise
        return 128 + signal.SIGINT


def said(error: UserError | OSError) -> str:
    """The message of a mistake, or of what the system refused (a full disk, a file that may not be read), in one line.

    Raises:
      OSError: it names no file and has no number: not the system's, but a bug, whose traceback is wanted.
    """
    if isinstance(error, UserError):
        return re.sub(r"\s*\n\s*", " ", str(error))
    if error.errno is None:
        raise error
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror or error}; {files.advice(error.errno)}"


if __name__ == "__main__":
    sys.exit(main())
