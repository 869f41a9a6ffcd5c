"""A small saved model, for the commands that read one."""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from mmjax import systems
from mmjax.data.tokenizers import open_tokenizer
from mmjax.train import checkpoint

SMALL = {
    "name": "clip",
    "embed_dim": 8,
    "img": {"image_size": 32, "patch": 16, "width": 16, "depth": 1, "heads": 2},
    "txt": {"vocab": 49408, "length": 16, "width": 16, "depth": 1, "heads": 2},
}


def save(path: pathlib.Path, seed: int) -> pathlib.Path:
    batch = {
        "image": jnp.zeros((1, 32, 32, 3), jnp.uint8),
        "ids": jnp.zeros((1, 16), jnp.int32),
        "valid": jnp.ones((1, 16), bool),
    }
    variables = nn.unbox(jax.jit(systems.build(SMALL).init)(jax.random.key(seed), batch))
    checkpoint.save_model(path, SMALL, variables, tokenizer=open_tokenizer("clip_bpe"))
    return path


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> pathlib.Path:
    """The folder of a saved model of 32 px and 8 dimensions."""
    return save(tmp_path_factory.mktemp("small"), 0)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> pathlib.Path:
    """Another one, of the same sizes."""
    return save(tmp_path_factory.mktemp("other"), 1)
