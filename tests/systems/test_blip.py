"""BLIP: the published sizes, what its three functions share and see, losses, generation, training forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import systems
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.types import total
from mmjax.decoders.settings import Settings
from mmjax.train.optim import make_optimizer
from mmjax.train.stage import Stage
from mmjax.train.state import begin
from mmjax.train.step import train_step, with_tasks

# Sizes of the published models, counted on the published code.
PARAMETERS = {
    "base_pretrain_224": 252_441_919,
    "large_pretrain_224": 474_729_023,
    "base_caption_384": 223_971_644,
    "large_caption_384": 446_290_492,
    "base_vqa_480": 361_478_972,
    "large_vqa_480": 583_880_764,
    "base_nlvr2_384": 259_372_034,
    "large_nlvr2_384": 486_409_474,
}
IMG = {"image_size": 16, "patch": 8, "width": 16, "depth": 1, "heads": 2}
TXT = {"vocab": 30, "length": 12, "width": 16, "depth": 2, "heads": 2}
IDS = {"dec_id": 5, "enc_id": 6, "end_ids": (3,)}
TINY = {
    "pretrain": {"embed_dim": 8, "queue": 8, **IDS},
    "retrieval": {"embed_dim": 8, "queue": 8, "enc_id": 6},
    "caption": {"dec_id": 5, "end_ids": (3,), "lead": (7, 8)},
    "vqa": {"dec": TXT, **IDS},
    "nlvr2": {"enc_id": 6, "merged_from": 1},
}


def build(task: str, **options):
    return systems.build({"name": "blip", "task": task, "img": IMG, "txt": TXT, **TINY[task], **options})


def batch_of(system, rows: int = 4, seed: int = 0):
    """A batch of the system's own form, with texts of different lengths."""
    rng = np.random.default_rng(seed)
    batch = {}
    for name, leaf in system.example(rows).items():
        kind = np.dtype(leaf.dtype).kind
        low, high = (7, 30) if "ids" in name else (0, 2)
        values = rng.random(leaf.shape) if kind == "f" else rng.integers(low, high, leaf.shape)
        batch[name] = jnp.asarray(values.astype(leaf.dtype))
    for name in ("valid", "answer_valid"):
        if name in batch:
            length = rng.integers(3, batch[name].shape[-1] + 1, batch[name].shape[:-1])
            batch[name] = jnp.asarray(np.arange(batch[name].shape[-1]) < length[..., None])
    batch["image"] = jnp.asarray(rng.integers(0, 256, batch["image"].shape).astype(np.uint8))
    if "image_id" in batch:
        batch["image_id"] = jnp.asarray([0, 1, 0, 2][:rows], jnp.int32)
    if "answer_weight" in batch:
        batch["answer_weight"] = jnp.asarray(rng.random(batch["answer_weight"].shape), jnp.float32)
    return batch


def init(system, batch, scale: float = 0.1):
    variables = shd.unbox(jax.jit(lambda b: system.init(jax.random.key(0), b))(batch))
    rng = np.random.default_rng(0)  # zeros and ones would hide a wrong use
    noise = lambda x: x + jnp.asarray(scale * rng.normal(size=x.shape), jnp.float32)  # noqa: E731
    return {**variables, "params": jax.tree.map(noise, variables["params"])}


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameters_of_the_published_sizes(size: str) -> None:
    system = systems.build({"name": "blip", "size": size, "dtype": "float32"})
    made = jax.eval_shape(lambda b: system.init(jax.random.key(0), b), system.example(1))
    assert trees.count(shd.unbox(made)["params"]) == PARAMETERS[size]


@pytest.mark.parametrize(("size", "count"), [("base", 223_744_258), ("large", 446_128_642)])
def test_parameters_for_retrieval(size: str, count: int) -> None:
    """The table of the published model counts no temperature."""
    system = systems.build({"name": "blip", "size": f"{size}_retrieval_384", "learn_temperature": False})
    made = jax.eval_shape(lambda b: system.init(jax.random.key(0), b), system.example(1))
    assert trees.count(shd.unbox(made)["params"]) == count


