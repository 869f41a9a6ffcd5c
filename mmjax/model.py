"""A checkpoint ready to use: pictures and texts in, embeddings out. `mmjax.load` is `load` of this module."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Float32
from PIL import Image

from mmjax import inputs, systems
from mmjax.commands import models
from mmjax.core import sharding as shd
from mmjax.core.errors import BadExample, UserError
from mmjax.core.placement import put
from mmjax.data.decode import decode_image
from mmjax.data.tokenizers import Tokenizer, open_tokenizer
from mmjax.evals.base import Predictor, Tools, seeds
from mmjax.evals.prompts import PLAIN, embed_ensemble, load_templates
from mmjax.weights import positions

CAPTION = {"beams": 3, "max_length": 30}
ANSWER = {"max_new": 128}
"""Settings of generation unless told: of captions, and of answers in a conversation."""

Picture = np.ndarray | Image.Image | str | pathlib.Path


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with what surrounds it.

    Attributes:
      path: where it comes from.
      account: what was found there, in words.
      system: mapping for `systems.build`, sizes spelled out.
      module: the Linen module: `model.module.apply(model.variables, …, method="embed_image")`.
      variables: its variables, on the devices.
      tokenizer: its tokenizer.
      config: the config of the training run; empty for a published checkpoint.
      predictor: runs named methods in batches on all devices.
      tools: what evaluators need: sources, preprocessing, tokenization.
    """

    path: pathlib.Path
    account: str
    system: Mapping[str, Any]
    module: nn.Module
    variables: Mapping[str, Any]
    tokenizer: Tokenizer
    config: Mapping[str, Any]
    predictor: Predictor
    tools: Tools

    def embed_image(self, pictures: Sequence[Picture]) -> Float32[np.ndarray, "N E"]:
        """Unit embeddings of pictures of any size, preprocessed as in evaluation.

        Args:
          pictures: arrays uint8[Y, X, C] with C = 1, 3 or 4, PIL images, or paths of image files.

        Raises:
          UserError: no pictures, or something else than a picture.
        """
        return self.predictor.embed_image([self.tools.preprocess(pixels(picture)) for picture in _several(pictures)])

    def embed_text(self, texts: Sequence[str], templates: str | Sequence[str] = PLAIN) -> Float32[np.ndarray, "N E"]:
        """Unit embeddings of texts, each averaged over prompt templates (by default the text as it is).

        Args:
          texts: what to embed.
          templates: texts with `{}` in them, or the name of a built-in set: "photo", "drawing".

        Raises:
          UserError: no texts, or templates that do not exist.
        """
        return embed_ensemble(self.predictor, self.tools.tokenize, _several(texts), load_templates(templates))

    def generate(
        self, pictures: Sequence[Picture], prompt: str | Sequence[str] | None = None, *, seed: int = 0, **settings: Any
    ) -> list[str]:
        """A text for each picture: a caption, a prompt gone on with, or the answer to a question.

        Args:
          pictures: as for `embed_image`.
          prompt: what the texts begin with, or, of a system that answers questions or reads conversations, the
            question; one for all, or one for each; None: what the system begins with by itself. The prompt is not part
            of what is returned.
          seed: of sampling.
          **settings: of generation, the fields of `mmjax.decoders.settings.Settings`; beam search with three beams of
            at most 30 tokens unless told, or of a system that reads conversations greedy with at most 128 new ones.

        Raises:
          UserError: a checkpoint that does not write, no pictures, or settings that do not exist.

        Example:
          mmjax.load("runs/blip").generate(["cat.jpg"], sample=True, top_p=0.9, max_length=20)
        """
        self.predictor.check("generate")
        ask = self.tools.ask
        how = self.tools.how(settings or (CAPTION if ask is None else ANSWER))
        images = [self.tools.prepare(pixels(picture)) for picture in _several(pictures)]
        batch: dict[str, Any] = {"image": images, "seed": seeds(seed, len(images))}
        each = [prompt or ""] * len(images) if prompt is None or isinstance(prompt, str) else list(prompt)
        if len(each) != len(images):
            raise UserError(f"{len(each)} prompts for {len(images)} pictures; give one for each, or one for all")
        if ask is not None:
            batch |= ask(each, images)
        elif prompt is not None:
            answers = hasattr(self.predictor.system, "rank_answers")  # these read the whole question
            batch["ids"], batch["valid"] = (self.tools.tokenize if answers else self.tools.begin)(each)
        return self.tools.written(self.predictor.over("generate", batch, how))


