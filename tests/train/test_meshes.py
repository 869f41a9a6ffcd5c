"""One training step on eight devices, whatever the mesh: the numbers of one device, every array where it belongs, and
no collective that the config does not call for."""

import collections
import dataclasses
import functools
import math

import flax.linen as nn
import jax
import numpy as np
import pytest

from mmjax import main, systems
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.collectives import collectives, describe, totals
from mmjax.train.stage import Stage
from mmjax.train.state import begin
from mmjax.train.step import train_step

B, E, WIDTH, LENGTH = 16, 64, 32, 8
STAGE = Stage(steps=9, lr=1e-2, schedule="constant", eps=1e-3, b1=0.5)
TXT = {"vocab": 48, "length": LENGTH, "width": WIDTH, "depth": 2, "heads": 8}
VIT = {"image_size": 16, "patch": 8, "width": WIDTH, "depth": 2, "heads": 8}
WHOLE = {"act": "gelu_tanh", "causal": False, "pool": "last"}
POOL = {"pool": "map", "cls": False, "norm_pre": False, "norm_post": "all", "patch_bias": True, "act": "gelu_tanh"}
RESNET = {"kind": "resnet", "image_size": 32, "layers": (1, 1, 1, 1), "width": 8, "heads": 8}
CLIP = {"name": "clip", "embed_dim": E, "img": VIT, "txt": TXT}
SIGLIP = {"img": {**VIT, **POOL}, "txt": {**TXT, **WHOLE}, "loss": "sigmoid", "project_img": False, "embed_dim": WIDTH}
TOWERS = {
    "vit": CLIP,
    "vit, scanned": {**CLIP, "scan": True},
    "vit, rematerialised": {**CLIP, "remat": "full", "loss_form": "ring"},
    "vit, scanned and rematerialised": {**CLIP, "scan": True, "remat": "full", "loss_form": "ring"},
    "six heads and three": {**CLIP, "img": {**VIT, "width": 48, "heads": 6}, "txt": {**TXT, "width": 24, "heads": 3}},
    "siglip": {**CLIP, **SIGLIP},
    "siglip, ring": {**CLIP, **SIGLIP, "loss_form": "ring", "scan": True, "remat": "dots"},
    "resnet": {**CLIP, "img": RESNET},
    "resnet, rematerialised": {**CLIP, "img": RESNET, "remat": "full"},
}  # fmt: skip


def make_batch(mapping, seed=0):
    rng = np.random.default_rng(seed)
    side, lengths = mapping["img"]["image_size"], rng.integers(2, LENGTH + 1, B)
    return {
        "image": rng.integers(0, 256, (B, side, side, 3), np.uint8),
        "ids": rng.integers(0, TXT["vocab"], (B, LENGTH), np.int32),
        "valid": np.arange(LENGTH)[None, :] < lengths[:, None],
    }


FAST = {"xla_backend_optimization_level": 0}  # of LLVM's code, not of the program


@functools.cache
def first_state(name):
    """(system, optimizer, state as numpy) of a tower; random values for every parameter, statistics as they start."""
    system, batch = systems.build(TOWERS[name]), make_batch(TOWERS[name])
    with shd.use_mesh(shd.make_mesh({"data": 1}, jax.devices()[:1])) as mesh:
        boxed = jax.eval_shape(functools.partial(system.init, train=False), jax.random.key(0), batch)
        shardings = {key: shd.param_shardings(tree, mesh) for key, tree in boxed.items()}
        rng = np.random.default_rng(0)
        fill = lambda path, s: rng.normal(path.endswith(("/scale", "/var")), 0.2, s.shape).astype(np.float32)  # noqa: E731
        flat = trees.flatten(shd.unbox(boxed))
        variables = trees.unflatten({path: fill(path, s) for path, s in flat.items()})
        variables["params"]["log_scale"] = np.float32(1.0)
        tx, _ = main.optimizer(STAGE, variables, shardings, mesh)
        state = jax.jit(functools.partial(begin, STAGE, tx))(variables, jax.random.key(1))
    return system, boxed, jax.tree.map(np.asarray, state.replace(rng=jax.random.key_data(state.rng)))


