"""Where weights and systems meet: any checkpoint, published or mmjax's own, as a system with its variables."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, Sharding

from mmjax import systems
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.stacking import STACK, unstack_blocks
from mmjax.data import anyres
from mmjax.data.choices import choose
from mmjax.data.tokenizers import (
    ClipBPE,
    Gemma,
    SentencePiece,
    SigLIP,
    Tokenizer,
    TokenizerJson,
    WordPiece,
    gemma,
    load_tokenizer,
)
from mmjax.data.tokenizers import wordpiece as bert
from mmjax.data.tokenizers.published import LLAMA_SPIECE, SPIECE, publish
from mmjax.systems import base, language
from mmjax.systems.clip import MEAN
from mmjax.train import checkpoint
from mmjax.weights import files, gguf_words, int8, licences, lora, positions, surgery, vocabulary
from mmjax.weights.gguf_file import GGUF, GGUFTensors
from mmjax.weights.licences import Entry
from mmjax.weights.siglip import is_siglip
from mmjax.weights.transforms import Shape

ORIGIN = "origin"  # in the config of an mmjax checkpoint: what the published one said besides its parameters


CLIP_VOCAB = 49_408
TOKENIZER_CONFIG = "tokenizer_config.json"  # beside Hugging Face's weights
HF_LARGEST = 2  # the eos_token_id by which transformers means the largest id of a text
OPEN_CLIP_CLEAN = {"canonicalize": "canonical", "lower": "lower", "whitespace": "none"}  # its names, gemma.CLEAN's
OPENAI_SPECIALS = ("<|startoftext|>", "<|endoftext|>")  # OpenAI's and Hugging Face's spelling


class Model(NamedTuple):
    """A checkpoint of any layout.

    Attributes:
      system: mapping for `systems.build`, sizes spelled out.
      variables: numpy arrays by collection.
      layout: "mmjax" or the published layout.
      origin: the published checkpoint that the variables come from unchanged, if they do.
      tokenizer: the folder of its tokenizer, or the tokenizer, if it has one.
      config: the config of the training run, if it comes from one.
      account: what came from where, in words.
      licences: the ledger of what went into it.
      metrics: of the training run's end, if there are any.
      changes: what was changed since it was read, in words.
    """

    system: dict[str, Any]
    variables: dict[str, Any]
    layout: str
    origin: surgery.Origin | None
    tokenizer: pathlib.Path | Tokenizer | None
    config: dict[str, Any] | None
    account: str
    licences: Sequence[Mapping[str, str]] = ()
    metrics: Mapping[str, Any] | None = None
    changes: tuple[str, ...] = ()


def spelled_out(system: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with `size` replaced by the published sizes that it names.

    Raises:
      UserError: no such size.
    """
    system = base.plain(system)
    size = system.pop("size", None)
    if size is None:
        return system
    sizes = systems.SIZES[system["name"]]
    base.check_choice(f"system {system['name']}: size", size, sizes)
    return base.override(sizes[size], system)


def shapes(system: Mapping[str, Any]) -> dict[str, Shape]:
    """Paths and shapes of a system's variables, blocks unrolled: "params/img/cls" -> (768,). Computes nothing."""
    left_out = {"scan", "loss_form", "loss_block"}  # no mesh is needed
    plain = {
        key: {k: v for k, v in value.items() if k != "scan"} if isinstance(value, Mapping) else value
        for key, value in system.items()
        if key not in left_out
    }
    model: Any = systems.build({**plain, "dtype": "float32"})
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):  # one row divides over no devices
        made = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), model.example(1))
    return {path: tuple(leaf.shape) for path, leaf in trees.flatten(shd.unbox(made)).items()}


def is_mmjax(path: pathlib.Path) -> bool:
    """Whether a path is a checkpoint (or a run's work directory) of mmjax."""
    return any((folder / checkpoint.DESCRIPTION).is_file() for folder in (path, path / "checkpoints", path.parent))


def read_system(path: str | pathlib.Path) -> dict[str, Any]:
    """The system mapping of a checkpoint of any layout, sizes spelled out; no tensor is read.

    Raises:
      UserError: see `load`.
    """
    path = pathlib.Path(path)
    return spelled_out(checkpoint.read_description(path)["system"]) if is_mmjax(path) else surgery.read_system(path)[0]


