"""Collectives from HLO text: every form in which XLA prints them, loops, and programs compiled here."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.core import sharding as shd
from mmjax.core.collectives import Collective, collectives, describe, totals

MESH = {"data": 2, "fsdp": 2, "tensor": 2}


def module(*lines, before=""):
    return "\n".join(
        ["HloModule jit_f, is_scheduled=true, replica_count=1, num_partitions=8", "", before,
         "ENTRY %main (p: f32[8]) -> f32[8] {", *(f"  {line}" for line in lines), "}", ""]
    )  # fmt: skip


def one(line):
    (found,) = collectives(module(line))
    return found


@pytest.mark.parametrize(
    ("groups", "group", "axes"),
    [
        ("{{0,4},{1,5},{2,6},{3,7}}", (0, 4), ("data",)),
        ("{{0,1,2,3},{4,5,6,7}}", (0, 1, 2, 3), ("fsdp", "tensor")),
        ("{}", tuple(range(8)), ("data", "fsdp", "tensor")),
        ("[4,2]<=[8]", (0, 1), ("tensor",)),
        ("[4,2]<=[4,2]T(1,0)", (0, 2), ("fsdp",)),
        ("[2,4]<=[2,2,2]T(2,0,1)", (0, 2, 4, 6), ("data", "fsdp")),
        ("mesh['a'=8,'b'=1] {'a'}", tuple(range(8)), ("data", "fsdp", "tensor")),
        ("mesh['a'=2,'b'=4] {'a'}", (0, 4), ("data",)),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", (0, 1, 4, 5), ("data", "tensor")),
        ("mesh['a'=2,'b'=4] {'b':(1)2}", (0, 2), ("fsdp",)),
        ("mesh['a'=2,'b'=4] {'b':(2)2}", (0, 1), ("tensor",)),
        ("mesh['a'=1,'b'=2,'c'=4], device_ids=([4,2]T(1,0)) {'b'}", (0, 1), ("tensor",)),
        ("mesh['a'=2,'b'=4], device_ids=([2,2,2]T(1,0,2)) {'a'}", (0, 2), ("fsdp",)),
        ("mesh['a'=4,'b'=2], device_ids=(0,2,1,3,4,6,5,7) {'b'}", (0, 2), ("fsdp",)),
    ],
)
def test_every_way_to_write_a_group(groups, group, axes):
    found = one(f"%g = f32[8]{{0}} all-gather(%p), channel_id=1, replica_groups={groups}, dimensions={{0}}")
    assert found.group == group and found.axes(MESH) == axes and found.group_size == len(group)


@pytest.mark.parametrize(
    ("line", "kind", "size"),
    [
        ("%x = f32[8,4]{1,0} all-gather(%p), replica_groups=[4,2]<=[8], dimensions={0}", "all-gather", 128),
        ("%x = bf16[8,4]{1,0:T(8,128)(2,1)} all-reduce(%p), replica_groups=[4,2]<=[8]", "all-reduce", 64),
        ("%x = (f32[2]{0}, s8[3]{0}, /*index=2*/pred[5]{0}) all-reduce(%p, %q), replica_groups=[4,2]<=[8]",
         "all-reduce", 16),
        ("%x = f32[2]{0} reduce-scatter(%p), replica_groups=[2,4]<=[8], dimensions={0}", "reduce-scatter", 32),
        ("ROOT %x = f8e4m3fn[16]{0} all-to-all(%p), replica_groups=[4,2]<=[8]", "all-to-all", 16),
        ("%x = s4[16]{0} all-to-all(%p), replica_groups=[4,2]<=[8]", "all-to-all", 8),
        ("%x = (f32[4]{0}, f32[8]{0}) all-gather-start(%p), replica_groups=[4,2]<=[8]", "all-gather", 32),
        ("%x = ((f32[4], f32[2]), (f32[8], f32[4])) all-gather-start(%p, %q), replica_groups=[4,2]<=[8]",
         "all-gather", 48),
        ("%x = (f32[4]{0}, f32[2]{0}) all-reduce-start(%p, %q), replica_groups=[4,2]<=[8]", "all-reduce", 24),
        ("%x = ((f32[8]{0}), f32[4]{0}, u32[]) reduce-scatter-start(%p), replica_groups=[4,2]<=[8]",
         "reduce-scatter", 32),
        ("%x = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1},{1,0}}",
         "collective-permute", 16),
    ],
)  # fmt: skip
def test_bytes_of_the_larger_side(line, kind, size):
    found = one(line)
    assert (found.kind, found.bytes, found.count) == (kind, size, 1)


def test_permutes():
    found = one("%x = f32[4]{0} collective-permute(%p), source_target_pairs={{0,0},{1,3},{3,1},{2,2}}")
    assert found.group == (1, 3) and found.sent == 16
    ring = one("%x = f32[4]{0} collective-permute(%p), source_target_pairs={{0,2},{2,4},{4,6},{6,0},{1,3}}")
    assert ring.group == (0, 2, 4, 6) and ring.axes(MESH) == ("data", "fsdp")


def test_a_collective_of_one_device_moves_nothing():
    assert collectives(module("%x = f32[4]{0} all-reduce(%p), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}")) == []
    assert collectives(module("%x = f32[4]{0} collective-permute(%p), source_target_pairs={{0,0}}")) == []


def test_bytes_that_a_ring_sends():
    sent = lambda kind: Collective(kind, 80, 3, tuple(range(8)), "").sent  # noqa: E731
    assert sent("all-reduce") == 3 * 140 and sent("all-gather") == sent("reduce-scatter") == 3 * 70
    assert sent("collective-permute") == 240


INNER = """%body (p: f32[8]) -> f32[8] {
  %r = f32[8]{0} all-reduce(%p), replica_groups=[4,2]<=[8], to_apply=%add, metadata={op_name="jit(f)/while/psum"}
}

