"""A decoder alone, as a language model: next-token loss and generation. Larger systems take their decoder from here."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from mmjax.core.errors import UserError
from mmjax.core.types import Batch, Term
from mmjax.decoders.generate import write
from mmjax.decoders.llama import SIZES, Llama
from mmjax.decoders.settings import Settings
from mmjax.losses.lm import next_token_sums, next_token_sums_chunked
from mmjax.nn.attention import KERNELS
from mmjax.nn.lora import MAPS, LoraSpec
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.nn.position import RopeScaling
from mmjax.nn.transformer import REMAT
from mmjax.systems import base

LENGTH = 2048
"""Tokens of a row unless told, as LLaVA's training has them: positions do not end."""


class LanguageModel(nn.Module):
    """Texts that a decoder reads and writes.

    Attributes:
      llm: the decoder.
      end_ids: tokens that end a text.
      loss_chunk: the loss takes the logits of so many places at a time, which saves memory; 0: all.
    """

    llm: nn.Module
    end_ids: tuple[int, ...] = (2,)
    loss_chunk: int = 0

    def embed(self, batch: Batch) -> Float[Array, "B T D"]:
        """Embeddings of the tokens."""
        return self.llm.embed(jnp.asarray(batch["ids"]))

    def logits(self, batch: Batch, *, train: bool = False) -> Float[Array, "B T V"]:
        """Logits of the next token at every place, float32."""
        return logits(self, batch, train)

    def losses(self, batch: Batch, *, train: bool) -> dict[str, Term]:
        """Cross-entropy of the tokens that `mask_loss` names, nats."""
        return self.objective(self.features(batch, train=train))

    def features(self, batch: Batch, *, train: bool) -> dict[str, Array]:
        """`lm_rows`."""
        return lm_rows(self, batch, train)

    def objective(self, features: Mapping[str, Array]) -> dict[str, Term]:
        """`lm_terms`."""
        return lm_terms(features)

    def __call__(self, batch: Batch, *, train: bool = False) -> dict[str, Term]:
        return self.losses(batch, train=train)

    # ---------------------------------------------------------------- generation

    def prompt(self, batch: Batch) -> tuple[Array, Array]:
        """The text begins with all of `ids`."""
        return jnp.asarray(batch["ids"]), jnp.asarray(batch["valid"])

    def prefill(self, batch: Batch, ids: Array, valid: Array, room: int) -> tuple[Array, Array]:
        """Reads the prompts; logits of the tokens after them."""
        return prefill(self, {**batch, "ids": ids, "valid": valid}, room)

    def decode(self, ids: Integer[Array, "R"], filled: Integer[Array, "R"]) -> Float[Array, "R V"]:
        """Logits of the token after `ids`."""
        return decode(self, ids, filled)

    def generate(self, batch: Batch, how: Settings) -> dict[str, Array]:
        """What stands after the prompts, `ids` and `valid`."""
        return write(self, batch, how)

    def likelihood(self, batch: Batch, most: int) -> dict[str, Array]:
        """Log-probabilities of the rows' last tokens; see the function `likelihood`."""
        return likelihood(self, batch, most)

    def example(self, rows: int, length: int = 8) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a batch."""
        return example(rows, length)


def example(rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of texts."""
    ids, mask = (jax.ShapeDtypeStruct((rows, length), dtype) for dtype in (jnp.int32, jnp.bool_))
    return {"ids": ids, "valid": mask, "mask_loss": mask}


def states(system: Any, batch: Batch, train: bool) -> Float[Array, "B T D"]:
    """States of a system with `embed` and `llm`; several samples in a row count their positions by themselves."""
    sample = batch.get("sample")
    positions = None if sample is None else places(jnp.asarray(sample))
    return system.llm(system.embed(batch), jnp.asarray(batch["valid"]), positions, sample=sample, train=train)


def logits(system: Any, batch: Batch, train: bool) -> Float[Array, "B T V"]:
    """Logits after `states`."""
    return system.llm.logits(states(system, batch, train))


