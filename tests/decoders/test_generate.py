"""Generation: equal to recomputing every text anew; a row alone equal to the row in a batch; streaming; beams."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.decoders.generate import bucketed, generate, stream, write, written
from mmjax.decoders.settings import Settings
from tests.decoders.tiny_writer import END, VOCAB, batch, make

RUN = jax.jit(generate, static_argnums=(0, 3))
GREEDY = Settings(max_length=12)
SAMPLED = Settings(max_new=8, sample=True, top_p=0.9, temperature=1.5, repetition_penalty=1.3)
SEARCHED = Settings(max_length=11, beams=3, min_length=5, length_penalty=0.7)


def rows_of(texts) -> list[list[int]]:
    return [list(row[:n]) for row, n in zip(np.asarray(texts.ids).tolist(), np.asarray(texts.length), strict=True)]


def anew(system, variables, given, how: Settings) -> list[list[int]]:
    """Greedy texts by whole forward passes, row by row."""
    logits = jax.jit(lambda one, ids, valid: system.apply(variables, one, ids, valid, method="logits"))
    texts = []
    for b, prompt in enumerate(given["valid"].sum(1)):
        one, text = {name: value[b : b + 1] for name, value in given.items()}, given["ids"][b, :prompt].tolist()
        while len(text) < how.length(given["ids"].shape[1]) and text[-1] != END:
            ids, valid = np.zeros((1, 12), np.int32), np.arange(12)[None] < len(text)
            ids[0, : len(text)] = text
            scores = np.array(logits(one, ids, valid)[0, len(text) - 1])
            if len(text) < how.min_length:
                scores[END] = -np.inf
            text.append(int(scores.argmax()))
        texts.append(text)
    return texts


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("seed", [1, 3])
def test_greedy_equals_whole_forward_passes(scan: bool, seed: int) -> None:
    system, variables = make(seed, 0.9, scan=scan)
    for how in (GREEDY, Settings(max_length=12, min_length=9)):
        given = batch(4, seed)
        assert rows_of(RUN(system, variables, given, how)) == anew(system, variables, given, how)


@pytest.mark.parametrize("how", [GREEDY, SAMPLED, SEARCHED, dataclasses.replace(SEARCHED, best=2),
                                 dataclasses.replace(SAMPLED, best=3)])  # fmt: skip
def test_a_row_alone_equals_the_row_in_a_batch(how: Settings) -> None:
    system, variables = make(2)
    given = batch(5, 2)
    together = RUN(system, variables, given, how)
    single = jax.jit(generate, static_argnums=(0, 3))
    for b in range(5):
        length = int(given["valid"][b].sum())
        one = {name: value[b : b + 1] for name, value in given.items()}
        one |= {name: one[name][:, :length] for name in ("ids", "valid")}
        alone = single(system, variables, one, how)
        part = slice(b * how.best, (b + 1) * how.best)
        assert rows_of(alone) == rows_of(together)[part]
        np.testing.assert_allclose(alone.score, together.score[part], rtol=1e-5)
    assert together.ended.all()


def test_streaming_gives_the_same_tokens() -> None:
    system, variables = make(1, 0.9)
    given = batch(4, 1)
    for how in (GREEDY, SAMPLED):
        texts = [row[:n].tolist() for row, n in zip(given["ids"], given["valid"].sum(1), strict=True)]
        for token, new in stream(system, variables, given, how):
            for row in np.flatnonzero(new):
                texts[row].append(int(token[row]))
        assert texts == rows_of(RUN(system, variables, given, how))
    with pytest.raises(UserError, match="beams=3, best=1 cannot be streamed"):
        next(stream(system, variables, given, SEARCHED))


def test_a_search_of_all_texts_finds_the_best() -> None:
    """As many beams as there are texts of two tokens: the third step sees every text."""
    system, variables = make(5)
    given = {name: value[:1, :1] if name in ("ids", "valid") else value[:1] for name, value in batch(1).items()}
    found = RUN(system, variables, given, Settings(max_new=3, beams=VOCAB**2, end_ids=(VOCAB + 1,), best=2))
    texts = np.array(list(itertools.product(range(VOCAB), repeat=3)), np.int32)
    whole = np.concatenate([np.repeat(given["ids"], len(texts), 0), texts], axis=1)

    @jax.jit
    def score(ids):
        many = {name: jnp.repeat(jnp.asarray(given[name]), len(ids), 0) for name in ("image", "seen")}
        logits = system.apply(variables, many, ids, jnp.ones(ids.shape, bool), method="logits")
        log_p = jax.nn.log_softmax(logits[:, :-1], axis=-1)
        return jnp.take_along_axis(log_p, ids[:, 1:, None], axis=2)[:, :, 0].sum(1)

    scores = np.asarray(score(whole))
    best = np.argsort(-scores)[:2]
    assert rows_of(found) == whole[best].tolist()
    np.testing.assert_allclose(found.score * 3, scores[best], rtol=1e-5)


def test_what_is_written_and_the_predict_method() -> None:
    system, variables = make(1, 0.9)
    given = batch(4, 1)
    how = Settings(max_length=12, end_ids=(END, 11, 15))
    texts = RUN(system, variables, given, how)
    out = written(texts, how.end_ids)
    for row, length, ids, valid in zip(
        rows_of(texts), given["valid"].sum(1), *map(np.asarray, out.values()), strict=True
    ):
        new = row[length:]
        assert ids[valid].tolist() == (new[:-1] if new[-1] in how.end_ids else new)
    called = jax.jit(lambda v, b: system.apply(v, b, method=lambda m, b: write(m, b, how)))(variables, given)
    assert np.array_equal(called["ids"], out["ids"]) and np.array_equal(called["valid"], out["valid"])


def test_sampling_follows_the_seed_and_the_probabilities() -> None:
    system, variables = make(2)
    given = batch(1)
    many = {name: np.repeat(value, 2000, 0) for name, value in given.items()} | {
        "seed": np.arange(2000, dtype=np.uint32)
    }
    how = Settings(max_new=1, sample=True)
    first = np.asarray(RUN(system, variables, many, how).ids)[:, 3]
    whole = jax.jit(lambda one: system.apply(variables, one, one["ids"], one["valid"], method="logits"))
    logits = whole(given)[0, 2]
    share = np.bincount(first, minlength=VOCAB) / 2000
    np.testing.assert_allclose(share, jax.nn.softmax(logits), atol=0.04)
    assert np.array_equal(first, np.asarray(RUN(system, variables, many, how).ids)[:, 3])
    with pytest.raises(UserError, match=r"sampling needs batch\['seed'\]"):
        RUN(system, variables, {k: v for k, v in given.items() if k != "seed"}, how)


def test_prompts_without_room_end_at_once() -> None:
    system, variables = make(1)
    given = batch(3)  # prompts of 3, 1 and 2 tokens
    for how in (Settings(max_length=2), Settings(max_length=2, beams=2)):
        texts = RUN(system, variables, given, how)
        assert texts.length.tolist() == [2, 2, 2] and not np.asarray(written(texts, (END,))["valid"])[[0, 2]].any()


def test_buckets() -> None:
    ids, valid = np.arange(1, 15, dtype=np.int32).reshape(2, 7), np.arange(7)[None] < np.array([[5], [3]])
    assert bucketed(ids[:, :6], valid[:, :6], 40)[0].shape == (2, 8)
    cut, kept = bucketed(ids, valid, 6)
    assert cut.shape == (2, 6) and kept.sum(1).tolist() == [5, 3] and np.array_equal(cut[kept], ids[valid])
    with pytest.raises(UserError, match="prompts of 3 to 5 tokens; valid: 1 to 4"):
        bucketed(ids, valid, 4)


@pytest.mark.parametrize(("wrong", "message"), [
    ({}, "max_length and max_new are both unset"),
    ({"max_length": 0}, "max_length = 0; valid: a whole number, at least 1"),
    ({"max_new": 5, "beams": 2, "sample": True}, "beam search .* does not sample"),
    ({"max_new": 5, "top_p": 0.9}, "set sample=True"),
    ({"max_new": 5, "top_p": 1.5, "sample": True}, "top_p up to 1"),
    ({"max_new": 5, "beams": 2, "best": 3}, "best=3 texts of 2 beams"),
    ({"max_new": 5, "early_stopping": "soon"}, "early_stopping='soon'"),
])  # fmt: skip
def test_settings_that_do_not_fit(wrong: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Settings(**wrong)
