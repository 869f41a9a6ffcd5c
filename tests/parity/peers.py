"""What the live comparisons share: random weights, outputs under the names of fixtures, ours to compare with."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from mmjax import systems
from mmjax.commands import golden, models
from mmjax.core import trees

VOCAB, LENGTH, SIZE, PATCH, EMBED = 99, 12, 24, 6, 20


def randomise(model, scale: float = 0.15):
    """Every parameter random, in evaluation mode; the gains of norms around one, the similarity scale moderate."""
    import torch

    with torch.no_grad():
        for key, value in model.named_parameters():
            noise = torch.randn_like(value)
            gain = "norm" in key or ".ln_" in key
            value.copy_(1 + 0.1 * noise if gain and key.endswith("weight") else scale * noise)
    return model.eval()


def siglip_outputs(model, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What SiglipModel computes, under the names that fixtures use, gradients of every parameter included."""
    import torch

    tensors = {key: torch.from_numpy(value) for key, value in given.items()}
    model.zero_grad()
    out = model(**tensors, return_loss=True)
    out.loss.backward()
    names = ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text", "loss")
    found = {name: getattr(out, name) for name in names}
    vision, text = out.vision_model_output, out.text_model_output
    found |= {"vision_last_hidden_state": vision.last_hidden_state, "image_features": vision.pooler_output}
    found |= {"text_last_hidden_state": text.last_hidden_state, "text_features": text.pooler_output}
    found |= {f"grad.{key}": value.grad for key, value in model.named_parameters()}
    return {key: value.detach().numpy().copy() for key, value in found.items()}


def write_fixture(folder: pathlib.Path, given: Mapping, made: Mapping, system: str = "clip") -> None:
    """Inputs and outputs beside a checkpoint, as `mmjax verify` reads them."""
    task = {"inputs": {}, "outputs": dict.fromkeys(made, ""), "tolerance": 1e-4}
    (folder / "meta.json").write_text(json.dumps({"system": system, "layout": "hf", "tasks": {"live": task}}))
    io = {f"live/in/{key}": np.array(value, order="C") for key, value in given.items()}
    io |= {f"live/out/{key}": np.array(value, order="C") for key, value in made.items()}
    safetensors.numpy.save_file(io, folder / "io.safetensors")


def tensors(given: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The reference's inputs."""
    import torch

    return {key: torch.from_numpy(np.array(value)) for key, value in given.items()}


def arrays(**outputs: Any) -> dict[str, np.ndarray]:
    """The reference's outputs."""
    return {key: value.detach().numpy() for key, value in outputs.items()}


def verify(folder: pathlib.Path, system: str, tasks: Mapping[str, tuple[Mapping, Mapping, Mapping[str, Any]]]) -> None:
    """Writes inputs and outputs beside a checkpoint and verifies them; a task: (inputs, outputs, more of meta.json)."""
    io, about = {}, {}
    for name, (given, made, more) in tasks.items():
        io |= {f"{name}/in/{key}": np.array(value, order="C") for key, value in given.items()}
        io |= {f"{name}/out/{key}": np.array(value, order="C") for key, value in made.items()}
        about[name] = {"description": "", "inputs": {}, "outputs": dict.fromkeys(made, ""), "tolerance": 1e-4, **more}
    safetensors.numpy.save_file(io, folder / "io.safetensors")
    (folder / "meta.json").write_text(json.dumps({"system": system, "layout": "hf", "tasks": about}))
    results = golden.run_fixture(folder)
    assert results and all(result.passed for result in results), [result.line() for result in results]


def numbers(system: dict[str, Any], seed: int = 1) -> dict[str, Any]:
    """Random variables of a system."""
    rng = np.random.default_rng(seed)
    flat = {path: 0.2 * rng.normal(size=shape).astype(np.float32) for path, shape in models.shapes(system).items()}
    return trees.unflatten({k: np.abs(v) + 0.5 if k.endswith("/var") else v for k, v in flat.items()})


def our_logits(system: Mapping, variables: Mapping, pixels: np.ndarray, ids: np.ndarray, end: np.ndarray | None = None):
    """Our logits, rows = images, for the reference's inputs; `end`: int[B], where texts end (default: nowhere)."""
    length = ids.shape[1]
    valid = np.arange(length)[None] <= (np.full(len(ids), length) if end is None else end)[:, None]
    batch = {"image": pixels.transpose(0, 2, 3, 1), "ids": ids.astype(np.int32), "valid": valid}
    built = systems.build({**system, "dtype": "float32"})
    return jax.jit(lambda v, b: built.apply(v, b, method="logits"))(variables, jax.tree.map(jax.numpy.asarray, batch))
