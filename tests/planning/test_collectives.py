"""Collectives counted in HLO text, as XLA writes it for CPUs and for TPUs."""

import jax
import jax.numpy as jnp
import pytest

from caugym_jax.devices.mesh import make_mesh, replicated, rows
from caugym_jax.planning.collectives import OUTSIDE, Collective, collectives, totals

# A loop of 6 (by its condition), in it a gather of [8, 16] bfloat16 over the last two of a 2 x 4
# mesh's devices, spread over two fusions of one chain, and a fused reduce-scatter; after it an
# asynchronous gather over listed groups, a permute, and an all-reduce over pairs four apart.
TPU = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%async_collective_fusion (p: bf16[2,16]) -> bf16[8,16] {
  ROOT %all-gather.1 = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=2, \
replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}, frontend_attributes={chain_id="3"}
}

%async_collective_fusion.2 (p: bf16[2,16]) -> bf16[8,16] {
  ROOT %all-gather.2 = bf16[8,16]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=2, \
replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}, frontend_attributes={chain_id="3"}
}

%all-reduce-scatter.1 (p: bf16[8,16]) -> bf16[1,16] {
  %all-reduce.1 = bf16[8,16]{1,0:T(8,128)(2,1)} all-reduce(%p), channel_id=1, \
replica_groups=[1,8]<=[8], use_global_device_ids=true, to_apply=%add
  ROOT %dynamic-slice = bf16[1,16]{1,0} dynamic-slice(%all-reduce.1, %i, %zero)
}

%cond (c: (s32[], bf16[2,16])) -> pred[] {
  %bound = s32[]{:T(128)} constant(6)
  %counter = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%counter, %bound), direction=LT, metadata={op_name="lt"}
}

%body (c: (s32[], bf16[2,16])) -> (s32[], bf16[2,16]) {
  %fusion.1 = bf16[8,16]{1,0} fusion(%w), kind=kCustom, calls=%async_collective_fusion
  %fusion.2 = bf16[8,16]{1,0} fusion(%w), kind=kCustom, calls=%async_collective_fusion.2
  ROOT %fusion.3 = bf16[1,16]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
}

ENTRY %main (w: bf16[2,16]) -> f32[] {
  %while.1 = (s32[]{:T(128)}, bf16[2,16]{1,0:T(8,128)(2,1)}) while(%tuple), condition=%cond, \
body=%body
  %all-gather-start = (f32[10]{0}, f32[20]{0}) all-gather-start(%v), channel_id=5, \
replica_groups={{0,4},{1,5},{2,6},{3,7}}, dimensions={0}
  %all-gather-done = f32[20]{0} all-gather-done(%all-gather-start)
  %collective-permute-start = (f32[5]{0}, f32[5]{0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%v), channel_id=1, source_target_pairs={{0,1},{1,2}}
  %collective-permute-done = f32[5]{0} collective-permute-done(%collective-permute-start)
  %all-reduce.9 = (f32[3]{0}, f32[4]{0}) all-reduce(%a, %b), channel_id=7, \
replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
  ROOT %done = f32[] constant(0)
}
"""


def test_a_tpu_program_by_hand():
    assert collectives(TPU) == [
        Collective("all-gather", 6, 8 * 16 * 2, (0, 1, 2, 3)),
        Collective("reduce-scatter", 6, 8 * 16 * 2, tuple(range(8))),
        Collective("all-gather", 1, 80, (0, 4)),
        Collective("collective-permute", 1, 20, (0, 1)),
        Collective("all-reduce", 1, 28, (0, 4)),
    ]
    assert totals(collectives(TPU)) == {
        "all-gather": {"count": 7, "bytes": 6 * 256 * 3 / 4 + 40},
        "all-reduce": {"count": 1, "bytes": 2 * 28 / 2},
        "collective-permute": {"count": 1, "bytes": 20},
        "reduce-scatter": {"count": 6, "bytes": 6 * 256 * 7 / 8},
    }


def test_a_counter_may_go_on_by_two():
    """`lt`'s counter is place 0 of the tuple that the body ends with."""
    stepped = TPU.replace(
        "  ROOT %fusion.3 = bf16[1,16]{1,0} fusion(%g), kind=kCustom",
        """  %counter = u32[]{:T(128)} get-tuple-element(%c), index=0
  %two = u32[]{:T(128)} constant(2)
  %next = u32[]{:T(128)} add(%counter, %two)
  ROOT %again = (s32[], bf16[2,16]) tuple(%next, %w)
  %fusion.3 = bf16[1,16]{1,0} fusion(%g), kind=kCustom""",
    )
    assert totals(collectives(stepped))["reduce-scatter"]["count"] == 3


def test_a_loop_that_ends_as_it_likes_is_the_caller_s_to_count():
    unbounded = TPU.replace("ROOT %lt = pred[]{:T(512)} compare(", "ROOT %any = pred[] and(")
    found = collectives(unbounded, 10)
    assert totals(found)["reduce-scatter"]["count"] == 10
    assert {one.drawing for one in found if one.kind == "reduce-scatter"} == {True}
    assert {one.drawing for one in found if one.kind != "reduce-scatter"} >= {False}
    known = TPU.replace(
        "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"9"},"x":[]}'
    )
    assert totals(collectives(known, 10))["reduce-scatter"]["count"] == 9


def test_what_goes_to_other_slices():
    """As libtpu 0.0.42 writes it: handed to the host, which reduces it over slices 1, 2 and 3."""
    target = '_xla_megascale_target="{1,2,3}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"'
    send = (
        "  %send = (f32[128,8]{1,0}, u32[], token[]) send(%b, %after-all), channel_id=2, "
        f'is_host_transfer=true, frontend_attributes={{_xla_host="x",{target}}}\n'
    )
    entry = TPU.index("ENTRY ")
    place = TPU.index("\n", entry) + 1
    found = collectives(TPU[:place] + send + TPU[place:])
    assert found[0] == Collective(OUTSIDE, 1, 128 * 8 * 4, (1, 2, 3))
    assert found[0].received == 2 * 4096 * 2 / 3
    assert found[1:] == collectives(TPU)


@pytest.mark.parametrize("length", [1, 5])
def test_what_this_machine_compiles(length):
    """A matrix split over 8 devices is gathered in every turn of a scan."""
    mesh = make_mesh(devices=jax.devices()[:8])
    w = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=rows(mesh))
    x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=replicated(mesh))

    def run(w, x):
        def turn(carry, _):
            w, x = carry
            gathered = jax.lax.with_sharding_constraint(w, replicated(mesh))
            w = jax.lax.with_sharding_constraint(jnp.tanh(w), rows(mesh))
            return (w, jnp.tanh(x @ gathered @ gathered.T)), None

        return jax.lax.scan(turn, (w, x), length=length)[0][1]

    text = jax.jit(run).lower(w, x).compile().as_text()
    (gather,) = [one for one in collectives(text) if one.kind == "all-gather"]
    assert gather == Collective("all-gather", length, 64 * 32 * 4, tuple(range(8)))
    assert gather.received == length * 64 * 32 * 4 * 7 / 8


def test_a_program_on_one_device_sends_nothing():
    text = jax.jit(lambda x: x @ x).lower(jnp.ones((8, 8))).compile().as_text()
    assert collectives(text) == []
