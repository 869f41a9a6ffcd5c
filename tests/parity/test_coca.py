"""Random models of open_clip's CoCa against ours, in both directions: same weights and inputs, same outputs."""

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from mmjax.commands import golden, models
from mmjax.core import trees
from mmjax.weights import surgery
from tests.parity.peers import randomise

pytestmark = pytest.mark.parity

TEXT = {"embed_cls": True, "output_tokens": True}
# Other widths, heads, depths, activations, norms and sizes than the fixtures': one with a pooler as wide as the tower.
CONFIGS: dict[str, dict] = {
    "wide": {
        "embed_dim": 40,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 30, "patch_size": 10, "layers": 3, "width": 40, "head_width": 8, "mlp_ratio": 3.0,
                       "attentional_pool": True, "attn_pooler_queries": 7, "attn_pooler_heads": 5,
                       "output_tokens": True, "ls_init_value": 0.3},
        "text_cfg": {**TEXT, "context_length": 8, "vocab_size": 70, "width": 40, "heads": 4, "layers": 1,
                     "proj_bias": True, "ls_init_value": 0.2},
        "multimodal_cfg": {"context_length": 8, "vocab_size": 70, "width": 40, "heads": 2, "layers": 3,
                           "ls_init_value": 0.4},
    },
    "tanh": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 1, "width": 36, "head_width": 12,
                       "attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 3, "no_ln_pre": True,
                       "output_tokens": True, "act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}},
        "text_cfg": {**TEXT, "context_length": 11, "vocab_size": 45, "width": 24, "heads": 3, "layers": 3,
                     "mlp_ratio": 2.5, "act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-2}},
        "multimodal_cfg": {"context_length": 11, "vocab_size": 45, "width": 24, "heads": 4, "layers": 1},
    },
    "averaged": {
        "embed_dim": 20,
        "vision_cfg": {"image_size": 24, "patch_size": 8, "layers": 2, "width": 32, "head_width": 8,
                       "pool_type": "avg", "final_ln_after_pool": True, "output_tokens": True},
        "text_cfg": {**TEXT, "context_length": 9, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2},
        "multimodal_cfg": {"context_length": 9, "vocab_size": 50, "width": 32, "heads": 8, "layers": 2},
    },
}  # fmt: skip


def peer(config: dict):
    """A CoCa with every parameter random, its output map, which the library leaves as it finds it, too."""
    import torch
    from open_clip.coca_model import CoCa

    torch.manual_seed(0)
    return randomise(CoCa(**config), 0.2)


def inputs(config: dict) -> dict[str, np.ndarray]:
    """Texts of different lengths; one has the id 0, which the library takes for padding, in its middle."""
    rng = np.random.default_rng(0)
    size, length, vocab = config["vision_cfg"]["image_size"], *(config["text_cfg"][k] for k in _TEXT_SIZE)
    ids = rng.integers(1, vocab - 2, (4, length))
    for row, end in enumerate((3, 5, length - 1, length - 2)):
        ids[row, 0], ids[row, end], ids[row, end + 1 :] = vocab - 2, vocab - 1, 0
    ids[3, 2] = 0
    return {"image": rng.normal(size=(4, 3, size, size)).astype(np.float32), "text": ids.astype(np.int64)}


_TEXT_SIZE = ("context_length", "vocab_size")


def outputs(model, given: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """By task, under the names that fixtures use; gradients of every parameter included."""
    import torch
    from open_clip.loss import CoCaLoss

    image, text = torch.from_numpy(given["image"]), torch.from_numpy(given["text"])
    model.zero_grad()
    out = model(image, text)
    loss = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)
    contrastive, caption = loss(out["image_features"], out["text_features"], out["logits"], out["labels"],
                                out["logit_scale"])  # fmt: skip
    (contrastive + caption).backward()
    whole = model(image, text, output_labels=False)
    encode = {key: out[key] for key in ("image_features", "text_features", "logits", "labels")}
    encode |= {"logits_full": whole["logits"], "image_embs": model._encode_image(image)[1]}
    encode |= {"token_embs": model._encode_text(text)[1]}
    losses = {"loss_contrastive": contrastive, "loss_caption": caption, "loss_total": contrastive + caption}
    losses |= {f"grad.{key}": value.grad for key, value in model.named_parameters()}
    tasks = {"encode": encode, "loss_grad": losses}
    return {task: {key: value.detach().numpy().copy() for key, value in found.items()} for task, found in tasks.items()}


def store(folder: pathlib.Path, config: dict, model, given: dict, tasks: dict, notes: dict[str, str]) -> None:
    """A fixture folder, as `mmjax verify` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().numpy().copy() for key, value in model.state_dict().items()}
    safetensors.numpy.save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    about = {
        task: {"description": notes.get(task, ""), "outputs": dict.fromkeys(made, ""), "tolerance": 1e-4}
        for task, made in tasks.items()
    }
    (folder / "meta.json").write_text(json.dumps({"system": "coca", "layout": "open_clip", "tasks": about}))
    needed = {task: given if "ids" not in made else {"image": given["image"]} for task, made in tasks.items()}
    io = {f"{task}/in/{key}": value for task, given in needed.items() for key, value in given.items()}
    io |= {f"{task}/out/{key}": value for task, made in tasks.items() for key, value in made.items()}
    safetensors.numpy.save_file(
        {key: np.array(value, order="C") for key, value in io.items()}, folder / "io.safetensors"
    )


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_outputs_losses_and_gradients_of_open_clip(name, tmp_path):
    config = CONFIGS[name]
    model, given = peer(config), inputs(config)
    store(tmp_path, config, model, given, outputs(model, given), {})
    results = golden.run_fixture(tmp_path)
    assert len(results) > 50
    assert [result.line() for result in results if not result.passed] == []


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_open_clip_loads_what_we_write(name, tmp_path):
    import torch
    from open_clip.coca_model import CoCa

    config = CONFIGS[name]
    store(tmp_path, config, peer(config), inputs(config), {}, {})
    system = surgery.load(tmp_path, models.shapes).system
    rng = np.random.default_rng(1)
    flat = {path: 0.2 * rng.normal(size=shape).astype(np.float32) for path, shape in models.shapes(system).items()}
    ours = tmp_path / "ours"
    surgery.export(trees.unflatten(flat), system, "open_clip", ours)
    written = json.loads((ours / "config.json").read_text())
    written = {key: value for key, value in written.get("model_cfg", written).items() if key != "custom_text"}
    model = CoCa(**written)
    tensors = safetensors.numpy.load_file(ours / "model.safetensors")
    model.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()}, strict=True)
    given = inputs(config)
    tasks = outputs(model.eval(), given)
    tasks["loss_grad"] = {key: value for key, value in tasks["loss_grad"].items() if not key.startswith("grad.")}
    store(tmp_path / "theirs", written, model, given, tasks, {})
    assert [r.line() for r in golden.run_fixture(tmp_path / "theirs") if not r.passed] == []