def load(
    path: str | pathlib.Path,
    *,
    step: int | None = None,
    image_size: int | None = None,
    tokenizer: str | None = None,
    template: str | None = None,
    batch_size: int = 256,
) -> LoadedModel:
    """Loads a checkpoint of any layout: a work directory, mmjax's or a published folder, or a published weight file.

    Args:
      path: of the checkpoint.
      step: of a training run; the last one unless told.
      image_size: pixels, if not the model's own: its positions are resized.
      tokenizer: spec (`clip_bpe`, `sentencepiece:MODEL`, a directory) for a checkpoint that has none.
      template: how conversations are written (data/chat_templates.py), for a checkpoint that does not say it, or if
        not as it says.
      batch_size: examples at a time, over all devices.

    Raises:
      UserError: nothing readable there, no such step, no tokenizer that fits, or a template for a system without words.

    Example:
      model = mmjax.load("runs/demo")
      similarity = model.embed_image(["cat.jpg"]) @ model.embed_text(["a cat", "a dog"]).T  # float32[1, 2]
    """
    mesh = shd.make_mesh()
    everywhere = shd.replicated(mesh)
    found = models.load(
        path,
        image_size=image_size,
        step=step,
        place=lambda _, array: put(array, everywhere),
        where=lambda name: None if image_size and name in positions.TABLES else everywhere,  # these are resized first
    )
    words = open_tokenizer(tokenizer) if tokenizer else models.tokenizer_of(found)
    if words is None:
        raise UserError(f"{path} has no tokenizer; give its spec, such as clip_bpe or sentencepiece:MODEL")
    config = dict(found.config or {})
    data = dict(config.get("data") or {"eval_image": models.eval_image(found)})
    if template is not None:
        if found.system["name"] not in systems.DECODERS:
            raise UserError(f"template {template!r}: the system {found.system['name']} reads no conversations")
        data["task"] = {**models.chat_task(found, template), **(data.get("task") or {}), "template": template}
    settings = {"system": found.system, "data": data}
    inputs.check_vocabulary(settings, words)
    module, variables = systems.build(found.system), found.variables
    return LoadedModel(
        path=pathlib.Path(path),
        account=f"{found.layout}, {found.account}",
        system=found.system,
        module=module,
        variables=variables,
        tokenizer=words,
        config=config,
        predictor=Predictor(module, variables, batch_size=batch_size, mesh=mesh),
        tools=inputs.make_tools(settings, words),
    )


def pixels(picture: Picture) -> np.ndarray:
    """A picture as an array: uint8[Y, X, 3], or [Y, X, 4] where it has transparency; arrays as they are.

    Raises:
      UserError: no such file, or not an image.
    """
    if isinstance(picture, np.ndarray):
        return picture
    if isinstance(picture, Image.Image):
        clear = "A" in picture.getbands() or "transparency" in picture.info
        return np.asarray(picture.convert("RGBA" if clear else "RGB"))
    if not isinstance(picture, str | pathlib.Path):
        raise UserError(f"a picture is an array, a PIL image or a path, not {type(picture).__name__}")
    try:
        return decode_image(pathlib.Path(picture).read_bytes())
    except OSError as error:
        raise UserError(f"picture {picture}: {error.strerror}") from error
    except BadExample as error:
        raise UserError(f"picture {picture}: {error}") from error


def _several(items: Any) -> Any:
    """The items, if there are some; one alone is a mistake that would be taken for many."""
    if isinstance(items, str | pathlib.Path | Image.Image):
        raise UserError(f"expected several items, got one {type(items).__name__}: put it in a list")
    if not len(items):
        raise UserError("expected at least one item")
    return items