def load(
    path: str | pathlib.Path,
    *,
    image_size: int | None = None,
    text_length: int | None = None,
    step: int | None = None,
    only: Callable[[str], bool] | None = None,
    place: Callable[[str, Any], Any] | None = None,
    where: Callable[[str], Sharding | None] | None = None,
) -> Model:
    """Reads a checkpoint of any layout.

    Args:
      path: a folder or, for published weights, a file.
      image_size: resize the positions for images of this size.
      text_length: resize the positions for texts of this many tokens.
      step: of an mmjax checkpoint; the last one if None.
      only: which variables to read, by their paths ("params/img/cls", numbered blocks); default: all.
      place: called with path and array as each is read, to put it on its devices at once; its results are the
        variables. Default: numpy arrays, float32.
      where: of an mmjax checkpoint, path -> the sharding to which a variable is read piece by piece before `place`
        gets it, with its blocks stacked ("…/blocks/…") or numbered as they are stored; None: as a numpy array.

    Raises:
      UserError: see `weights.surgery.load` and `train.checkpoint.load_model`.
    """
    path = pathlib.Path(path)
    if not is_mmjax(path):
        if step is not None:
            raise UserError(f"{path} is no checkpoint of mmjax and has no steps, so step {step} means nothing")
        if (only is None or only(positions.TEXT)) and "txt" in read_system(path):
            _check_padding_side(path)
        loaded = surgery.load(path, shapes, image_size=image_size, text_length=text_length, only=only, place=place)
        account = loaded.account.summary()
        layout, terms = loaded.origin.layout, licences_of(path)
        return Model(loaded.system, loaded.variables, layout, loaded.origin, _vocabulary(path), None, account, terms)
    chosen = None if only is None else lambda name: STACK in name.split("/") or only(name)
    system, variables, tokenizer, config = checkpoint.load_model(path, step, only=chosen, where=where)
    system, variables, notes = positions.resize(spelled_out(system), variables, image_size, text_length)
    if only is not None or place is not None:
        flat = trees.flatten(variables)
        variables, placed = {}, {}
        for at in list(flat):  # each array is released when it has been placed
            tree = trees.unflatten({at: flat.pop(at)})
            for name, array in trees.flatten(tree if only is None else unstack_blocks(tree)).items():
                if only is None or only(name):
                    placed[name] = array if place is None else place(name, array)
        variables = trees.unflatten(placed)
    stored = (config or {}).get(ORIGIN)
    origin = surgery.Origin(**stored) if stored else None
    account = "\n".join([f"{trees.count(variables['params']):,} parameters of an mmjax checkpoint", *notes])
    return Model(system, variables, "mmjax", origin, tokenizer, config, account, licences_of(path), _metrics(path))


def eval_image(model: Model) -> dict[str, Any]:
    """How a published model's pictures are prepared, for `data.eval_image`: squeezed to a square, or cut as CLIP's, or
    filled up as LLaVA-1.5's, as its files say or its system does."""
    squeezed = is_siglip(model.system) or model.system["name"] in ("albef", "blip")
    mode: dict[str, Any] = {"mode": "square"} if squeezed else {}
    if model.origin is None:
        return mode
    if model.origin.fit:
        mode = {"mode": model.origin.fit}
    if model.origin.fit == "pad":
        mode["background"] = tuple(int(255 * value) for value in model.system.get("mean", MEAN))
    return {**mode, "resample": model.origin.resample}


def chat_task(model: Model, template: str) -> dict[str, Any]:
    """How a published model's conversations are written, for `data.task`; NeXT sees pictures in tiles."""
    config = {} if model.origin is None else model.origin.config
    task: dict[str, Any] = {"kind": "chat", "template": template}
    if model.layout == "hf" and model.system.get("newline"):
        return {**task, "grids": config.get("image_grid_pinpoints") or anyres.GRIDS, "rule": "hf"}
    if config.get("image_aspect_ratio") == "anyres":
        return {**task, "grids": config.get("image_grid_pinpoints") or anyres.GRIDS}
    return task


def grow_vocab(model: Model, rows: int) -> Model:
    """The model with a token embedding of so many rows; the new ones are the mean of the old ones.

    Raises:
      UserError: fewer rows than there are, or a system whose words are not a text tower's.
    """
    if "txt" not in model.system:
        raise UserError(f"the vocabulary of the system {model.system['name']} cannot be grown: it has no text tower")
    before = model.system["txt"]["vocab"]
    system, variables = vocabulary.grow(model.system, model.variables, rows)
    changes = (*model.changes, vocabulary.account(before, rows)) if rows > before else model.changes
    # CLIP's own tokenizer is told by the size of its vocabulary, which is another one now.
    return model._replace(system=system, variables=variables, tokenizer=tokenizer_of(model), changes=changes)


def merge_lora(model: Model) -> Model:
    """The model with its adapters put into the maps that they stand beside; one without any as it is."""
    system, variables, count = lora.merged(model.system, model.variables)
    if not count:
        return model
    said = f"{count} adapters (LoRA) were added to the maps that they stand beside"
    return model._replace(system=system, variables=variables, changes=(*model.changes, said))