def test_what_the_three_functions_share_and_see() -> None:
    system = build("pretrain")
    batch = batch_of(system)
    variables = init(system, batch)
    flat = trees.flatten(variables["params"])
    twice = {path.split("/")[-3] for path in flat if path.startswith("txt/") and "_dec" in path}
    assert twice == {"attn_dec", "block_0", "block_1"}  # self-attention and its norm (block_i/norm1_dec/scale)
    states = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5, 16)), jnp.float32)
    other = states + 1.0 * (jnp.arange(16) % 2)[None, None]

    @jax.jit
    def run(states, ids, valid):
        def all_of(model):
            return {
                "read": model.read(ids, valid),
                "ground": model.ground(states, ids, valid),
                "words": model.words(states, ids, valid),
            }

        return system.apply(variables, method=lambda model: all_of(model))

    ids, valid = batch["ids"], jnp.ones((4, 12), bool)
    one, two = run(states, ids, valid), run(other, ids, valid)
    np.testing.assert_array_equal(one["read"], two["read"])
    assert all(np.abs(one[name] - two[name]).max() > 1e-3 for name in ("ground", "words"))
    first = run(states, ids.at[:, 0].set(9), valid)  # token 0 is replaced where the image is seen
    assert np.abs(first["read"] - one["read"]).max() > 1e-3
    for name in ("ground", "words"):
        np.testing.assert_array_equal(first[name], one[name])
    late = run(states, ids.at[:, 8:].set(11), valid)
    np.testing.assert_allclose(late["words"][:, :8], one["words"][:, :8], atol=1e-5)
    assert np.abs(late["ground"][:, :8] - one["ground"][:, :8]).max() > 1e-4
    short = run(states, ids, jnp.arange(12)[None] < jnp.array([12, 7, 4, 3])[:, None])
    padded = run(states, jnp.where(jnp.arange(12)[None] < jnp.array([12, 7, 4, 3])[:, None], ids, 0),
                 jnp.arange(12)[None] < jnp.array([12, 7, 4, 3])[:, None])  # fmt: skip
    for name in one:
        np.testing.assert_allclose(short[name][3, :3], padded[name][3, :3], atol=1e-5)


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=() if task == "pretrain" else pytest.mark.slow) for task in TINY]
)
def test_losses_fall_on_eight_examples(task: str) -> None:
    """Adam on one batch; the queue takes in the teacher's features."""
    import optax

    options = {"smoothing": 0.0} if task in ("pretrain", "caption", "vqa") else {}
    system = build(task, **options, **({"alpha": 0.0} if task in ("pretrain", "retrieval") else {}))
    batch = batch_of(system, 8) if task != "retrieval" else {**batch_of(system, 8), "image_id": jnp.arange(8)}
    variables = init(system, batch)
    params, rest = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    tx = optax.adam(1e-2)

    @jax.jit
    def step(params, rest, opt, key):
        def objective(params):
            terms, new = system.apply({"params": params, **rest}, batch, train=True, method="losses",
                                      rngs={"dropout": key, "negatives": key}, mutable=list(rest))  # fmt: skip
            return total(terms), (new, {name: term.mean for name, term in terms.items()})

        (loss, (rest, terms)), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt = tx.update(grads, opt)
        return optax.apply_updates(params, updates), rest, opt, loss, terms

    opt, seen = tx.init(params), []
    for i in range(60):
        params, rest, opt, loss, terms = step(params, rest, opt, jax.random.key(i))
        seen.append(float(loss))
    wanted = {"pretrain": {"itc", "itm", "lm"}, "retrieval": {"itc", "itm"}, "caption": {"lm"}, "vqa": {"answer"}}
    assert set(terms) == wanted.get(task, {"classes"})
    assert np.isfinite(seen).all() and min(seen[-5:]) < 0.6 * seen[0], seen[::20]


