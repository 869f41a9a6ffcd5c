"""Makes tests/golden/clip/open_clip_{b,c,d}: random models of open_clip with the options that its published ones use.

    pip install torch==2.13.0 safetensors ftfy regex tqdm huggingface_hub
    pip install --no-deps open_clip_torch==3.3.0 timm torchvision
    python tests/parity/open_clip_fixtures.py tests/golden/clip

open_clip imports torchvision, whose operators need a build for the very torch that is installed; none of them is used
here, so declaring the two whose absence stops the import is enough.
"""

import json
import pathlib
import sys

import numpy as np
import safetensors.numpy
import torch

_torchvision = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _torchvision.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from open_clip.loss import ClipLoss, SigLipLoss  # noqa: E402
from open_clip.model import CLIP, CustomTextCLIP  # noqa: E402

VIT = {"image_size": 24, "layers": 2, "width": 24, "head_width": 8, "patch_size": 8}
TEXT = {"context_length": 10, "vocab_size": 40, "width": 16, "heads": 2, "layers": 2}
TANH = {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-6}}
CASES = {
    "open_clip_b": (
        CLIP,
        {"embed_dim": 12, "vision_cfg": {**VIT, "mlp_ratio": 2.5}, "text_cfg": TEXT},
        "Plain keys, erf GELU, the largest id ends a text.",
    ),
    "open_clip_c": (
        CustomTextCLIP,
        {
            "embed_dim": 12,
            "vision_cfg": {**VIT, **TANH, "ls_init_value": 0.1, "no_ln_pre": True, "pool_type": "avg"},
            "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 7},
            "init_logit_bias": -10.0,
            "init_logit_scale": 2.0,
            "nonscalar_logit_scale": True,
        },
        "Custom-text keys, sigmoid loss, scale and bias stored as [1], layer scale, no norm before the blocks, "
        "mean of the patches, tanh GELU in the image tower, the id 7 ends a text.",
    ),
    "open_clip_d": (
        CLIP,
        {
            "embed_dim": 12,
            "vision_cfg": {"image_size": 32, "layers": [1, 1, 2, 1], "width": 4, "head_width": 16},
            "text_cfg": TEXT,
            "quick_gelu": True,
        },
        "ResNet in inference mode, head width 16 in the attention pool, quick GELU.",
    ),
}
LARGEST_GRADIENT = 1200  # values; larger ones are left out


def randomise(model: torch.nn.Module) -> None:
    """Every parameter and buffer random, at a scale that keeps outputs apart."""
    torch.manual_seed(0)
    with torch.no_grad():
        for key, value in model.named_parameters():
            noise = torch.randn_like(value)
            if key in ("logit_bias", "logit_scale"):
                value.fill_(-1.5 if key == "logit_bias" else 1.3)
            elif value.ndim == 1 and key.endswith("weight"):
                value.copy_(1 + 0.1 * noise)
            else:
                value.copy_(noise * (value[0].numel() ** -0.5 if value.ndim == 4 else 0.2))
        for key, value in model.named_buffers():
            if key.endswith("running_mean"):
                value.copy_(0.1 * torch.randn_like(value))
            elif key.endswith("running_var"):
                value.copy_(1 + 0.2 * torch.rand_like(value))
            elif key.endswith("num_batches_tracked"):
                value.fill_(17)


def inputs(config: dict) -> dict[str, np.ndarray]:
    """Three images and texts of different lengths."""
    rng, size = np.random.default_rng(0), config["vision_cfg"]["image_size"]
    ids = rng.integers(8, 38, (3, TEXT["context_length"]))
    for row, end in enumerate((4, 6, 9)):
        ids[row, end] = config["text_cfg"].get("eos_id", TEXT["vocab_size"] - 1)
        ids[row, end + 1 :] = 0
    return {"image": rng.normal(size=(3, 3, size, size)).astype(np.float32), "text": ids}


def outputs(model: torch.nn.Module, given: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Outputs by task."""
    image, text = torch.from_numpy(given["image"]), torch.from_numpy(given["text"])
    logits, transposed = model.get_logits(image, text)
    img, txt = model.encode_image(image, normalize=True), model.encode_text(text, normalize=True)
    scale = model.logit_scale.exp()
    loss = ClipLoss()(img, txt, scale)
    if model.logit_bias is not None:
        loss = SigLipLoss()(img, txt, scale, model.logit_bias)
    loss.sum().backward()
    encode = {
        "image_features": model.encode_image(image),
        "text_features": model.encode_text(text),
        "image_embeds": img,
        "text_embeds": txt,
        "logits_per_image": logits,
        "logits_per_text": transposed,
    }
    gradients = {f"grad.{key}": value.grad for key, value in model.named_parameters()}
    gradients = {key: value for key, value in gradients.items() if value.numel() <= LARGEST_GRADIENT}
    tasks = {"encode": encode, "encode_grad": {"loss": loss.reshape(()), **gradients}}
    return {task: {key: value.detach().numpy().copy() for key, value in found.items()} for task, found in tasks.items()}


def write(folder: pathlib.Path, name: str) -> None:
    """One fixture."""
    kind, config, notes = CASES[name]
    model = kind(**config).eval()
    randomise(model)
    given = inputs(config)
    made = outputs(model, given)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.numpy().copy() for key, value in sorted(model.state_dict().items())}
    safetensors.numpy.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    io = {f"{task}/in/{key}": value for task in made for key, value in given.items()}
    io |= {f"{task}/out/{key}": value for task, found in made.items() for key, value in found.items()}
    safetensors.numpy.save_file(io, folder / "io.safetensors")
    about = {"encode": "Features, unit features and logits.", "encode_grad": "The loss and its gradients."}
    tasks = {
        task: {
            "description": about[task],
            "inputs": {key: f"{value.dtype}{list(value.shape)}" for key, value in given.items()},
            "outputs": {key: f"{value.dtype}{list(value.shape)}" for key, value in found.items()},
            "tolerance": 1e-4,
        }
        for task, found in made.items()
    }
    meta = {"system": "clip", "variant": name, "layout": "open_clip", "source": f"open_clip 3.3.0 {kind.__name__}"}
    meta |= {"notes": f"{notes} Evaluation mode, all parameters random.", "tasks": tasks}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


if __name__ == "__main__":
    for case in CASES:
        write(pathlib.Path(sys.argv[1]) / case, case)