def round_to_int8(model: Model) -> Model:
    """The model with the kernels of its decoder's blocks in 8 bits.

    Raises:
      UserError: see `weights.int8.rounded`.
    """
    system, variables = int8.rounded(model.system, model.variables)
    said = "the kernels of the decoder's blocks were rounded to 8 bits, with a scale for each column"
    return model._replace(system=system, variables=variables, origin=None, changes=(*model.changes, said))


def from_int8(model: Model) -> Model:
    """The model with kernels in 8 bits as the numbers that they stand for; one without any as it is."""
    system, variables, found = int8.restored(model.system, model.variables)
    if not found:
        return model
    said = "kernels in 8 bits were written as the numbers that they stand for"
    return model._replace(system=system, variables=variables, changes=(*model.changes, said))


def save(model: Model, layout: str, directory: pathlib.Path) -> None:
    """Writes a model in a layout.

    Args:
      model: as `load` returns it.
      layout: "mmjax" or a published layout.
      directory: made if missing.

    Raises:
      UserError: the layout cannot hold the model.
    """
    from mmjax.commands import card  # which knows Model

    tokenizer = tokenizer_of(model)
    if layout == "mmjax":
        origin = {ORIGIN: model.origin._asdict()} if model.origin else {}
        config = {**(model.config or {}), **origin}
        checkpoint.save_model(directory, model.system, model.variables, tokenizer=tokenizer, config=config or None,
                              licences=model.licences)  # fmt: skip
        card.write(directory, model, layout, None if tokenizer is None else "mmjax's own files, in tokenizer/")
        return
    end = None
    system, decoder = model.system, model.system["name"] in systems.DECODERS
    if (
        layout == "hf"
        and tokenizer is not None
        and tokenizer.eos_id == HF_LARGEST
        and not (decoder or is_siglip(system))
    ):
        model, end = _with_end(model, tokenizer)
    eos_id = None if tokenizer is None else tokenizer.eos_id if end is None else end[1]
    surgery.export(model.variables, model.system, layout, directory, origin=model.origin, eos_id=eos_id)
    length = language.LENGTH if decoder else system["txt"]["length"]
    image_id = files.read_json(directory / surgery.CONFIG).get("image_token_index") if layout == "hf" else None
    if image_id is not None and tokenizer is not None and image_id < tokenizer.vocab_size:
        image_id = None  # the vocabulary has it
    words = None
    if tokenizer is not None:
        words = publish(tokenizer, directory, length, end=end, decoder=decoder, image_id=image_id)
    if layout == "open_clip":
        _name_tokenizer(directory, tokenizer)
    card.write(directory, model, layout, words)
    files.write_json(directory / licences.LEDGER, licences.merge(model.licences))


def _with_end(model: Model, tokenizer: Tokenizer) -> tuple[Model, tuple[str, int]]:
    """The model with one more token behind its tokenizer's, a copy of its end token, and that token.

    transformers takes 2, the id that ends a text in many vocabularies, as its sign for "the largest id": it would read
    the texts of such a model at another token. A copy under an id of its own is read rightly, and computes the same. It
    takes the place of a row that no text of the tokenizer reads, if there is one: ids of tokens have no gaps.
    """
    flat, new = dict(trees.flatten(model.variables)), tokenizer.vocab_size
    table = np.asarray(flat[vocabulary.EMBEDDING])
    flat[vocabulary.EMBEDDING] = np.concatenate([table[:new], table[[tokenizer.eos_id]], table[new + 1 :]])
    system = {**model.system, "txt": {**model.system["txt"], "vocab": max(len(table), new + 1)}}
    return model._replace(system=system, variables=trees.unflatten(flat)), (OPENAI_SPECIALS[1], new)


def _name_tokenizer(directory: pathlib.Path, tokenizer: Tokenizer | None) -> None:
    """open_clip takes its own copy of CLIP's tokenizer unless its config names another one: then, the folder's."""
    if tokenizer is None or (isinstance(tokenizer, ClipBPE) and tokenizer.vocab_size == CLIP_VOCAB):
        return
    path = directory / surgery.OPEN_CLIP_CONFIG
    config = files.read_json(path)
    clean = {SigLIP.kind: "canonicalize", ClipBPE.kind: "lower"}.get(tokenizer.kind, "whitespace")
    if isinstance(tokenizer, Gemma):
        clean = {ours: theirs for theirs, ours in OPEN_CLIP_CLEAN.items()}[tokenizer.clean]
    config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": ".", "tokenizer_kwargs": {"clean": clean}}
    files.write_json(path, config)


