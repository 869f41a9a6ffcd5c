"""Groups of rows that several layouts share: norms, linear layers, transformer blocks."""

from collections.abc import Mapping
from typing import Any

from mmjax.weights.layout import Row
from mmjax.weights.transforms import LINEAR, QKV_BIAS, QKV_KERNEL, Transform


def norm(published: str, ours: str) -> tuple[Row, ...]:
    """A layer norm's `weight` and `bias`."""
    return Row(f"{published}.weight", f"{ours}/scale"), Row(f"{published}.bias", f"{ours}/bias")


def linear(published: str, ours: str, transform: Transform = LINEAR) -> tuple[Row, ...]:
    """`weight` and `bias` of a linear layer (or, with CONV, of a convolution)."""
    return Row(f"{published}.weight", f"{ours}/kernel", transform), Row(f"{published}.bias", f"{ours}/bias")


def hf_blocks(published: str, ours: str, index: str) -> tuple[Row, ...]:
    """The blocks of a Hugging Face encoder; `published` is all that stands before "encoder"."""
    old, new = f"{published}encoder.layers.{{{index}}}", f"{ours}/transformer/block_{{{index}}}"
    return (
        *norm(f"{old}.layer_norm1", f"{new}/norm1"),
        *linear(f"{old}.self_attn.q_proj", f"{new}/attn/q"),
        *linear(f"{old}.self_attn.k_proj", f"{new}/attn/k"),
        *linear(f"{old}.self_attn.v_proj", f"{new}/attn/v"),
        *linear(f"{old}.self_attn.out_proj", f"{new}/attn/out"),
        *norm(f"{old}.layer_norm2", f"{new}/norm2"),
        *linear(f"{old}.mlp.fc1", f"{new}/mlp/fc1"),
        *linear(f"{old}.mlp.fc2", f"{new}/mlp/fc2"),
    )


def openai_blocks(published: str, ours: str, index: str, layer_scale: bool = False) -> tuple[Row, ...]:
    """The blocks of OpenAI's and open_clip's transformers."""
    old, new = f"{published}.resblocks.{{{index}}}", f"{ours}/transformer/block_{{{index}}}"
    return openai_block(old, new, ("norm1", "attn", "norm2", "mlp"), ("1", "2") if layer_scale else ())


def openai_block(old: str, new: str, parts: tuple[str, str, str, str], scales: tuple[str, ...]) -> tuple[Row, ...]:
    """One block of them, q, k, v fused; `parts` of ours, and the endings of our layer scales, where there are some."""
    norm1, attn, norm2, mlp = (f"{new}/{part}" for part in parts)
    gains = (Row(f"{old}.ls_{n}.gamma", f"{new}/scale{ours}") for n, ours in enumerate(scales, 1))
    return (
        *norm(f"{old}.ln_1", norm1),
        Row(f"{old}.attn.in_proj_weight", tuple(f"{attn}/{part}/kernel" for part in "qkv"), QKV_KERNEL),
        Row(f"{old}.attn.in_proj_bias", tuple(f"{attn}/{part}/bias" for part in "qkv"), QKV_BIAS),
        *linear(f"{old}.attn.out_proj", f"{attn}/out"),
        *norm(f"{old}.ln_2", norm2),
        *linear(f"{old}.mlp.c_fc", f"{mlp}/fc1"),
        *linear(f"{old}.mlp.c_proj", f"{mlp}/fc2"),
        *gains,
    )


def text_projection(text: str, system: Mapping[str, Any]) -> tuple[Row, ...]:
    """open_clip's map to the shared space: a matrix, or with a bias a linear layer, which is stored transposed."""
    if system.get("txt_bias"):
        return linear(f"{text}text_projection", "txt_proj")
    return (Row(f"{text}text_projection", "txt_proj/kernel"),)
