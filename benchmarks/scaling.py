"""What a training step would take on many devices, predicted from the compiled program and from data sheets.

    python -m benchmarks.scaling --output=scaling.json --plot=docs/scaling.png

For each number of devices a process of its own compiles the step of the published network for that many virtual CPU
devices, from shapes alone: no parameter is ever made. Of the program it counts the bytes that each device sends in
collective operations; `avmsnet_jax.models.flops` counts the floating-point operations, and the rest is arithmetic on
the table below. Nothing here was measured on a GPU or a TPU: docs/scaling.md says what is assumed.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import flags

from avmsnet_jax import command_line
from avmsnet_jax.errors import UserError
from avmsnet_jax.training.peak import DATA_SHEETS
from benchmarks.collectives import Collective, collectives

_DEVICES = flags.DEFINE_list("devices", [str(2**power) for power in range(9)], "numbers of devices")
_FSDP = flags.DEFINE_list("fsdp", ["1", "8"], "devices that share a copy of the first linear layer; see mesh.fsdp")
_DTYPES = flags.DEFINE_list("dtypes", ["bfloat16", "float32"], "compute types")
_BATCH = flags.DEFINE_integer("batch", 16, "weak scaling: clips on each device")
_GLOBAL_BATCH = flags.DEFINE_integer("global_batch", 256, "strong scaling: clips on all devices together")
_DEPTH = flags.DEFINE_integer("depth", 50, "3D-ResNet depth")
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the figures")
_PLOT = flags.DEFINE_string("plot", "", "PNG file for the predicted clips a second")
_ONE = flags.DEFINE_string("one", "", "compile this one case, as a JSON object, and print its counts")


@dataclasses.dataclass(frozen=True)
class Machine:
    """What data sheets say of a device and its links. Rates are bytes or operations a second; times are seconds.

    Attributes:
      peak: dense operations by compute type, at the precision that XLA takes for it by default.
      memory: of the device's own memory.
      node: devices that `near` connects; 0 = all, in a torus.
      near: bytes that a device can send to others of its node while it receives as many.
      far: the same, to other nodes.
      near_latency: assumed, of a small collective operation within a node or, in a torus, of one hop.
      far_latency: assumed, what each doubling of nodes adds.
    """

    name: str
    peak: dict[str, float]
    memory: float
    node: int
    near: float
    far: float
    near_latency: float
    far_latency: float


MACHINES = (
    # NVIDIA's H200 data sheet (SXM): 4.8 TB/s; NVLink 900 GB/s in both directions together. One 400 Gb/s InfiniBand
    # adapter a GPU (DGX H200 data sheet).
    Machine("H200", DATA_SHEETS["NVIDIA H200"], 4.8e12, 8, 450e9, 50e9, 12e-6, 8e-6),
    # Google's page on TPU v5e: 819 GB/s, 1,600 Gb/s to the four neighbours of a 2-D torus of up to 16 x 16: 50 GB/s to
    # each.
    Machine("TPU v5e", DATA_SHEETS["TPU v5e"], 819e9, 0, 50e9, 50e9, 1e-6, 0.0),
)
# Assumed: the share of peak that convolutions and products reach, as low and as high as we would expect it.
UTILISATION = (0.15, 0.40)
# Smaller than this, a collective operation is one of batch normalisation's, which the next layer has to wait for.
SMALL = 128 * 1024


@dataclasses.dataclass(frozen=True)
class Case:
    """A program to compile: `devices` in groups of `fsdp`, `batch` clips on each."""

    devices: int
    fsdp: int
    dtype: str
    batch: int
    depth: int


def main(_: list[str]) -> None:
    """Compiles all cases, prints the table, and writes the files asked for."""
    if _ONE.value:
        print(json.dumps(compile_here(Case(**json.loads(_ONE.value)))))
        return
    rows = []
    for case, kinds in cases().items():
        counted = compile_apart(case)
        for machine in MACHINES:
            predicted = predict(machine, case, counted)
            rows.append({"scaling": kinds, "machine": machine.name, **dataclasses.asdict(case), **counted, **predicted})
            print(line(rows[-1]), flush=True)
    for row in rows:
        del row["operations"]
    if _OUTPUT.value:
        settings = {"machines": [dataclasses.asdict(machine) for machine in MACHINES], "utilisation": UTILISATION}
        Path(_OUTPUT.value).write_text(json.dumps({**settings, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    if _PLOT.value:
        plot(rows, Path(_PLOT.value))


def cases() -> dict[Case, list[str]]:
    """What is to be compiled, and whether it is a case of weak scaling, of strong scaling, or of both."""
    found: dict[Case, list[str]] = {}
    for dtype in _DTYPES.value:
        for fsdp in map(int, _FSDP.value):
            for devices in map(int, _DEVICES.value):
                if devices % fsdp:
                    continue
                batches = {"weak": _BATCH.value}
                if not _GLOBAL_BATCH.value % devices:
                    batches["strong"] = _GLOBAL_BATCH.value // devices
                for kind, batch in batches.items():
                    found.setdefault(Case(devices, fsdp, dtype, batch, _DEPTH.value), []).append(kind)
    return found


def compile_apart(case: Case) -> dict[str, Any]:
    """`compile_here` in a process that has as many virtual devices as the case asks for."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", f"--one={json.dumps(dataclasses.asdict(case))}"],
        env=os.environ
        | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={case.devices}", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"{case} does not compile: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compile_here(case: Case) -> dict[str, Any]:
    """Of the step on each device: XLA's `flops`, `exact_flops`, collective `operations`, `state_bytes`."""
    import jax

    from avmsnet_jax import mesh as mesh_lib
    from avmsnet_jax.config import Config, MeshConfig, ModelConfig, TrainConfig
    from avmsnet_jax.models.flops import training_flops
    from avmsnet_jax.training.optimizer import make_optimizer
    from avmsnet_jax.training.step import batch_shapes, describe, make_step

    model = ModelConfig(depth=case.depth, dtype=case.dtype)
    train = TrainConfig(batch_size=case.batch * case.devices)
    config = Config(model=model, mesh=MeshConfig(fsdp=case.fsdp), train=train)
    mesh = mesh_lib.make_mesh(config.mesh)
    optimizer = make_optimizer(config, steps_per_epoch=100)
    # The forms of convolutions and normalisations that accelerators get, not those that are fastest on a CPU.
    graphdef, described, _ = describe(config, optimizer, mesh, "gpu")
    step: Any = make_step(graphdef, optimizer, config, described, "gpu")
    lowered = step.lower(described, batch_shapes(config, mesh))
    # It never runs: no need for LLVM to optimise what XLA has.
    compiled = lowered.compile({"xla_backend_optimization_level": 0})
    found = collectives(compiled.as_text())
    state = sum(
        leaf.sharding.shard_shape(leaf.shape)[0] * (leaf.size // leaf.shape[0]) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(described)
        if leaf.shape
    )
    return {
        "flops": compiled.cost_analysis()["flops"],
        "exact_flops": training_flops(model) * case.batch,
        "state_bytes": state,
        "operations": [dataclasses.asdict(each) | {"sent": each.sent} for each in found],
        "sent_bytes": sum(each.sent for each in found),
        "small_operations": sum(each.size < SMALL for each in found),
    }


def seconds(machine: Machine, operation: Collective, devices: int) -> float:
    """How long a collective operation takes by itself: latency, and its bytes over the links of its devices.

    A group that spans nodes adds up within each node first, then between nodes over one adapter a device, then hands
    back within the node. In a torus a device has one or two neighbours along each side of 2 or more.
    """
    share = operation.sent / operation.size if operation.size else 0.0
    passes = share * operation.devices / (operation.devices - 1)  # 2 of an all-reduce, 1 of others
    if machine.node:
        nodes = len({device // machine.node for device in operation.groups[0]})
        near = operation.devices // nodes
        doublings = max(nodes - 1, 0).bit_length()
        time = machine.near_latency * (near > 1) + machine.far_latency * doublings
        time += passes * operation.size * (near - 1) / near / machine.near
        return time + passes * operation.size / near * (nodes - 1) / nodes / machine.far
    whole = operation.devices == devices
    sides = torus(devices) if whole else (operation.devices, 1)
    # At an open end there is one way in; 16 devices close to a ring.
    links = sum(2 if side == 16 else 1 for side in sides if side > 1)
    hops = sum(side // 2 if side == 16 else side - 1 for side in sides)
    return machine.near_latency * passes * hops + operation.sent / (links * machine.near)


def torus(devices: int) -> tuple[int, int]:
    """The sides of the slice of that many TPU v5e: 8 are 2 x 4."""
    short = 2 ** ((devices.bit_length() - 1) // 2)
    return short, devices // short


def predict(machine: Machine, case: Case, counted: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of a step, at the two ends of `UTILISATION`, and clips a second.

    Batch normalisation's operations are waited for. The others, of gradients and of the first linear layer, either run
    beside the backward pass, two thirds of the computing, or are waited for as well.
    """
    operations = [
        Collective(each["kind"], each["dtype"], each["size"], tuple(map(tuple, each["groups"])))
        for each in counted["operations"]
    ]
    waited = sum(seconds(machine, each, case.devices) for each in operations if each.size < SMALL)
    large = sum(seconds(machine, each, case.devices) for each in operations if each.size >= SMALL)
    # Of parameters, momentum and gradients: read all three, write the first two.
    update = 2.5 * counted["state_bytes"] / machine.memory
    predicted: dict[str, Any] = {"waited_ms": 1e3 * waited, "large_ms": 1e3 * large, "update_ms": 1e3 * update}
    for name, utilisation in zip(("slow", "fast"), UTILISATION, strict=True):
        compute = counted["exact_flops"] / (machine.peak[case.dtype] * utilisation)
        beside = compute + update + waited + max(large - compute * 2 / 3, 0.0)
        after = compute + update + waited + large
        clips = case.batch * case.devices
        predicted[f"{name}_compute_ms"] = 1e3 * compute
        predicted[f"{name}_overlapped_ms"], predicted[f"{name}_serial_ms"] = 1e3 * beside, 1e3 * after
        predicted[f"{name}_clips_per_second"] = clips / beside
        predicted[f"{name}_clips_per_second_serial"] = clips / after
    return predicted


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    where = f"{row['machine']:8} {row['dtype']:8} {row['devices']:3d} devices, fsdp {row['fsdp']}, "
    work = f"{row['batch']:3d} clips each ({'/'.join(row['scaling'])}): {row['exact_flops'] / 1e9:6.0f} GFLOP, "
    sent = f"sends {row['sent_bytes'] / 1e6:5.0f} MB in {len(row['operations'])} operations; "
    overlapped = f"step {row['fast_overlapped_ms']:.1f}-{row['slow_overlapped_ms']:.1f} ms "
    return (
        where + work + sent + overlapped + f"(not overlapped {row['fast_serial_ms']:.1f}-{row['slow_serial_ms']:.1f})"
    )


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Clips a second over devices: weak and strong scaling side by side, for each machine and layout in bf16."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    for panel, kind in zip(panels, ("weak", "strong"), strict=True):
        colours = iter(("tab:blue", "tab:cyan", "tab:red", "tab:orange"))
        for machine in MACHINES:
            for fsdp in sorted({row["fsdp"] for row in rows}):
                those = [
                    row
                    for row in rows
                    if (row["machine"], row["fsdp"], row["dtype"]) == (machine.name, fsdp, "bfloat16")
                    and kind in row["scaling"]
                ]
                if not those:
                    continue
                devices = [row["devices"] for row in those]
                ends = ([row[f"{end}_clips_per_second"] for row in those] for end in ("slow", "fast"))
                colour = next(colours)
                panel.fill_between(devices, *ends, color=colour, alpha=0.2)
                panel.plot(
                    devices,
                    [row["fast_clips_per_second_serial"] for row in those],
                    ":",
                    color=colour,
                )
                panel.plot(
                    devices,
                    [row["fast_clips_per_second"] for row in those],
                    "o-",
                    markersize=3,
                    color=colour,
                    label=f"{machine.name}, fsdp {fsdp}",
                )
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xlabel("devices")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("clips a second, predicted")
    panels[0].set_title(f"weak: {_BATCH.value} clips a device")
    panels[1].set_title(f"strong: {_GLOBAL_BATCH.value} clips in all")
    panels[0].legend(fontsize=8)
    figure.suptitle("bf16. Bands: 15-40% of peak, communication beside the backward pass; dotted: 40%, after it")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    command_line.run(main)
