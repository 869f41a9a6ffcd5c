"""`mmjax search`: the pictures of a folder (or of any source) that are most similar to a text or to another picture."""

import argparse
import hashlib
import os
import pathlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from mmjax.commands.index import Gallery
    from mmjax.model import LoadedModel

BACKENDS = ("matrix", "faiss")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("gallery", metavar="DIR|SPEC", help="a folder of pictures, or a source such as emoji:test "
                        "(the first picture of each of its examples)")  # fmt: skip
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, metavar="RUN",
                        help="a work directory, or a checkpoint of any layout")  # fmt: skip
    parser.add_argument("--query", metavar="TEXT", help="what to look for")
    parser.add_argument("--image", type=pathlib.Path, metavar="FILE", help="a picture to look for, instead of a text")
    parser.add_argument("--top", type=int, metavar="K", help="how many to show (default 10, or all if there are fewer)")
    parser.add_argument("--html", type=pathlib.Path, metavar="FILE", help="also write a contact sheet, one HTML file")
    parser.add_argument("--templates", metavar="NAME|FILE", help="prompts around the text: a built-in set, or a file")
    parser.add_argument("--backend", choices=BACKENDS, default="matrix", help="default: matrix, a plain product")
    parser.add_argument("--index", type=pathlib.Path, metavar="FILE.npz", help="where the index is kept (default: in "
                        "the user's cache folder, one for each folder and checkpoint)")  # fmt: skip
    parser.add_argument("--rebuild", action="store_true", help="embed every picture again")
    parser.add_argument("--step", type=int, metavar="N", help="of a training run; the last one unless told")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="over all devices (default 64)")
    parser.add_argument("--image-size", type=int, metavar="N", help="resize the positions for images of N pixels")
    parser.add_argument("--tokenizer", metavar="SPEC", help="for a checkpoint that has none")


def run(args: argparse.Namespace) -> int:
    """Brings the index up to date, prints what was found, and writes the contact sheet.

    Raises:
      UserError: no pictures, no checkpoint, an empty query, or more results asked for than there are pictures.
    """
    from absl import logging

    from mmjax import model
    from mmjax.commands import index as indexes
    from mmjax.commands.contact_sheet import contact_sheet
    from mmjax.commands.left_out import tell
    from mmjax.core import files

    logging.set_verbosity(logging.ERROR)
    check(args)
    gallery = open_gallery(args.gallery)
    check_top(args.top, len(gallery.stamps))
    loaded = model.load(args.checkpoint, step=args.step, image_size=args.image_size, tokenizer=args.tokenizer,
                        batch_size=args.batch_size)  # fmt: skip
    query = embed_query(loaded, args.query, args.image, args.templates)  # before the index: mistakes show at once
    index = indexes.build(gallery, loaded, args.index or kept_in(args.gallery, args.checkpoint), rebuild=args.rebuild)
    if index.note:
        print(index.note, file=sys.stderr)
    tell(index.left_out)
    found = index.search(query, min(10, len(index.keys)) if args.top is None else args.top, args.backend)
    print(f"{gallery.name}: {len(index.keys):,} pictures, {index.embedded:,} of them embedded now, "
          f"{len(index.left_out):,} left out")  # fmt: skip
    print("rank  similarity  picture")
    for rank, each in enumerate(found, 1):
        print(f"{rank:>4}  {each.similarity:>10.3f}  {each.key}")
    if args.html is not None:
        asked = args.query if args.query is not None else model.pixels(args.image)
        files.write_text(args.html, contact_sheet(gallery, found, asked))
        print(f"contact sheet: {args.html}")
    return 0


def check(args: argparse.Namespace) -> None:
    """Raises UserError for arguments that do not fit together, before anything is loaded."""
    from mmjax.core.errors import UserError

    if (args.query is None) == (args.image is None):
        raise UserError("give what to look for, either as --query TEXT or as --image FILE")
    if args.query is not None and not args.query.strip():
        raise UserError("--query is empty: give a text, such as 'a red car'")
    if args.image is not None and not args.image.is_file():
        raise UserError(f"--image {args.image}: there is no such file")
    if args.image is not None and args.templates is not None:
        raise UserError("--templates are put around the text of --query, not around --image")
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: at least 1")
    for name in ("html", "index"):
        path = getattr(args, name)
        if path is not None and path.is_dir():
            raise UserError(f"--{name} {path} is a folder; give the name of a file")
    if args.html is not None and not args.html.absolute().parent.is_dir():
        raise UserError(f"--html {args.html}: there is no directory {args.html.absolute().parent}")


def check_top(top: int | None, pictures: int) -> None:
    """Raises UserError if fewer pictures are there than are asked for: known before a long build."""
    from mmjax.core.errors import UserError

    if top is not None and not 1 <= top <= pictures:
        raise UserError(f"--top {top}: there are {pictures} pictures; valid: 1 to {pictures}")


def open_gallery(name: str) -> "Gallery":
    """The folder of that name, or else the source.

    Raises:
      UserError: neither is there.
    """
    from mmjax.commands import index as indexes
    from mmjax.core.errors import UserError
    from mmjax.data.sources import SOURCES

    path = pathlib.Path(name)
    if path.is_dir():
        return indexes.Folder(path)
    if name.partition("?")[0].partition(":")[0] in SOURCES:
        return indexes.SourceGallery(name)
    raise UserError(f"{name} is neither a folder nor a source; sources: {', '.join(SOURCES)}")


def embed_query(
    loaded: "LoadedModel", text: str | None, image: pathlib.Path | None, templates: str | None
) -> "np.ndarray":
    """float32[E], unit length, of the text or of the picture."""
    from mmjax.core.errors import UserError
    from mmjax.data.decode import decode_image
    from mmjax.data.example import BadExample

    if image is None:
        return loaded.embed_text([text or ""], templates or ("{}",))[0]
    try:
        return loaded.embed_image([decode_image(image.read_bytes())])[0]
    except (BadExample, OSError) as error:
        raise UserError(f"--image {image}: {error}") from error


def kept_in(gallery: str, checkpoint: pathlib.Path) -> pathlib.Path:
    """The file in the user's cache folder in which the index of a gallery by a checkpoint is kept."""
    path = pathlib.Path(gallery)
    what = str(path.resolve()) if path.is_dir() else f"{gallery} in {pathlib.Path.cwd()}"
    name = hashlib.sha256(f"{what}\n{checkpoint.resolve()}".encode()).hexdigest()[:24]
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(root) / "mmjax" / "search" / f"{name}.npz"
