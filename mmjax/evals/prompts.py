"""Texts as embeddings: each distinct text once, and prompt ensembles."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mmjax.core.errors import UserError
from mmjax.evals.base import Predictor, Tokenize

PLAIN = ("{}",)

# Neutral descriptions of how a picture may show a thing; averaging them cancels part of what each adds.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": PLAIN,
    "photo": (
        "a photo of a {}",
        "a photo of the {}",
        "a photo of one {}",
        "a photo of many {}",
        "a close-up photo of a {}",
        "a cropped photo of a {}",
        "a bright photo of a {}",
        "a dark photo of a {}",
        "a blurry photo of a {}",
        "a black and white photo of a {}",
        "a small {} seen from far away",
        "a large {} that fills the picture",
        "a good picture of a {}",
        "a picture of a {} outdoors",
        "a picture of a {} indoors",
        "a {} on a plain background",
    ),
    "drawing": (
        "{}",
        "a drawing of {}",
        "a picture of {}",
        "an icon of {}",
        "an emoji of {}",
        "a cartoon of {}",
        "a colourful illustration of {}",
        "{} on a plain background",
    ),
}


def load_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Templates from a list, the name of a built-in set, or a text file with one template on each line.

    Raises:
      UserError: an unknown name or file, or a template without exactly one `{}`.
    """
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        if not Path(templates).is_file():
            raise UserError(f"templates {templates!r} is neither a file nor one of the sets {sorted(TEMPLATES)}")
        lines = Path(templates).read_text(encoding="utf-8").splitlines()
        templates = [line.strip() for line in lines if line.strip()]
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"template {template!r} must hold {{}} exactly once, where the name goes")
    if not templates:
        raise UserError("templates is empty; give at least one, for example '{}'")
    return tuple(templates)


def embed_texts(predictor: Predictor, tokenize: Tokenize, texts: Sequence[str]) -> Float32[np.ndarray, "N E"]:
    """Embeddings of texts; a text that occurs several times is encoded once."""
    unique = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    features = predictor.embed_text(*tokenize(list(unique)))
    return features[np.asarray([unique[text] for text in texts])]


def embed_ensemble(
    predictor: Predictor, tokenize: Tokenize, names: Sequence[str], templates: Sequence[str] = PLAIN
) -> Float32[np.ndarray, "N E"]:
    """Prompt ensemble: normalise the embedding of every template, average over templates, normalise again.

    Source: CLIP §3.1.4 and its zero-shot protocol.

    Raises:
      UserError: an embedding (or an average) of length zero, which has no direction.
    """
    prompts = [template.replace("{}", name) for name in names for template in templates]
    features = normalise(embed_texts(predictor, tokenize, prompts))
    return normalise(
        features.reshape(len(names), len(templates), -1).mean(axis=1)
    )  # [names, templates, E] -> [names, E]


def normalise(features: Float32[np.ndarray, "N E"]) -> Float32[np.ndarray, "N E"]:
    """Rows divided by their L2 norm."""
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    if not length.all():
        raise UserError(f"{int((length == 0).sum())} of {len(features)} embeddings are zero vectors")
    return features / length