def one_step(name, mesh, stage=STAGE):
    """(metrics, gradients, state, compiled step): the first moment of Adam is half the gradient."""
    system, boxed, state = first_state(name)
    shardings = {key: shd.param_shardings(tree, mesh) for key, tree in boxed.items()}
    tx, placed = main.optimizer(stage, shd.unbox(boxed), shardings, mesh)
    state = jax.device_put(state.replace(rng=jax.random.wrap_key_data(state.rng)), placed)
    batch = jax.device_put(make_batch(TOWERS[name]), shd.batch_sharding(mesh))
    step = main.compiled_step(functools.partial(train_step, system, tx, stage), placed, mesh)
    compiled = step.lower(state, batch).compile(compiler_options=FAST)
    state, metrics = compiled(state, batch)
    grads = {path: 2 * np.asarray(x) for path, x in moments(state, "mu").items()}
    return {k: float(v) for k, v in metrics.items()}, grads, state, compiled


def moments(state, name):
    leaves = ((trees.path_name(p), x) for p, x in jax.tree_util.tree_leaves_with_path(state.opt))
    return {path.split(f"/{name}/")[1]: x for path, x in leaves if f"/{name}/" in path}


@functools.cache
def alone(name):
    """Metrics, gradients and operations of a tower on one device."""
    with shd.use_mesh(shd.make_mesh({"data": 1}, jax.devices()[:1])) as mesh:
        metrics, grads, _, compiled = one_step(name, mesh)
        return metrics, grads, compiled.cost_analysis()["flops"]


MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]
FEW = {
    "vit": [(8, 1, 1), (2, 2, 2)],
    "vit, scanned": [(2, 2, 2)],
    "vit, rematerialised": [(1, 8, 1)],
    "siglip, ring": [(2, 2, 2)],
    "resnet, rematerialised": [(2, 2, 2)],
}
QUICK = [("vit, scanned and rematerialised", (2, 2, 2))]
CASES = [
    pytest.param(name, shape, marks=() if (name, shape) in QUICK else pytest.mark.slow, id=f"{name}-{shape}")
    for name in TOWERS
    for shape in FEW.get(name, MESHES)
]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_a_step_on_any_mesh(name, shape):
    expected, wanted, work = alone(name)
    with shd.use_mesh(shd.make_mesh(dict(zip(shd.MESH_AXES, shape, strict=True)))) as mesh:
        metrics, grads, state, compiled = one_step(name, mesh)
    # Batch statistics are differences of sums over the batch, whose order the mesh decides.
    check_numbers(metrics, grads, expected, wanted, tolerance=3e-5 if "resnet" in name else 1e-5)
    check_placement(first_state(name)[1]["params"], mesh, state)
    check_collectives(name, mesh, collectives(compiled.as_text()))
    # Norms, embeddings and the optimizer's vectors are computed on all devices of `tensor`; the rest is shared out.
    assert work / compiled.cost_analysis()["flops"] > (3.5 if shape[2] > 1 else 5.5)


@pytest.mark.parametrize("name", [pytest.param("vit", marks=pytest.mark.slow), "vit, scanned and rematerialised"])
def test_chunks_are_reduced_once(name):
    """What a step of two chunks sends is what one of the whole batch does, where parameters are whole everywhere."""
    expected, wanted, _ = alone(name)
    with shd.use_mesh(shd.make_mesh({"data": 8})) as mesh:
        metrics, grads, state, compiled = one_step(name, mesh, dataclasses.replace(STAGE, chunks=2))
    check_numbers(metrics, grads, expected, wanted, tolerance=1e-5)
    check_placement(first_state(name)[1]["params"], mesh, state)
    check_collectives(name, mesh, collectives(compiled.as_text()))


