"""Every kind of search against transformers' `generate`, on a model whose logits are a table of the last two tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.decoders import beam
from mmjax.decoders.sample import begin, sample
from mmjax.decoders.settings import Settings

VOCAB, END, OTHER_END = 17, 3, 5

CASES = [
    {"max_length": 12},
    {"max_length": 12, "min_length": 7, "repetition_penalty": 1.4},
    {"max_new": 6, "min_new": 3},
    *[
        {"max_length": 14, "beams": beams, "length_penalty": penalty, "early_stopping": early, "best": best}
        for beams, best in ((2, 1), (4, 3))
        for penalty in (0.0, 1.0, 2.0, -1.0)
        for early in (False, True, "never")
    ],
    {"max_length": 12, "beams": 3, "min_length": 6, "repetition_penalty": 1.5, "best": 2},
    {"max_new": 5, "beams": 3, "best": 3, "end_ids": (END, OTHER_END)},
    {"max_new": 9, "beams": 5, "best": 2, "end_ids": (END, OTHER_END), "early_stopping": True},
]


def reference(table: np.ndarray):
    import torch
    from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    class Config(PretrainedConfig):
        model_type = "table"
        vocab_size = VOCAB
        num_hidden_layers = 1

    class Model(PreTrainedModel, GenerationMixin):
        config_class = Config
        main_input_name = "input_ids"

        def __init__(self, config):
            super().__init__(config)
            self.table = torch.nn.Parameter(torch.from_numpy(table))

        def forward(self, input_ids, **_):
            before = torch.nn.functional.pad(input_ids, (1, 0))[:, :-1]
            return CausalLMOutput(logits=self.table[before, input_ids])

        def prepare_inputs_for_generation(self, input_ids, **_):
            return {"input_ids": input_ids}

    return Model(Config()).eval()


@functools.partial(jax.jit, static_argnums=4)
def write(table, cache, logits, texts, how):
    def step(cache, ids, _):
        before = cache["before"][..., 0, 0, 0]
        return table[before, ids], {"before": ids[:, None, None, None]}

    if how.beams > 1:
        return beam.search(step, cache, logits, texts.length, texts, how)
    return sample(step, cache, logits, texts.length, texts, jnp.zeros(len(logits), jnp.uint32), how)


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES, ids=str)
def test_texts_equal_transformers(case: dict) -> None:
    import torch

    how = Settings(**{"end_ids": (END,), **case})
    for seed in range(4):
        rng = np.random.default_rng(seed)
        table = (1.5 * rng.normal(size=(VOCAB, VOCAB, VOCAB))).astype(np.float32)
        prompts = rng.integers(6, VOCAB, (3, 2)).astype(np.int32)
        names = {"max_length": "max_length", "min_length": "min_length", "max_new": "max_new_tokens",
                 "min_new": "min_new_tokens", "beams": "num_beams", "best": "num_return_sequences",
                 "length_penalty": "length_penalty", "early_stopping": "early_stopping",
                 "repetition_penalty": "repetition_penalty"}  # fmt: skip
        options = {names[key]: value for key, value in case.items() if key in names}
        with torch.no_grad():
            given = torch.from_numpy(prompts).long()
            options |= {"eos_token_id": list(how.end_ids), "pad_token_id": 1, "do_sample": False, "use_cache": False}
            theirs = reference(table).generate(given, **options).numpy()

        room = how.length(2)
        texts = begin(jnp.asarray(prompts), jnp.full(3, 2), room, how)
        logits, cache = (
            jnp.asarray(table)[prompts[:, 0], prompts[:, 1]],
            {"before": jnp.asarray(prompts)[:, 1, None, None, None]},
        )
        ours = write(jnp.asarray(table), cache, logits, texts, how)
        for row, length, wanted in zip(np.asarray(ours.ids), np.asarray(ours.length), theirs, strict=True):
            text = wanted.tolist()
            ends = [place for place, token in enumerate(text) if place > 1 and token in how.end_ids]
            text = text[: ends[0] + 1] if ends else text
            assert row[:length].tolist() == text, (seed, row, wanted)
