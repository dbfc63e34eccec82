"""The kernels of a training step on a GPU, by kind: the product's step, and its candidates for a faster one.

    python -m benchmarks.step_kernels --variants=base,flat,flat+onepass --output=kernels.json
    python -m benchmarks.step_kernels --target_config=h100.txtpb   # without a GPU: what XLA compiles for that one

`base` is the product's step; other variants are names of `benchmarks.candidates`, joined by plus signs. On a GPU, a
trace of `--steps` steps gives the number and time of the kernels, and five runs of ten steps the wall-clock time of a
step. Without one, XLA compiles for the device that `--target_config` describes (a text proto; pip install
jax-cuda13-plugin, no driver is needed), and kernels are only counted.

Each variant is printed, and written to `--output`, as soon as it is done. All are compiled in one process, where XLA
reuses its choice of the fastest kernels: the first takes a minute or two, the others a fraction.
"""

import collections
import json
import os
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import AxisType, Mesh

from avmsnet_jax import command_line
from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config, Dtype, MeshConfig, ModelConfig, TrainConfig
from avmsnet_jax.training.optimizer import make_optimizer
from avmsnet_jax.training.step import TrainState, describe
from benchmarks import candidates, torch_side
from benchmarks.compiled_kernels import kernels, kind_of

_VARIANTS = flags.DEFINE_list("variants", ["base", *candidates.NAMES, "+".join(candidates.NAMES)], "steps to compare")
_DEPTH = flags.DEFINE_integer("depth", 50, "3D-ResNet depth")
_BATCH = flags.DEFINE_integer("batch", 64, "clips in a step")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "compute type")
_STEPS = flags.DEFINE_integer("steps", 10, "steps of a trace")
_TARGET = flags.DEFINE_string("target_config", "", "text proto of a GPU to compile for, without one")
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the figures")


def main(_: list[str]) -> None:
    """Compares."""
    mesh = _described(_TARGET.value) if _TARGET.value else mesh_lib.make_mesh(MeshConfig(data=1))
    model = ModelConfig(depth=_DEPTH.value, dtype=cast(Dtype, _DTYPE.value))
    config = Config(model=model, train=TrainConfig(batch_size=_BATCH.value), mesh=MeshConfig(data=1))
    optimizer = make_optimizer(config, steps_per_epoch=1000)
    graphdef, described, create = describe(config, optimizer, mesh, "gpu")
    first = None if _TARGET.value else create()
    rows: dict[str, Any] = {}
    for variant in _VARIANTS.value:
        names = () if variant == "base" else tuple(variant.split("+"))
        try:
            rows[variant] = compared(config, graphdef, described, names, first)
        except Exception as error:  # the others may go well
            print(f"{variant} failed: {type(error).__name__}: {error}"[:300], flush=True)
            continue
        print(line(variant, rows[variant], rows.get("base", rows[variant])), flush=True)
        if _OUTPUT.value:
            about = {"batch": _BATCH.value, "depth": _DEPTH.value, "dtype": _DTYPE.value, "jax": jax.__version__}
            about["device"] = mesh.devices.flat[0].device_kind
            Path(_OUTPUT.value).write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


def compared(
    config: Config, graphdef: Any, described: TrainState, names: Collection[str], first: TrainState | None
) -> dict[str, Any]:
    """The figures of the step with these candidates, run from the state `first`; without one, compiled only."""
    prepared = candidates.prepare(config, graphdef, described, names, "gpu")
    began = time.monotonic()
    program = prepared.lowered.compile()
    row: dict[str, Any] = {"compiled in s": round(time.monotonic() - began)}
    row["temporary GB"] = round(program.memory_analysis().temp_size_in_bytes / 1e9, 2)
    if first is not None:
        return row | measured(program, prepared.begin(jax.tree.map(jnp.copy, first)), config, described)
    return row | summed([(name, 0.0) for name in kernels(program.as_text())])


def _described(path: str) -> Mesh:
    """A mesh of the device that a target configuration describes."""
    from jax.experimental import topologies

    text = Path(path).read_text(encoding="utf-8")
    topology = topologies.get_topology_desc(platform="cuda", target_config=text, topology="1x1x1")
    devices: Any = np.array(topology.devices).reshape(1, 1)
    return Mesh(devices, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def measured(program: Any, state: Any, config: Config, described: TrainState) -> dict[str, Any]:
    """Time of a step by the clock, and of its kernels by a trace."""
    mesh: Mesh = described.step.sharding.mesh  # type: ignore[attr-defined]
    batch = mesh_lib.place_batch(mesh, torch_side.clips(config.model, config.train.batch_size))

    def steps(count: int) -> float:
        nonlocal state
        began = time.perf_counter()
        for _ in range(count):
            state, _measured = program(state, batch)
        jax.block_until_ready(state)
        return (time.perf_counter() - began) / count

    steps(3)
    clock = sorted(1e3 * steps(10) for _ in range(5))
    with tempfile.TemporaryDirectory() as folder:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = options.host_tracer_level = 0
        jax.profiler.start_trace(folder, profiler_options=options)
        steps(_STEPS.value)
        jax.profiler.stop_trace()
        (path,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    found = [
        (event.name, event.duration_ns / 1e9 / _STEPS.value)
        for plane in data.planes
        if plane.name.startswith("/device:GPU")
        for part in plane.lines
        if part.name.startswith("Stream")
        for event in part.events
    ]
    row = summed(found)
    for kind in row["kinds"].values():
        kind["kernels"] /= _STEPS.value
    row["kernels"] /= _STEPS.value
    return {"clock ms": [round(ms, 2) for ms in clock]} | row


def summed(found: list[tuple[str, float]]) -> dict[str, Any]:
    """Milliseconds and number of kernels by kind, and the slowest kernels.

    Args:
      found: name and seconds of each kernel; 0 seconds if the program was not run.
    """
    kinds: dict[str, dict[str, float]] = {}
    largest: collections.Counter[str] = collections.Counter()
    for name, taken in found:
        total = kinds.setdefault(kind_of(name), {"ms": 0.0, "kernels": 0})
        total["ms"] += 1e3 * taken
        total["kernels"] += 1
        largest[name[:100]] += 1e3 * taken  # type: ignore[assignment]
    return {
        "ms": sum(kind["ms"] for kind in kinds.values()),
        "kernels": sum(kind["kernels"] for kind in kinds.values()),
        "kinds": kinds,
        "largest": {name: round(ms, 3) for name, ms in largest.most_common(40)},
    }


def line(variant: str, row: dict[str, Any], base: dict[str, Any]) -> str:
    """A row of the table."""
    text = f"{variant}, {_BATCH.value} clips, {_DTYPE.value}: {row['kernels']:.0f} kernels"
    if row["ms"]:
        text += f" of {row['ms']:.2f} ms ({row['ms'] / base['ms']:.3f} of base), wall-clock {row['clock ms']} ms"
    kinds = [f"{kind} {part['kernels']:.0f} ({part['ms']:.2f} ms)" for kind, part in row["kinds"].items()]
    return f"{text}; {', '.join(kinds)}; {row['temporary GB']} GB"


if __name__ == "__main__":
    print(f"jax {jax.__version__}", file=sys.stderr)
    command_line.run(main)
