"""`mmjax chat`: a conversation about pictures with a checkpoint; answers appear as they are written."""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

HELP = """/image PATH  shows a picture with the next question; again for another (<image> in the question says where)
/reset       forgets the conversation and its pictures
/quit        ends, as the end of the input does"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, metavar="DIR",
                        help="a work directory, or a checkpoint of any layout")  # fmt: skip
    parser.add_argument("--image", type=pathlib.Path, nargs="+", default=[], metavar="FILE",
                        help="pictures for the first question")  # fmt: skip
    parser.add_argument(
        "--system", metavar="TEXT", help="what stands before the conversation (default: the template's)"
    )
    parser.add_argument("--template", metavar="NAME", help="how conversations are written, for a checkpoint that does "
                        "not say it, such as vicuna_v1")  # fmt: skip
    parser.add_argument(
        "--max-new", type=int, default=256, metavar="N", help="tokens of an answer at most (default 256)"
    )
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T",
                        help="above 0: sample; 0: the likeliest words (default)")  # fmt: skip
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P",
                        help="of sampling: the likeliest tokens that make up P")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of sampling (default 0)")
    parser.add_argument("--step", type=int, metavar="N", help="of a training run; the last one unless told")
    parser.add_argument("--tokenizer", metavar="SPEC", help="for a checkpoint that has none")


def run(args: argparse.Namespace) -> int:
    """Reads questions, one on each line, and writes the answers.

    Raises:
      UserError: no checkpoint, one that reads no conversations, or no such picture.
    """
    from absl import logging

    from mmjax import model
    from mmjax.core.errors import UserError

    logging.set_verbosity(logging.ERROR)
    settings: dict[str, Any] = {"max_new": args.max_new}
    if args.temperature:
        settings |= {"sample": True, "temperature": args.temperature, "top_p": args.top_p}
    elif args.top_p != 1:
        raise UserError("--top-p is of sampling: give --temperature T, too")
    pictures = [model.pixels(path) for path in args.image]  # before a large checkpoint is read
    loaded = model.load(args.checkpoint, step=args.step, tokenizer=args.tokenizer, template=args.template)
    talk = Talk(loaded, settings, args.system, args.seed)
    talk.ready()
    for picture in pictures:
        talk.show(picture)
    asks = sys.stdin.isatty()
    if asks:
        print(f"{loaded.account}\n{HELP}")
    for line in questions(sys.stdin, asks):
        if line == "/quit":
            break
        try:
            for piece in answer(talk, line):
                print(piece, end="", flush=True)
            print(flush=True)
        except UserError as error:
            if not asks:
                raise
            print(f"mmjax chat: {error}", file=sys.stderr)
    return 0


def questions(lines: Iterable[str], asks: bool) -> Iterator[str]:
    """The lines that are not empty; a person is asked for each."""
    if not asks:
        yield from (line.strip() for line in lines if line.strip())
        return
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        if line:
            yield line


def answer(talk: "Talk", line: str) -> Iterator[str]:
    """What a line brings: pieces of an answer, or of what a command says.

    Raises:
      UserError: a command that does not exist, no such picture, or a conversation that has grown too long.
    """
    from mmjax import model
    from mmjax.core.errors import UserError

    command, _, rest = line.partition(" ")
    if command == "/image":
        talk.show(model.pixels(rest.strip()))
        yield f"({rest.strip()} goes with the next question)"
    elif command == "/reset":
        talk.reset()
        yield "(forgotten)"
    elif command == "/help":
        yield HELP
    elif command.startswith("/"):
        raise UserError(f"{command} is no command; there are /image PATH, /reset, /help, /quit")
    else:
        yield from talk.say(line)


@dataclasses.dataclass
class Talk:
    """A conversation as it goes on.

    Attributes:
      loaded: the model. settings: of generation. system: the system text, None: the template's. seed: of sampling.
      turns: questions and answers so far. pictures: that they name.
      shown: how many pictures the next question brings, the last ones.
    """

    loaded: Any
    settings: dict[str, Any]
    system: str | None = None
    seed: int = 0
    turns: list[tuple[str, str | None]] = dataclasses.field(default_factory=list)
    pictures: list[Any] = dataclasses.field(default_factory=list)
    shown: int = 0

    def ready(self) -> None:
        """Raises UserError for a checkpoint that reads no conversations, or does not say how they are written."""
        from mmjax import systems
        from mmjax.core.errors import UserError

        if self.loaded.tools.ask is None:
            name = self.loaded.system["name"]
            raise UserError(f"the system {name} reads no conversations; those that do: {', '.join(systems.DECODERS)}")
        self.loaded.tools.ask.known(0)
        self.loaded.tools.how(self.settings)

    def show(self, picture: Any) -> None:
        """A picture for the next question.

        Raises:
          UserError: the system sees none.
        """
        self.loaded.tools.ask.known(len(self.pictures) + 1)
        self.pictures.append(picture)
        self.shown += 1

    def reset(self) -> None:
        """Forgets everything but the system text."""
        self.turns, self.pictures, self.shown = [], [], 0

    def say(self, question: str) -> Iterator[str]:
        """The answer in pieces; pictures that the question does not place stand before it. A failure changes nothing.

        Raises:
          UserError: other pictures than the question names, or no room is left.
        """
        from mmjax.core.errors import BadExample, UserError
        from mmjax.data.chat import IMAGE, Conversation

        if not question.count(IMAGE):
            question = f"{IMAGE}\n" * self.shown + question
        turns = [*self.turns, (question, None)]
        talk = Conversation(f"question {len(turns)}", turns, self.system)
        try:
            batch = self.loaded.tools.ask.talk(talk, self.pictures)
        except BadExample as error:
            raise UserError(f"{error}") from error
        text = ""
        for piece in self._written(batch):
            text += piece
            yield piece
        # An answer without a word could not be read again: the template has no place for it.
        if text.strip():
            self.turns, self.shown = [*self.turns, (question, text.strip())], 0

    def _written(self, batch: dict[str, Any]) -> Iterator[str]:
        """The answer in pieces."""
        import numpy as np

        from mmjax.core import sharding as shd
        from mmjax.decoders.generate import bucketed, stream

        width = batch["ids"].shape[1]
        ids, valid = bucketed(batch["ids"], batch["valid"], max(self.loaded.tools.ask.most, width))
        batch = {**batch, "ids": ids, "valid": valid, "seed": np.array([self.seed + len(self.turns)], np.uint32)}
        if "slot" in batch:
            grow = ((0, 0), (0, ids.shape[1] - width))
            batch["slot"] = np.pad(batch["slot"], grow, constant_values=-1)
        how, ends = self.loaded.tools.how(self.settings), self.loaded.module.end_ids
        found: list[int] = []
        text = ""

        def more(last: bool) -> str:
            """What is new; a character may take several tokens, and is not shown before the last of them is there."""
            whole = self.loaded.tools.decode(np.array(found, np.int32)).lstrip()
            return whole[len(text) :] if last or not whole.endswith("\ufffd") else ""

        with shd.use_mesh(self.loaded.predictor.mesh):
            for tokens, got in stream(self.loaded.module, self.loaded.variables, batch, how):
                if got[0] and int(tokens[0]) not in ends:
                    found.append(int(tokens[0]))
                    if piece := more(False):
                        text += piece
                        yield piece
        if piece := more(True):
            yield piece