def test_captions_are_written_after_the_lead_and_their_prompt_is_not_predicted() -> None:
    system = build("caption")
    batch = batch_of(system, 3)
    variables = init(system, batch)
    ids, valid = system.apply(variables, {"image": batch["image"]}, method="prompt")
    assert ids.tolist() == [[5, 7, 8]] * 3 and valid.all()
    run = jax.jit(lambda v, b: system.apply(v, b, Settings(max_length=10, beams=2), method="generate"))
    out = run(variables, {"image": batch["image"]})
    assert out["ids"].shape == (3, 10) and out["valid"].sum(1).max() <= 7
    loss = jax.jit(lambda v, b: total(system.apply(v, b, method="losses", train=False)))
    only_last = {**batch, "mask_loss": jnp.zeros(batch["valid"].shape, bool).at[:, 2].set(True)}
    states = system.apply(variables, batch["image"], method="encode_states_image")
    log_p = jax.nn.log_softmax(system.apply(variables, states, batch["ids"], batch["valid"], method="words")[:, 1])
    smooth = 0.9 * jnp.take_along_axis(log_p, batch["ids"][:, 2:3], axis=1)[:, 0] + 0.1 * log_p.mean(1)
    np.testing.assert_allclose(loss(variables, only_last), -smooth.mean(), rtol=1e-5)


def test_answers_are_ranked_by_their_loss() -> None:
    system = build("vqa")
    batch = batch_of(system, 3)
    variables = init(system, batch, 0.3)
    candidates = jnp.asarray(np.random.default_rng(2).integers(7, 30, (5, 4)), jnp.int32)
    valid = jnp.arange(4)[None] < jnp.array([4, 3, 2, 4, 3])[:, None]
    rank = jax.jit(lambda v, b: system.apply(v, b, candidates, valid, 5, method="rank_answers"))
    found = rank(variables, batch)
    assert (jnp.diff(found["score"], axis=1) <= 0).all()
    assert all(sorted(row) == list(range(5)) for row in found["index"].tolist())
    for place in range(5):
        of = jnp.argsort(found["index"], axis=1)[:, place]
        one = {**batch, "answer_ids": jnp.tile(candidates[place][None, None], (3, 1, 1)),
               "answer_valid": jnp.tile(valid[place][None, None], (3, 1, 1)),
               "answer_weight": jnp.eye(3)[:, :1]}  # fmt: skip
        sums = system.apply(variables, one, method="losses", train=False)["answer"].sum
        np.testing.assert_allclose(-sums, found["score"][0, of[0]], rtol=1e-4)


@pytest.mark.parametrize(("change", "message"), [
    ({"task": "captions"}, "task: 'captions' is not one of"),
    ({"beams": 3}, "system blip, task pretrain: unknown key beams"),
    ({"size": "base"}, "size: 'base' is not one of"),
])  # fmt: skip
def test_mistakes(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        systems.build({"name": "blip", "task": "pretrain", "img": IMG, "txt": TXT, **TINY["pretrain"], **change})


def test_a_stage_trains_some_of_the_tasks() -> None:
    """What only the others use, and the queue, stay as they are."""
    system = build("pretrain")
    batch = batch_of(system)
    variables = init(system, batch)
    stage = Stage(steps=1, lr=0.1, tasks=("lm",), teacher=("img/.*",))
    tx = make_optimizer(stage, variables["params"])
    state = begin(stage, tx, variables, jax.random.key(0))
    before = trees.flatten(jax.tree.map(np.array, {"params": state.params, "stats": state.stats}))
    state, metrics = jax.jit(functools.partial(train_step, system, tx, stage))(state, batch)
    assert set(metrics) == {"loss", "grad_norm", "param_norm", "lm"}
    moved = {
        path
        for path, value in trees.flatten({"params": state.params, "stats": state.stats}).items()
        if not np.array_equal(value, before[path])
    }
    others = {path for path in before if path.startswith(("stats/", "params/itm", "params/img_proj"))}
    assert others and not others & moved and any(path.startswith("params/img/") for path in moved)


def test_matching_without_contrast_is_refused() -> None:
    """Its negatives are drawn by contrast: alone it would train nothing, and not say so."""
    with pytest.raises(UserError, match=r"tasks \['lm', 'itm'\]: 'itm' needs 'itc', too"):
        with_tasks(build("pretrain"), Stage(steps=1, lr=0.1, tasks=("lm", "itm")))


@pytest.mark.parametrize(("task", "valid"), [("caption", r"\['lm'\]"), ("vqa", "none")])
def test_a_stage_cannot_train_what_a_system_was_not_built_for(task: str, valid: str) -> None:
    with pytest.raises(UserError, match=rf"stage: tasks \['itc'\]; valid for this BLIP.*: {valid}"):
        with_tasks(build(task), Stage(steps=1, lr=0.1, tasks=("lm", "itc")[task == "vqa" :]))