def licences_of(path: str | pathlib.Path) -> list[Entry]:
    """The ledger of a checkpoint: the one that travels with it, or what its publisher's files say."""
    path = pathlib.Path(path)
    if not is_mmjax(path):
        ledger = (path if path.is_dir() else path.parent) / licences.LEDGER
        if ledger.is_file():
            return licences.merge(files.read_json_list(ledger))
        found = licences.of_files("weights", path)
        if found["licence"] == licences.UNKNOWN and (said := _gguf_facts(path).get("general.license")):
            found = licences.entry("weights", str(path), str(said), "general.license of the file")
        return [found]
    stored = checkpoint.read_description(path).get("licences")
    if stored is None:
        return [licences.entry("weights", str(path), licences.UNKNOWN, "a checkpoint without a ledger")]
    return licences.merge(stored)


def _gguf_facts(path: pathlib.Path) -> dict[str, Any]:
    """What a GGUF file says of itself; of another checkpoint nothing."""
    weights = files.find_weights(path)
    return GGUFTensors(weights).facts if weights.suffix == GGUF else {}


def _metrics(path: pathlib.Path) -> dict[str, Any] | None:
    """metrics.json of the run whose checkpoint this is."""
    found = checkpoint.find(path).parent / "metrics.json"
    return files.read_json(found) if found.is_file() else None


def _vocabulary(path: pathlib.Path) -> pathlib.Path | Tokenizer | None:
    """The vocabulary of a published checkpoint: a SentencePiece model, BERT's file, or a `tokenizer.json`; of a GGUF
    file its own, if none stands beside it."""
    folder = path if path.is_dir() else path.parent
    if named := [folder / name for name in (SPIECE, LLAMA_SPIECE) if (folder / name).is_file()]:
        return named[0]
    if (facts := _gguf_facts(path)) and not gguf_words.why_not(facts):
        try:
            if gguf_words.kind_of(facts) == "llama":
                return SentencePiece(gguf_words.sentence_piece(facts))
            content, names = gguf_words.tokenizer_json(facts)
            return TokenizerJson(content, **names)  # type: ignore[arg-type]
        except UserError as error:
            raise UserError(f"{path}: its vocabulary is damaged: {error}") from None
    found = None if gemma.is_published(folder) else bert.published_file(folder)
    return found or (folder / gemma.FILE if (folder / gemma.FILE).is_file() else None)


def _check_padding_side(path: pathlib.Path) -> None:
    """Raises UserError for a published tokenizer that pads on the left: the positions were trained for other places."""
    found = (path if path.is_dir() else path.parent) / TOKENIZER_CONFIG
    side = gemma.padding_side(files.read_json(found)) if found.is_file() else "right"
    if side != "right":
        raise UserError(
            f"{found}: padding_side = {side!r}, but CLIP's and SigLIP's text towers read texts padded on the right; if "
            f"the weights were trained so, as all that OpenAI, Google and open_clip publish, set it to 'right' there"
        )


def tokenizer_of(model: Model) -> Tokenizer | None:
    """The checkpoint's tokenizer; CLIP's own for a published model of its vocabulary."""
    found, system = model.tokenizer, model.system
    if isinstance(found, Tokenizer):
        return found
    if found is not None and found.is_dir():
        return load_tokenizer(found)
    if found is not None and found.name in (SPIECE, LLAMA_SPIECE):
        kind = SigLIP if is_siglip(system) else SentencePiece
        return kind(found.read_bytes())
    if found is not None and system["name"] in systems.DECODERS:
        return TokenizerJson.read(found.parent, end_id=next(iter(system.get("end_ids", ())), None))
    if found is not None and found == bert.published_file(found.parent):
        return WordPiece.read(found, added=(bert.DEC, bert.ENC) if system["name"] == "blip" else ())
    if found is not None and gemma.is_published(found.parent):
        return Gemma.read(
            found.parent,
            unsaid="lower" if is_siglip(system) else "none",  # SigLIP 2's training
            asked=_open_clip_clean(model.origin.config) if model.origin and model.layout == "open_clip" else "none",
        )
    if model.layout == "mmjax" or system.get("txt", {}).get("vocab") != CLIP_VOCAB:
        return None
    return ClipBPE() if model.layout == "open_clip" else ClipBPE(specials=OPENAI_SPECIALS)


def _open_clip_clean(config: Mapping[str, Any]) -> str:
    """What open_clip does with a text before its tokenizer gets it, in the words of `gemma.CLEAN`."""
    text = config.get("model_cfg", config).get("text_cfg", {})
    clean = text.get("tokenizer_kwargs", {}).get("clean", "whitespace")
    return OPEN_CLIP_CLEAN[choose("text_cfg.tokenizer_kwargs.clean of open_clip", clean, OPEN_CLIP_CLEAN)]
