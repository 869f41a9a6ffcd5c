"""`mmjax embed`: embeddings of a source's pictures or texts, with the key of each, as NumPy or Parquet."""

import argparse
import dataclasses
import io
import json
import pathlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from mmjax.model import LoadedModel

SUFFIXES = (".npy", ".parquet")
WHAT = ("images", "texts")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, metavar="DIR",
                        help="a work directory, or a checkpoint of any layout")  # fmt: skip
    parser.add_argument("--data", required=True, metavar="SPEC", help="a source, such as folder:pictures")
    parser.add_argument("--output", type=pathlib.Path, required=True, metavar="FILE",
                        help="FILE.npy (keys in FILE.json beside it) or FILE.parquet")  # fmt: skip
    parser.add_argument("--what", choices=WHAT, default="images", help="default: images")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N examples, spread evenly over the source")
    parser.add_argument("--step", type=int, metavar="N", help="of a training run; the last one unless told")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="over all devices (default 256)")
    parser.add_argument("--image-size", type=int, metavar="N", help="resize the positions for images of N pixels")
    parser.add_argument("--tokenizer", metavar="SPEC", help="for a checkpoint that has none")
    parser.add_argument("--templates", metavar="NAME|FILE", help="prompts around every text: a built-in set, or a file")
    parser.add_argument("--force", action="store_true", help="replace the output if it exists")


@dataclasses.dataclass(frozen=True)
class Row:
    """What an embedding is of: picture or text `place` of example `index`."""

    key: str
    index: int
    place: int
    text: str | None


def run(args: argparse.Namespace) -> int:
    """Embeds and writes; examples that cannot be used are left out, counted and named.

    Raises:
      UserError: no checkpoint, no such source, or an output that cannot be written.
    """
    from absl import logging

    from mmjax import model
    from mmjax.commands.left_out import tell
    from mmjax.core.errors import UserError

    logging.set_verbosity(logging.ERROR)
    check_output(args.output, args.force)
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: at least 1")
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: at least 1")
    if args.templates is not None and args.what != "texts":
        raise UserError("--templates are put around texts: give --what texts, too")
    loaded = model.load(args.checkpoint, step=args.step, image_size=args.image_size, tokenizer=args.tokenizer,
                        batch_size=args.batch_size)  # fmt: skip
    rows, features = embed(loaded, args.data, args.what, args.limit, args.templates)
    tell(loaded.tools.left_out)
    write(args.output, rows, features)
    print(f"{args.output}: {len(rows):,} {args.what} of {args.data}, {features.shape[1]} numbers each")
    return 0


def check_output(output: pathlib.Path, force: bool) -> None:
    """Raises UserError for a name of another kind, a missing folder, a missing package, or a file that exists."""
    from mmjax.core.errors import UserError

    if output.suffix not in SUFFIXES:
        raise UserError(f"--output {output}: the name ends in {' or '.join(SUFFIXES)}")
    if not output.absolute().parent.is_dir():
        raise UserError(f"--output {output}: there is no directory {output.absolute().parent}")
    if output.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise UserError(f"--output {output} needs pyarrow: pip install 'mmjax[parquet]', or write .npy") from error
    for path in (output, *([output.with_suffix(".json")] if output.suffix == ".npy" else [])):
        if path.exists() and not force:
            raise UserError(f"{path} exists; --force replaces it")


def embed(
    loaded: "LoadedModel", spec: str, what: str, limit: int | None = None, templates: str | None = None
) -> "tuple[list[Row], np.ndarray]":
    """What was embedded, and float32[N, E], unit length, in the order of the source.

    Every picture of an example counts, and every text. Pictures are read batch by batch and not kept.

    Raises:
      UserError: no example can be used, or one has no text.
    """
    import numpy as np

    from mmjax.core.errors import UserError
    from mmjax.evals.images import alternatives, examples
    from mmjax.train.progress import Progress

    source = loaded.tools.open_source(spec)
    rows, done = list[Row](), list[np.ndarray]()
    pictures, texts = list[np.ndarray](), list[str]()
    size = loaded.predictor.batch_size
    total = len(source) if limit is None else min(limit, len(source))
    bar = Progress(max(total, 1), stage="embed")

    def flush(everything: bool = False) -> None:
        while len(pictures) >= size or (everything and pictures):
            done.append(loaded.predictor.embed_image(pictures[:size]))
            del pictures[:size]

    try:
        for count, (index, example) in enumerate(examples(source, limit, loaded.tools)):
            key = str(example.get("key", index))
            if what == "images":
                found = alternatives(example)
                pictures += [loaded.tools.preprocess(picture) for picture in found]
                rows += [Row(key, index, place, None) for place in range(len(found))]
                flush()
            else:
                if not example.get("texts"):
                    raise UserError(f"{spec}: example {key!r} has no text; its keys are {sorted(example)}")
                texts += example["texts"]
                rows += [Row(key, index, place, text) for place, text in enumerate(example["texts"])]
            bar.update(count + 1)
        flush(everything=True)
    finally:
        bar.close()
    if what == "texts":
        return rows, loaded.embed_text(texts, templates or ("{}",))
    return rows, np.concatenate(done)


def write(output: pathlib.Path, rows: list[Row], features: "np.ndarray") -> None:
    """Writes embeddings and rows, each file whole or not at all.

    .npy: float32[N, E]; beside it FILE.json, a list of N objects {key, index, place[, text]}. .parquet: columns key,
    index, place, text (of texts), embedding (a list of E floats, its size fixed).
    """
    import numpy as np

    from mmjax.core import files

    content = io.BytesIO()
    plain: list[dict[str, Any]] = [{k: v for k, v in dataclasses.asdict(row).items() if v is not None} for row in rows]
    if output.suffix == ".npy":
        np.save(content, features)
        files.write_text(output.with_suffix(".json"), json.dumps(plain, ensure_ascii=False, indent=0) + "\n")
        files.write_bytes(output, content.getvalue())
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {name: [row[name] for row in plain] for name in plain[0]}
    flat = pa.array(np.ascontiguousarray(features).reshape(-1))
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, features.shape[1])
    pq.write_table(pa.table(columns), content)
    files.write_bytes(output, content.getvalue())
