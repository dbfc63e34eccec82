"""Predicts a training step on many devices from the compiled program and from data sheets.

    python -m benchmarks.scaling --plot=docs/scaling.png

prints the tables of docs/scaling.md. For each number of devices a separate process compiles the step of the published
network for that many virtual CPU devices, from shapes alone, and counts the bytes that each device sends in collective
operations. `avmsnet_jax.models.flops` counts the floating-point operations. Nothing is measured on a GPU or a TPU.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from absl import flags

from avmsnet_jax import command_line
from avmsnet_jax.errors import UserError
from avmsnet_jax.training.peak import DATA_SHEETS
from benchmarks.collectives import Collective, collectives

_DEVICES = flags.DEFINE_list("devices", ["1", "8", "32", "64", "128", "256"], "numbers of devices; the first is 1")
_FSDP = flags.DEFINE_integer("fsdp", 1, "devices that share a copy of the first linear layer, see mesh.fsdp")
_PLOT = flags.DEFINE_string("plot", "", "PNG file for the predicted clips per second")
_ONE = flags.DEFINE_string("one", "", "compile this one case, a JSON object, and print its counts")

DTYPE: Literal["bfloat16"] = "bfloat16"
BATCHES = (32, 128)  # clips per device
NORM_CLIPS = 32  # see train.norm_clips: as in the Movie50 configurations
UTILIZATION = (0.15, 0.40)  # assumed range of MFU
SMALL = 128 * 1024  # bytes; for smaller collectives a later computation is assumed to wait


@dataclasses.dataclass(frozen=True)
class Machine:
    """Data sheet of a device and its links. Rates are bytes or operations per second; times are seconds.

    Attributes:
      name: of the device.
      peak: dense operations.
      memory: of the device's own memory.
      node: devices that `near` connects; 0 = all, in a torus.
      near: bytes that a device can send within its node while it receives as many.
      far: the same, to other nodes.
      near_latency: assumed, of a small collective within a node or, in a torus, of one hop.
      far_latency: assumed, added by each doubling of nodes.
    """

    name: str
    peak: float
    memory: float
    node: int
    near: float
    far: float
    near_latency: float
    far_latency: float


MACHINES = (
    # NVIDIA's H200 data sheet (SXM): 4.8 TB/s; NVLink 900 GB/s in both directions together. One 400 Gb/s InfiniBand
    # adapter per GPU (DGX H200 data sheet).
    Machine("H200", DATA_SHEETS["NVIDIA H200"][DTYPE], 4.8e12, 8, 450e9, 50e9, 12e-6, 8e-6),
    # Google's page on TPU v5e: 819 GB/s; 1,600 Gb/s to four neighbors in a 2-D torus of up to 16 x 16: 50 GB/s each.
    Machine("v5e", DATA_SHEETS["TPU v5e"][DTYPE], 819e9, 0, 50e9, 50e9, 1e-6, 0.0),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A program to compile: `devices` in groups of `fsdp`, `batch` clips on each."""

    devices: int
    fsdp: int
    batch: int


def main(_: list[str]) -> None:
    """Compiles all cases, prints the tables and draws the plot."""
    if _ONE.value:
        print(json.dumps(compile_here(Case(**json.loads(_ONE.value)))))
        return
    tables: dict[int, list[dict[str, Any]]] = {}
    for batch in BATCHES:
        print(f"\n{batch} clips per device\n")
        print("| devices | collectives | sends, MB | H200, ms | of perfect | v5e, ms | of perfect |")
        print("|---|---|---|---|---|---|---|")
        for devices in map(int, _DEVICES.value):
            case = Case(devices, _FSDP.value if devices % _FSDP.value == 0 else 1, batch)
            counted = compile_apart(case)
            row: dict[str, Any] = {"case": case}
            row |= {machine.name: predict(machine, case, counted) for machine in MACHINES}
            tables.setdefault(batch, []).append(row)
            cells = []
            for machine in MACHINES:
                (alone, _), now = tables[batch][0][machine.name][-1], row[machine.name][-1]
                cells.append("-".join(f"{time:.1f}" for time in now))
                cells.append("-".join(f"{alone / time:.2f}" for time in reversed(now)))
            found = operations(counted)
            sent = sum(operation.sent for operation in found) / 1e6
            print(f"| {devices} | {len(found)} | {sent:.0f} | {' | '.join(cells)} |", flush=True)
    if _PLOT.value:
        plot(tables, Path(_PLOT.value))