%wrapped (p: f32[8]) -> f32[8] {
  %s = f32[8]{0} all-reduce(%p), replica_groups=[4,2]<=[8], to_apply=%add
}
"""
TRIPS = """backend_config={"known_trip_count":{"n":"5"}}"""


def test_loops_and_calls_are_multiplied_out():
    nested = INNER + "\n%outer (p: f32[8]) -> f32[8] {\n  %w = f32[8] while(%p), condition=%c, body=%body, %s\n}\n"
    text = module(
        f"%w = f32[8] while(%p), condition=%c, body=%outer, {TRIPS}", before=nested.replace("%s\n", f"{TRIPS}\n")
    )
    (found,) = collectives(text)
    assert found.count == 25 and found.source == "jit(f)/while/psum"
    done = "%d = f32[8] async-done(%a), calls=%wrapped"
    (found,) = collectives(module("%a = ((f32[8])) async-start(%p), calls=%wrapped", done, before=INNER))
    assert found.count == 1
    both = "%c = f32[8] conditional(%i, %p, %p), branch_computations={%wrapped, %body}"
    assert len(collectives(module(both, before=INNER))) == 1


def test_a_loop_of_unknown_length_is_an_error_if_it_holds_collectives():
    unknown = "%w = f32[8] while(%p), condition=%c, body=%body"
    with pytest.raises(ValueError, match=r"loop w holds collectives \(jit\(f\)/while/psum\), but how often"):
        collectives(module(unknown, before=INNER))
    assert collectives(module(unknown, before="%body (p: f32[8]) -> f32[8] {\n  %n = f32[8] negate(%p)\n}\n")) == []
    with pytest.raises(ValueError, match="no ENTRY computation"):
        collectives("module @jit_f {}")


def test_a_compiled_program():
    """Three layers whose kernels are split over eight devices, scanned: gathered layer by layer."""
    mesh = shd.make_mesh({"fsdp": 8})
    kernels = jax.ShapeDtypeStruct((3, 16, 16), jnp.float32, sharding=NamedSharding(mesh, P(None, "fsdp")))
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=shd.batch_sharding(mesh))

    def f(kernels, x):
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, kernels)[0].sum()

    with shd.use_mesh(mesh):
        found = collectives(jax.jit(f).lower(kernels, x).compile().as_text())
    assert totals(found, mesh.shape) == {
        ("all-gather", ("fsdp",)): (3, 3 * 16 * 16 * 4),
        ("all-reduce", ("fsdp",)): (1, 4),
    }
    assert describe(found, mesh.shape).splitlines()[0].split()[:4] == ["all-gather", "fsdp", "3", "x"]
