"""Makes tests/golden/clip/siglip_a: a random model of transformers' SiglipModel, with and without masked padding.

pip install '.[parity]'
PYTHONPATH=. python tests/parity/siglip_fixtures.py tests/golden/clip
"""

import json
import pathlib
import sys

import numpy as np
import safetensors.numpy
import torch

_torchvision = torch.library.Library("torchvision", "DEF")  # see conftest.py
for _name in ("nms", "qnms"):
    _torchvision.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from transformers import SiglipConfig, SiglipModel  # noqa: E402

from tests.parity.peers import randomise, siglip_outputs  # noqa: E402

TOWER = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "num_hidden_layers": 2}
TEXT = {**TOWER, "num_attention_heads": 4, "vocab_size": 50, "max_position_embeddings": 10, "projection_size": 24}
TEXT |= {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
VISION = {**TOWER, "image_size": 27, "patch_size": 8}  # three pixels are beyond the last patch
LARGEST_GRADIENT = 700  # values; larger ones are left out
ABOUT = "Features, logits, the sigmoid loss and its gradients; "


def main(folder: pathlib.Path) -> None:
    torch.manual_seed(0)
    model = randomise(SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION)), 0.2)
    rng, ends = np.random.default_rng(0), np.array((3, 6, 9))
    ids = rng.integers(3, 50, (3, 10))
    ids[np.arange(10)[None] >= ends[:, None]] = 1
    mask = (np.arange(10)[None] <= ends[:, None]).astype(np.int64)
    given = {"pixel_values": rng.normal(size=(3, 3, 27, 27)).astype(np.float32), "input_ids": ids}
    cases = {
        "unmasked": (given, ABOUT + "padding is seen, as in the published models."),
        "masked": ({**given, "attention_mask": mask}, ABOUT + "padding is masked."),
    }
    io, tasks = {}, {}
    for task, (inputs, about) in cases.items():
        made = siglip_outputs(model, inputs)
        made = {k: v for k, v in made.items() if not k.startswith("grad.") or v.size <= LARGEST_GRADIENT}
        io |= {f"{task}/in/{key}": np.ascontiguousarray(value) for key, value in inputs.items()}
        io |= {f"{task}/out/{key}": np.array(value, order="C") for key, value in made.items()}
        described = [{k: f"{v.dtype}{list(v.shape)}" for k, v in arrays.items()} for arrays in (inputs, made)]
        tasks[task] = {"description": about, "inputs": described[0], "outputs": described[1], "tolerance": 1e-4}
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    for extra in folder.iterdir():
        if extra.name not in ("config.json", "model.safetensors"):
            extra.unlink()
    safetensors.numpy.save_file(io, folder / "io.safetensors")
    meta = {"system": "siglip", "variant": "siglip_a", "layout": "hf", "source": "transformers 5.23.0 SiglipModel"}
    meta |= {"notes": "Evaluation mode, all parameters random; the image does not divide into patches.", "tasks": tasks}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) / "siglip_a")
