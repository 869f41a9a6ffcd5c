"""`mmjax generate`: what a checkpoint writes about pictures: captions, continued prompts, answers to questions."""

import argparse
import json
import pathlib
import time
from typing import Any

BEAMS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, metavar="DIR",
                        help="a work directory, or a checkpoint of any layout")  # fmt: skip
    parser.add_argument("--image", type=pathlib.Path, nargs="+", required=True, metavar="FILE", help="pictures")
    parser.add_argument("--prompt", help="what the text begins with; a question, for a checkpoint that answers them "
                        "(default: what the system begins with by itself)")  # fmt: skip
    parser.add_argument("--max-length", type=int, metavar="N", help="tokens at most, prompt included (default 30, but "
                        "of a system that reads conversations --max-new 128)")  # fmt: skip
    parser.add_argument("--max-new", type=int, metavar="N", help="tokens at most after the prompt")
    parser.add_argument("--min-length", type=int, metavar="N", help="tokens at least, prompt included (default 0)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--beam",
        type=int,
        metavar="N",
        help=f"beam search with N beams (default, N = {BEAMS}; 1: greedy, as conversations are unless told)",
    )
    how.add_argument("--nucleus", type=float, metavar="P", help="sample from the likeliest tokens that make up P")
    how.add_argument("--top-k", type=int, metavar="K", help="sample from the K likeliest tokens")
    parser.add_argument("--temperature", type=float, metavar="T", help="of sampling (default 1)")
    parser.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1: repeat less (default 1)")
    parser.add_argument("--length-penalty", type=float, metavar="L", help="of beam search (default 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of sampling (default 0)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="over all devices (default 32)")
    parser.add_argument("--step", type=int, metavar="N", help="of a training run; the last one unless told")
    parser.add_argument("--tokenizer", metavar="SPEC", help="for a checkpoint that has none")
    parser.add_argument("--template", metavar="NAME", help="how conversations are written, for a checkpoint that does "
                        "not say it, such as vicuna_v1")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object for each picture")


def run(args: argparse.Namespace) -> int:
    """Prints a line for each picture.

    Raises:
      UserError: no checkpoint, no picture, or a checkpoint that does not write.
    """
    from absl import logging

    from mmjax import model
    from mmjax.core.errors import UserError

    logging.set_verbosity(logging.ERROR)
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: at least 1")
    pictures = [model.pixels(path) for path in args.image]  # before a large checkpoint is read
    options(args)  # a mistake is told before a large checkpoint is read
    loaded = model.load(args.checkpoint, step=args.step, tokenizer=args.tokenizer, template=args.template,
                        batch_size=args.batch_size)  # fmt: skip
    settings = options(args, chat=loaded.tools.ask is not None)
    begin = time.perf_counter()
    texts = loaded.generate(pictures, args.prompt, seed=args.seed, **settings)
    took = time.perf_counter() - begin
    for path, text in zip(args.image, texts, strict=True):
        if args.json:
            print(json.dumps({"image": str(path), "prompt": args.prompt, "text": text}, ensure_ascii=False))
        else:
            print(f"{path}: {text}" if len(texts) > 1 else text)
    if not args.json and len(texts) > 1:
        print(f"{len(texts)} texts in {took:.1f} s, compilation included")
    return 0


def options(args: argparse.Namespace, chat: bool = False) -> dict[str, Any]:
    """Settings of generation from the arguments; `chat`: of a system that reads conversations.

    Raises:
      UserError: an option of sampling without sampling, or of beam search with it.
    """
    from mmjax.core.errors import UserError

    made: dict[str, Any] = {"max_length": args.max_length, "max_new": args.max_new}
    if args.max_length is None and args.max_new is None:
        made |= {"max_new": 128} if chat else {"max_length": 30}
    if args.min_length is not None:
        made["min_length"] = args.min_length
    if args.repetition_penalty is not None:
        made["repetition_penalty"] = args.repetition_penalty
    if args.nucleus is not None or args.top_k is not None:
        made |= {"sample": True} | ({"top_p": args.nucleus} if args.nucleus is not None else {"top_k": args.top_k})
        if args.length_penalty is not None:
            raise UserError("--length-penalty is of beam search, and --nucleus and --top-k sample")
        return made | ({"temperature": args.temperature} if args.temperature is not None else {})
    if args.temperature is not None:
        raise UserError("--temperature is of sampling: give --nucleus P or --top-k K, too")
    made["beams"] = args.beam if args.beam is not None else 1 if chat else BEAMS
    return made | ({"length_penalty": args.length_penalty} if args.length_penalty is not None else {})