def places(sample: Integer[Array, "B T"]) -> Integer[Array, "B T"]:
    """Each token's place in its sample; `sample` counts them along the row."""
    T = sample.shape[1]
    begins = jnp.pad(sample[:, 1:] != sample[:, :-1], ((0, 0), (1, 0)))
    at = jnp.arange(T)[None]
    return at - jax.lax.cummax(jnp.where(begins, at, 0), axis=1)


def lm_rows(system: Any, batch: Batch, train: bool) -> dict[str, Float[Array, "B"]]:
    """Of each row the summed next-token loss, nats (`nll`), and how many tokens are predicted (`words`).

    No sample's first token is predicted from the one before it. Of packed rows also the places that hold tokens and all
    places (`held`, `places`). The losses are sums over rows, so that a batch can be computed in chunks of rows.
    """
    valid = jnp.asarray(batch["valid"])
    ids, predicted = jnp.asarray(batch["ids"]), jnp.asarray(batch["mask_loss"]) & valid
    rows: dict[str, Array] = {}
    if "sample" in batch:
        predicted = predicted & (places(jnp.asarray(batch["sample"])) > 0)
        rows = {"held": valid.sum(axis=1, dtype=jnp.float32), "places": jnp.full(len(ids), ids.shape[1], jnp.float32)}
    x = states(system, batch, train)
    if system.loss_chunk and not system.is_initializing():
        sums = next_token_sums_chunked(x, system.llm.table(), None, ids, predicted, chunk=system.loss_chunk)
    else:
        sums = next_token_sums(system.llm.logits(x), ids, predicted)
    return {"nll": sums[0], "words": sums[1], **rows}


def lm_terms(rows: Mapping[str, Float[Array, "B"]]) -> dict[str, Term]:
    """The mean over the predicted tokens of all rows; of packed ones also `filled`, which has no weight."""
    terms = {"lm": Term(rows["nll"].sum(), jnp.maximum(rows["words"].sum(), 1.0))}
    return {**terms, "filled": Term(rows["held"].sum(), rows["places"].sum(), 0.0)} if "held" in rows else terms


def prefill(system: Any, batch: Batch, room: int) -> tuple[Float[Array, "B V"], Integer[Array, "B"]]:
    """(logits of the token after each prompt, its tokens); keys and values are kept for rows of `room` tokens."""
    valid = jnp.asarray(batch["valid"])
    states = system.llm(system.embed(batch), valid, room=room)
    length = valid.sum(axis=1, dtype=jnp.int32)
    last = jnp.take_along_axis(states, (length - 1)[:, None, None], axis=1)[:, 0]
    return system.llm.logits(last), length


def decode(system: Any, ids: Integer[Array, "R"], filled: Integer[Array, "R"]) -> Float[Array, "R V"]:
    """Logits of the token after `ids`, which go to the slots `filled`."""
    return system.llm.logits(system.llm.step(system.llm.embed(ids[:, None]), filled)[:, 0])


def likelihood(system: Any, batch: Batch, most: int) -> dict[str, Array]:
    """`log` float[B], the sum of the log-probabilities of the tokens that `mask_loss` names, and their `count` int[B].

    Args:
      batch: of rows whose last tokens `mask_loss` names, and no others.
      most: of them at most; only their logits are made.
    """
    T = batch["ids"].shape[1]
    named = jnp.asarray(batch["mask_loss"]) & (jnp.arange(T) > 0)[None]  # nothing stands before a row's first token
    x = states(system, batch, False)
    end = jnp.max(jnp.where(named, jnp.arange(1, T + 1)[None], 0), axis=1)  # of the tokens; before them one place more
    at = end[:, None] - most - 1 + jnp.arange(most + 1)[None]
    inside, at = at >= 0, jnp.maximum(at, 0)
    ids, named = (jnp.take_along_axis(part, at, axis=1) for part in (jnp.asarray(batch["ids"]), named))
    logits = system.llm.logits(jnp.take_along_axis(x, at[:, :, None], axis=1))
    sums, counts = next_token_sums(logits, ids, named & inside)
    return {"log": -sums, "count": counts.astype(jnp.int32)}


