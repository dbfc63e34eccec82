"""Counts of the collectives in compiled programs."""

import json

import pytest

from benchmarks.collectives import collectives

# Two rows of four devices. Sizes without a common factor, so that no count can pass for another.
PROGRAM = """
import json
import jax, jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from benchmarks.collectives import collectives

mesh = jax.make_mesh((2, 4), ("row", "column"), axis_types=(AxisType.Auto,) * 2)

def each(x):
    added = lax.psum(x[:7], "row")
    halves = lax.psum(x[:11].astype(jnp.bfloat16), ("row", "column"))
    gathered = lax.all_gather(x[:13], "column")
    halves_gathered = lax.all_gather(x[:19].astype(jnp.bfloat16), "column")
    scattered = lax.psum_scatter(x[:20], "column", tiled=True)
    turned = lax.all_to_all(x[:24].reshape(4, 6), "column", 0, 1, tiled=True)
    passed = lax.ppermute(x[:17], "row", [(0, 1), (1, 0)])
    return added, halves, gathered, halves_gathered, scattered, turned, passed

f = jax.jit(jax.shard_map(each, mesh=mesh, in_specs=P(None), out_specs=P(("row", "column")), check_vma=False))
sharded = jax.ShapeDtypeStruct((16, 5), jnp.float32, sharding=NamedSharding(mesh, P("column")))
total = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, P()))  # which the partitioner has to add up
programs = f.lower(jax.ShapeDtypeStruct((64,), jnp.float32)), total.lower(sharded)
print(json.dumps([[(c.kind, c.dtype, c.size, c.groups, c.sent) for c in collectives(p.compile().as_text())]
                  for p in programs]))
"""
ROWS = [[0, 1, 2, 3], [4, 5, 6, 7]]
COLUMNS = [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_a_known_program_is_counted_exactly(forked, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    done = forked("-m", "tests.virtual_devices", 8, tmp_path / "program.py")
    assert done.returncode == 0, done.stderr
    by_hand, by_partitioner = json.loads(done.stdout)
    assert sorted(by_hand) == sorted(
        [
            ["all-reduce", "f32", 7 * 4, COLUMNS, 2 * 28 / 2],
            ["all-reduce", "bf16", 11 * 2, [list(range(8))], 2 * 22 * 7 / 8],
            ["all-gather", "f32", 4 * 13 * 4, ROWS, 208 * 3 / 4],
            ["all-gather", "bf16", 4 * 19 * 2, ROWS, 152 * 3 / 4],
            ["reduce-scatter", "f32", 20 * 4, ROWS, 80 * 3 / 4],
            ["all-to-all", "f32", 24 * 4, ROWS, 96 * 3 / 4],
            ["collective-permute", "f32", 17 * 4, [[0, 4], [4, 0], [1, 5], [5, 1], [2, 6], [6, 2], [3, 7], [7, 3]], 68],
        ]
    )
    assert by_partitioner == [["all-reduce", "f32", 20, ROWS, 2 * 20 * 3 / 4]]


def program(line, computation="ENTRY %main"):
    return f"{computation} (x: f32[8]) -> f32[8] {{\n  %x = f32[8]{{0}} parameter(0)\n  {line}\n}}\n"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{{0,2},{1,3}}", ((0, 2), (1, 3))),
        ("[2,4]<=[8]", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("[4,2]<=[2,4]T(1,0)", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=2,'b'=4] {'a'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", ((0, 1, 4, 5), (2, 3, 6, 7))),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=8] {'a':(2)4}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("mesh['a'=8] {'a':(1)2}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=8] {'a':(2)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
    ],
)
def test_replica_groups_are_parsed_in_every_notation(written, meant):
    line = f"%r = f32[8]{{0}} all-reduce(%x), replica_groups={written}, to_apply=%add"
    (found,) = collectives(program(line))
    assert (found.size, found.groups) == (32, meant)


@pytest.mark.parametrize(
    ("line", "kind", "size"),
    [
        ("%s = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), replica_groups={{0,1,2,3}}", "all-gather", 32),
        ("%s = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}",
         "collective-permute", 32),
        ("%s = f32[8]{0} all-reduce-start(%x), replica_groups={{0,1}}, to_apply=%add", "all-reduce", 32),
        ("%s = (f32[8]{0}, /*index=1*/f32[4]{0}) all-reduce(%x, %y), replica_groups={{0,1}}, to_apply=%add",
         "all-reduce", 48),
        ("%s = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add.clone_promoted", "all-reduce", 16),
    ],
)  # fmt: skip
def test_collectives_are_parsed_in_every_notation(line, kind, size):
    (found,) = collectives(program(line))
    assert (found.kind, found.size) == (kind, size)


def test_groups_of_one_are_ignored_and_uncountable_programs_refused():
    assert collectives(program("%r = f32[8]{0} all-reduce(%x), replica_groups={{0},{1}}, to_apply=%add")) == []
    line = "%r = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add"
    loop = program(line, "%turn") + program("%w = f32[8]{0} while(%x), condition=%more, body=%turn")
    with pytest.raises(ValueError, match="r is in a loop"):
        collectives(loop)
    with pytest.raises(ValueError, match="unknown form"):
        collectives(program("%r = f32[8]{0} all-reduce(%x), replica_groups=everyone, to_apply=%add"))
