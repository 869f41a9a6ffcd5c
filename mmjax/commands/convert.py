"""`mmjax convert`: a checkpoint from one layout into another."""

import argparse
import pathlib
import shutil

LAYOUTS = ("hf", "openai", "open_clip", "albef", "blip", "llava", "vlmo", "torchscale", "beit2", "mmjax")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--input", type=pathlib.Path, required=True, metavar="DIR", help="a checkpoint of any layout")
    parser.add_argument("--output", type=pathlib.Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--layout", choices=LAYOUTS, required=True, help="the layout to write")
    parser.add_argument("--image-size", type=int, metavar="N", help="resize the positions for images of N pixels")
    parser.add_argument("--grow-vocab", type=int, metavar="N", help="give the token embedding N rows; the new ones are "
                        "the mean of the old ones")  # fmt: skip
    parser.add_argument("--merge-lora", action="store_true", help="put adapters into the maps that they stand beside; "
                        "published layouts always have them there")  # fmt: skip
    parser.add_argument("--int8", action="store_true", help="round the kernels of a decoder's blocks to 8 bits, for "
                        "adapters to train beside them; layout mmjax")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace what the output folder holds")


def run(args: argparse.Namespace) -> int:
    """Reads, writes, and prints what came from where.

    Raises:
      UserError: the input is no checkpoint, its vocabulary is larger than the wanted one, the output is not empty, or
        its layout cannot hold the model.
    """
    from mmjax.commands import models
    from mmjax.core.errors import UserError
    from mmjax.weights import licences

    check_output(args.output, args.input, args.force)
    model = models.load(args.input, image_size=args.image_size)
    if args.grow_vocab is not None:
        model = models.grow_vocab(model, args.grow_vocab)
    if args.int8 and args.layout != "mmjax":
        raise UserError(f"--int8: the layout {args.layout} has no place for kernels of 8 bits; mmjax's has")
    if args.layout != "mmjax" or args.merge_lora:
        model = models.merge_lora(models.from_int8(model))
    if args.int8:
        model = models.round_to_int8(model)
    print("\n".join([f"{args.input} ({model.layout}): {model.account}", *model.changes]))
    partial = args.output.with_name(args.output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        models.save(model, args.layout, partial)
        if args.output.exists():
            shutil.rmtree(args.output)
        partial.rename(args.output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for line in licences.lines(model.licences):
        print(f"licence of {line}")
    print(f"{args.output} ({args.layout}): {', '.join(sorted(path.name for path in args.output.iterdir()))}")
    return 0


def check_output(output: pathlib.Path, source: pathlib.Path, force: bool) -> None:
    """Refuses to overwrite without `force`, and to overwrite the input at all.

    Raises:
      UserError: see above.
    """
    from mmjax.core.errors import UserError

    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is not a folder")
    inside = output.resolve() in (source.resolve(), *source.resolve().parents)
    if inside:
        raise UserError(f"the output {output} is or holds the input {source}; name another folder")
    if output.is_dir() and any(output.iterdir()) and not force:
        raise UserError(f"{output} is not empty; --force replaces what it holds")
