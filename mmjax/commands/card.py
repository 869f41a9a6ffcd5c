"""The model card of an exported checkpoint, README.md: what it is, how to load it, its data, licences and metrics."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from mmjax.commands.models import Model
from mmjax.core import trees
from mmjax.weights import licences
from mmjax.weights.siglip import is_siglip

CARD = "README.md"
_MOST_METRICS = 40


def write(directory: pathlib.Path, model: Model, layout: str, tokenizer: str | None) -> None:
    """Writes the card into an exported folder.

    Args:
      directory: the folder.
      model: what was exported.
      layout: in which layout.
      tokenizer: what other libraries can do with its files; None: there are none.
    """
    (directory / CARD).write_text(text(model, layout, tokenizer), encoding="utf-8")


def text(model: Model, layout: str, tokenizer: str | None) -> str:
    """The card as Markdown."""
    config = model.config or {}
    kind = "SigLIP" if is_siglip(model.system) else {"clip": "CLIP"}.get(name := model.system["name"], name.upper())
    title = str(config.get("title") or f"{kind}, exported by mmjax")
    parts = [
        _front(model),
        f"# {title}",
        _about(model, layout),
        *model.changes,
        "## How to load it",
        _loading(model, layout),
    ]
    if tokenizer is not None:
        parts.append(f"Tokenizer: {tokenizer}.")
    else:
        parts.append("There is no tokenizer in this folder: the checkpoint that it was made from had none.")
    parts += ["## Licences of what went into it", _licences(model), "## Metrics", _metrics(model)]
    parts += ["## Model", _code("json", model.system)]
    if "stages" in config:
        parts += ["## Config of the run", _code("json", {k: v for k, v in config.items() if k != "origin"})]
    return "\n\n".join(parts) + "\n"


def _front(model: Model) -> str:
    """The front matter: a licence only if everything that went in has one and the same."""
    known = {item["licence"] for item in model.licences if item["licence"] != licences.UNKNOWN}
    whole = len(known) == 1 and all(item["licence"] in known for item in model.licences)
    lines = ["---", f"license: {json.dumps(known.pop())}" if whole else "license: other"]
    lines += [] if whole else ["license_name: see-the-ledger-below"]
    task = {"language": "text-generation", "llava": "image-text-to-text"}.get(model.system["name"])
    return "\n".join([*lines, f"tags: [mmjax, {task or 'zero-shot-image-classification'}]", "---"])


def _about(model: Model, layout: str) -> str:
    parts, system = [f"{trees.count(model.variables['params']):,} parameters"], model.system
    if "image_size" in (img := system.get("img", {})):
        parts.append(f"images of {img['image_size']}x{img['image_size']} pixels")
    if "length" in (txt := system.get("txt", {})):
        parts.append(f"texts of {txt['length']} tokens out of {txt['vocab']:,}")
    if "llm" in system:
        parts.append(f"a decoder of {system['llm']['vocab']:,} tokens")
    if "embed_dim" in system:
        parts.append(f"embeddings of {system['embed_dim']}")
    about = f"{parts[0]}; {', '.join(parts[1:])}. Layout: {layout}. Written from: {model.layout}"
    return f"{about}{', ' if model.account else ''}{model.account.partition(chr(10))[0]}."


def _loading(model: Model, layout: str) -> str:
    kind = "Siglip" if is_siglip(model.system) else "CLIP"
    ours = 'import mmjax\n\nmodel = mmjax.load("DIR")'
    theirs = {
        "hf": f'from transformers import AutoTokenizer, {kind}Model\n\nmodel = {kind}Model.from_pretrained("DIR")\n'
        'tokenizer = AutoTokenizer.from_pretrained("DIR")',
        "open_clip": "import open_clip\n\n"
        'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:DIR")\n'
        'tokenizer = open_clip.get_tokenizer("local-dir:DIR")',
    }
    auto = {"language": "AutoModelForCausalLM", "llava": "AutoModelForImageTextToText"}.get(model.system["name"])
    if auto is not None:
        theirs = {"hf": f'from transformers import {auto}\n\nmodel = {auto}.from_pretrained("DIR")'}
    return "\n\n".join(f"```python\n{code}\n```" for code in [ours, *([theirs[layout]] if layout in theirs else [])])


def _licences(model: Model) -> str:
    lines = licences.lines(model.licences)
    if not lines:
        return "Nothing is recorded: the licences of its weights, data and tokenizer are unknown."
    return "\n".join(f"- {line}" for line in lines)


def _metrics(model: Model) -> str:
    if not model.metrics:
        return "None are recorded with the checkpoint."
    rows = [f"| {name} | {value} |" for name, value in list(model.metrics.items())[:_MOST_METRICS]]
    return "\n".join(["| metric | value |", "|---|---|", *rows])


def _code(language: str, content: Mapping[str, Any]) -> str:
    return f"```{language}\n{json.dumps(content, indent=1, default=str)}\n```"