# ---------------------------------------------------------------- builders

_DECODER = {"size", "vocab", "width", "depth", "heads", "kv_heads", "head_dim", "mlp_dim", "act", "eps", "theta",
            "rope_scaling", "window", "qkv_bias", "out_bias", "mlp_bias", "tied", "init_std", "lora", "int8",
            "scan", "remat", "attention"}  # fmt: skip
_REQUIRED = ("vocab", "width", "depth", "heads", "mlp_dim")


def decoder(where: str, config: Mapping[str, Any], **shared: Any) -> Llama:
    """A decoder from its keys, `size` and the attributes of `decoders.llama.Llama`.

    Args:
      where: its place in the config, for messages.
      config: the keys; `rope_scaling` is a mapping of `nn.position.RopeScaling`, `lora` one of `nn.lora.LoraSpec`.
      **shared: defaults from `base.shared_options`.

    Raises:
      UserError: unknown or missing keys, or values that do not exist.
    """
    config = dict(config)
    if (size := config.pop("size", None)) is not None:
        base.check_choice(f"{where}: size", size, SIZES)
        config = {**SIZES[size], **config}
    base.check_keys(where, config, _DECODER, _REQUIRED)
    kinds: dict[str, Any] = {"act": ACTIVATIONS, "remat": REMAT, "attention": KERNELS}
    for key, choices in kinds.items():
        if key in config:
            base.check_choice(f"{where}: {key}", config[key], [*choices])
    for key in (*_REQUIRED, "kv_heads", "head_dim", "window"):
        value = config.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise UserError(f"{where}: {key} = {value!r}; valid: a whole number, at least 1")
    heads, keys = config["heads"], config.get("kv_heads") or config["heads"]
    if heads % keys or (config.get("head_dim") is None and config["width"] % heads):
        raise UserError(f"{where}: {keys} key heads do not divide {heads} heads, or these the width {config['width']}")
    if config.get("rope_scaling") is not None:
        config["rope_scaling"] = RopeScaling(**config["rope_scaling"])
    if config.get("lora") is not None:
        lora = dict(config["lora"])
        base.check_keys(f"{where}: lora", lora, tuple(field.name for field in dataclasses.fields(LoraSpec)),
                        ("rank", "alpha"))  # fmt: skip
        config["lora"] = LoraSpec(**{**lora, "maps": tuple(lora.get("maps", MAPS))})
    return Llama(**{**shared, **config})


def build(config: Mapping[str, Any]) -> LanguageModel:
    """A language model from `llm` (see `decoder`), `end_ids`, and the options of all systems.

    Raises:
      UserError: unknown or missing keys, or values that do not exist.
    """
    config = base.plain(config)
    if (size := config.pop("size", None)) is not None:
        config["llm"] = {"size": size, **config.get("llm", {})}
    shared = {"dtype", "scan", "remat", "attention"}
    base.check_keys("system language", config, {"name", "llm", "end_ids", "loss_chunk", *shared}, ("llm",))
    llm = decoder("system language: llm", config["llm"], **base.shared_options(config))
    ends: Any = config.get("end_ids", (2,))
    return LanguageModel(llm, tuple(ends), chunk_of("language", config))


def chunk_of(system: str, config: Mapping[str, Any]) -> int:
    """`loss_chunk` of a system's mapping.

    Raises:
      UserError: no whole number, or a negative one.
    """
    chunk = config.get("loss_chunk", 0)
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 0:
        raise UserError(f"system {system}: loss_chunk = {chunk!r}; valid: places at a time, or 0 for all")
    return chunk


LANGUAGE_SIZES: dict[str, dict[str, Any]] = {name: {"llm": llm} for name, llm in SIZES.items()}