def compile_apart(case: Case) -> dict[str, Any]:
    """`compile_here` in a process with as many virtual devices as the case has."""
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
    """Per device: `flops` of the step, collective `operations`, and `state_bytes`."""
    import jax

    from avmsnet_jax import mesh as mesh_lib
    from avmsnet_jax.config import Config, MeshConfig, ModelConfig, TrainConfig
    from avmsnet_jax.models.flops import training_flops
    from avmsnet_jax.training.optimizer import make_optimizer
    from avmsnet_jax.training.step import batch_shapes, describe, make_step

    model = ModelConfig(depth=50, dtype=DTYPE)
    train = TrainConfig(batch_size=case.batch * case.devices, norm_clips=NORM_CLIPS)
    config = Config(model=model, mesh=MeshConfig(fsdp=case.fsdp), train=train)
    mesh = mesh_lib.make_mesh(config.mesh)
    optimizer = make_optimizer(config, steps_per_epoch=100)
    # The forms of convolution and normalization for accelerators, not those for a CPU.
    graphdef, described, _ = describe(config, optimizer, mesh, "gpu")
    step: Any = make_step(graphdef, optimizer, config, described, "gpu")
    lowered = step.lower(described, batch_shapes(config, mesh))
    compiled = lowered.compile({"xla_backend_optimization_level": 0})  # it never runs: skip LLVM's optimizations
    state = sum(
        leaf.sharding.shard_shape(leaf.shape)[0] * (leaf.size // leaf.shape[0]) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(described)
        if leaf.shape
    )
    return {
        "flops": training_flops(model) * case.batch,
        "state_bytes": state,
        "operations": [dataclasses.asdict(each) for each in collectives(compiled.as_text())],
    }


def operations(counted: dict[str, Any]) -> list[Collective]:
    """The collectives of a compiled case."""
    return [
        Collective(each["kind"], each["dtype"], each["size"], tuple(map(tuple, each["groups"])))
        for each in counted["operations"]
    ]


def seconds(machine: Machine, operation: Collective, devices: int) -> float:
    """Time of a collective by itself: latency, plus its bytes over the links of its devices.

    A group that spans nodes reduces within each node, then between nodes over one adapter per device, then gathers
    within the node. In a torus a device has one or two neighbors along each side of 2 or more.
    """
    share = operation.sent / operation.size if operation.size else 0.0
    passes = share * operation.devices / (operation.devices - 1)  # 2 for an all-reduce, 1 for others
    if machine.node:
        nodes = len({device // machine.node for device in operation.groups[0]})
        near = operation.devices // nodes
        doublings = max(nodes - 1, 0).bit_length()
        time = machine.near_latency * (near > 1) + machine.far_latency * doublings
        time += passes * operation.size * (near - 1) / near / machine.near
        return time + passes * operation.size / near * (nodes - 1) / nodes / machine.far
    sides = torus(devices) if operation.devices == devices else (operation.devices, 1)
    # A side of 16 closes to a ring, which has two ways to a device; a shorter side has open ends.
    links = sum(2 if side == 16 else 1 for side in sides if side > 1)
    hops = sum(side // 2 if side == 16 else side - 1 for side in sides)
    return machine.near_latency * passes * hops + operation.sent / (links * machine.near)


def torus(devices: int) -> tuple[int, int]:
    """The sides of a slice of TPU v5e: 8 devices are 2 x 4."""
    short = 2 ** ((devices.bit_length() - 1) // 2)
    return short, devices // short


def predict(machine: Machine, case: Case, counted: dict[str, Any]) -> list[tuple[float, float]]:
    """Milliseconds of a step, (large collectives overlapped, not overlapped), at each end of `UTILIZATION`.

    Small collectives are always waited for. The others overlap with the backward pass, two thirds of the computation,
    or are waited for as well.
    """
    times = [(each.size, seconds(machine, each, case.devices)) for each in operations(counted)]
    waited = sum(time for size, time in times if size < SMALL)
    large = sum(time for size, time in times if size >= SMALL)
    # Reads parameters, momentum and gradients; writes the first two.
    update = 2.5 * counted["state_bytes"] / machine.memory
    found = []
    for utilization in UTILIZATION:
        compute = counted["flops"] / (machine.peak * utilization)
        overlapped = compute + update + waited + max(large - compute * 2 / 3, 0.0)
        found.append((1e3 * overlapped, 1e3 * (compute + update + waited + large)))
    return found


def plot(tables: dict[int, list[dict[str, Any]]], path: Path) -> None:
    """Draws the share of perfect scaling by devices, a panel for each batch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    panels = figure.subplots(1, len(tables), sharey=True)
    for panel, (batch, rows) in zip(panels, tables.items(), strict=True):
        devices = [row["case"].devices for row in rows]
        for machine, color in zip(MACHINES, ("tab:blue", "tab:red"), strict=True):
            times = [row[machine.name][-1] for row in rows]
            overlapped, serial = ([times[0][0] / time[way] for time in times] for way in range(2))
            panel.fill_between(devices, serial, overlapped, color=color, alpha=0.2)
            panel.plot(devices, overlapped, "o-", markersize=3, color=color, label=machine.name)
        panel.set(xlabel="devices", title=f"{batch} clips per device", ylim=(0, 1.05))
        panel.set_xscale("log", base=2)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("share of perfect scaling, predicted")
    panels[0].legend(loc="lower left")
    figure.suptitle(
        "bf16, 40% of peak. Lines: communication overlapped with two thirds of the step; bands: down to none"
    )
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    command_line.run(main)