def check_numbers(metrics, grads, expected, wanted, tolerance):
    assert metrics == pytest.approx(expected, rel=1e-5)
    # Some gradients are zero but for rounding (a bias of keys moves no softmax): the floor is of all of them.
    floor = 1e-2 * max(abs(x).max() for x in wanted.values())
    errors = {path: abs(grads[path] - x).max() / max(abs(x).max(), floor) for path, x in wanted.items()}
    assert max(errors.values()) <= tolerance, sorted(errors.items(), key=lambda item: -item[1])[:5]


# ---------------------------------------------------------------- where parameters and moments live

SPLIT = {"embed": "fsdp", "heads": "tensor", "mlp": "tensor", "vocab": "tensor"}


def named(boxed):
    """path -> (shape, logical name of each axis)."""
    specs, shapes = trees.flatten(nn.get_partition_spec(boxed)), trees.flatten(shd.unbox(boxed))
    return {p: (s.shape, tuple(specs[p]) + (None,) * (len(s.shape) - len(specs[p]))) for p, s in shapes.items()}


def held(shape, names, mesh, without=()):
    """The shape of what a device holds of a parameter."""
    ways = [mesh.shape[SPLIT[n]] if n in SPLIT and SPLIT[n] not in without else 1 for n in names]
    return tuple(size // way if size % way == 0 else size for size, way in zip(shape, ways, strict=True))


def check_placement(boxed, mesh, state):
    first, second = moments(state, "mu"), moments(state, "nu")
    for path, (shape, names) in named(boxed).items():
        for leaf in (trees.flatten(state.params)[path], first[path], second[path]):
            assert leaf.sharding.shard_shape(shape) == held(shape, names, mesh), path
        # Every kernel and table is split over `fsdp`, and those of blocks over `tensor`; of vectors only some.
        if path.endswith(("/kernel", "/embedding")):
            assert "embed" in names and ("/transformer/" not in path or {"heads", "mlp"} & set(names)), path


# ---------------------------------------------------------------- what devices say to each other

SMALL = 1024  # bytes of norms, losses and their likes, whose way through the compiler is not followed here


def check_collectives(name, mesh, found):
    mapping, params = TOWERS[name], named(first_state(name)[1]["params"])
    expected, free = expectation(mapping, params, mesh), allowance(mapping, mesh)
    executed = totals(found, mesh.shape)
    for key in set(executed) | set(expected):
        size = executed.get(key, (0, 0))[1]
        if not expected[key] - SMALL <= size <= expected[key] + free[key] + SMALL:
            pytest.fail(f"{key}: {size} bytes, not {expected[key]} (+ {free[key]})\n{describe(found, mesh.shape)}")


def expectation(mapping, params, mesh):
    """(kind, mesh axes) -> bytes of a step, from the config alone.

    FSDP: a kernel is gathered where it is used, in the forward and in the backward pass if it is a block's; tables and
    projections once. Its gradient is reduced over `fsdp` where it is whole, then over `data` where it is split. XLA
    makes one reduce-scatter of the former on accelerators; on CPU it is an all-reduce of which each device keeps its
    part. Vectors, and parameters that `fsdp` does not divide, are whole: their gradients are reduced over both at once.

    Tensor: per block and pass of tokens [B, T, D]: forward the outputs of attention and MLP are summed, backward the
    gradients by the inputs of q, k, v and fc1 (accelerators add up the first three before they sum over devices; on
    CPU each is summed by itself); rematerialised, the output of attention once more. The looked-up embeddings are
    summed once.

    Batch norm: two vectors of statistics forward, and one backward beside the gradients of gains and shifts.

    Loss: plain gathers the texts' features and sums their gradients; a ring passes texts on as often as there are
    devices, with the ids and logits that tell pairs apart, and what they have accumulated.
    """
    data, fsdp, tensor = mesh.shape.values()
    over = tuple(axis for axis in ("data", "fsdp") if mesh.shape[axis] > 1)
    sums = collections.Counter()
    for path, (shape, names) in params.items():
        part, whole = (4 * math.prod(held(shape, names, mesh, without)) for without in ((), ("fsdp",)))
        if whole == part:  # not split over fsdp
            sums["all-reduce", over] += part
            continue
        sums["all-gather", ("fsdp",)] += whole * (2 if "/transformer/" in path or "/layer" in path else 1)
        if path.endswith("/embedding"):
            sums["all-reduce", over] += whole
        elif tensor > 1 and not {"heads", "mlp"} & set(names):
            # Devices of `tensor` would compute the same gradient: each computes a part, and parts change places.
            sums["all-reduce", over] += whole // tensor
            sums["collective-permute", ("fsdp", "tensor")] += part
        else:
            sums["all-reduce", ("fsdp",)] += whole
            sums["all-reduce", ("data",)] += part if data > 1 else 0

    rows, ways, embed = B // (data * fsdp), data * fsdp, mapping["embed_dim"]
    ring = mapping.get("loss_form") == "ring"
    if ring:
        texts = 4 * rows * embed
        sums["collective-permute", over] += ways * 3 * texts
    elif ways > 1:
        sums["all-gather", over] += 4 * B * embed
        sums["all-reduce", over] += 4 * B * embed

    towers = [mapping["img"], mapping["txt"]]
    if mapping["img"].get("kind") == "resnet":
        bytes_of = {path: 4 * held(shape, names, mesh)[0] for path, (shape, names) in params.items() if "bn" in path}
        norms = sum(size for path, size in bytes_of.items() if path.endswith("/scale"))
        again = sum(size for path, size in bytes_of.items() if path.endswith("/scale") and "/layer" in path)
        sums["all-reduce", over] += 3 * norms + (2 * again if mapping.get("remat") else 0)
        towers = towers[1:]
    if tensor > 1:
        for tower in towers:
            sums["all-reduce", ("tensor",)] += (
                tower["depth"] * tokens(tower, rows) * (6 + (mapping.get("remat") == "full"))
            )
        sums["all-reduce", ("tensor",)] += tokens(mapping["txt"], rows)
        if mapping["img"].get("pool") == "map":  # one query: k and v read tokens; q, out, fc1 and fc2 one state
            sums["all-reduce", ("tensor",)] += 2 * tokens(mapping["img"], rows) + 4 * 4 * rows * mapping["img"]["width"]
    return collections.Counter({key: size for key, size in sums.items() if key[1]})


def tokens(tower, rows):
    """Bytes of a device's tokens [rows, T, D] of a tower."""
    length = tower.get("length") or (tower["image_size"] // tower["patch"]) ** 2 + tower.get("cls", True)
    return 4 * rows * length * tower["width"]


def allowance(mapping, mesh):
    """What may be said on top, (kind, mesh axes) -> bytes: where the compiler has a choice.

    Heads that `tensor` does not divide: q, k, v are gathered, so is the gradient of what attention gives; the work on
    whole heads, the same on all devices of `tensor`, may be split and its three gradients gathered. Convolutions gather
    the channels that they read, and sum the gradients by them; how often depends on what is kept.
    """
    data, fsdp, tensor = mesh.shape.values()
    rows, sums = B // (data * fsdp), collections.Counter()
    if tensor == 1:
        return sums
    for tower in (mapping["img"], mapping["txt"]):
        if tower.get("kind") == "resnet":
            size, width, features = tower["image_size"], tower["width"], 0
            features += size**2 // 4 * 2 * (width // 2)  # into the second and third convolution
            for i in range(4):
                side, wide, deep = (
                    size // 4 // 2 ** max(i - 1, 0),
                    width * 2**i,
                    width * (1 if i == 0 else 4 * 2 ** (i - 1)),
                )
                features += side**2 * (2 * deep + 2 * wide)
            features += (size // 32) ** 2 * 32 * width * 8  # into the attention pool
            sums["all-gather", ("tensor",)] += 2 * 4 * rows * features
            sums["all-reduce", ("tensor",)] += 2 * 4 * rows * features
        elif tower["heads"] % tensor:
            sums["all-gather", ("tensor",)] += 7 * tower["depth"] * tokens(tower, rows)
    return sums
