"""How much memory a training step takes, with and without `train.remat`, and PyTorch's on the same device.

    python -m benchmarks.memory --depths=18 --batches=8,16,32 --memory_gib=16 --output=memory.json
    python -m benchmarks.memory --mode=compiled --batches=8,32      # from shapes: nothing is run, and no PyTorch

Each case runs in a process of its own: two steps of the published network on random clips, with SGD and momentum. On a
CPU the figure is the peak of resident memory during the steps, less what the process held before the network was made
(the libraries). On a GPU it is the peak that the allocator of JAX or PyTorch reports. The line through the peaks of the
two largest batches gives bytes a clip and fixed bytes, and so the largest batch in `--memory_gib`. Choose batches that
take much more than the state; in small batches the update of the parameters takes the most. Needs torch, which trains
on 2 clips or more.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from absl import flags

from avmsnet_jax import command_line
from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config, Dtype, MeshConfig, ModelConfig, TrainConfig
from avmsnet_jax.errors import UserError
from avmsnet_jax.training.optimizer import make_optimizer
from avmsnet_jax.training.step import batch_shapes, describe, make_step
from benchmarks import torch_side

SIDES = ("ours", "remat", "torch")
_DEPTHS = flags.DEFINE_list("depths", ["18", "50"], "3D-ResNet depths")
_DTYPES = flags.DEFINE_list(
    "dtypes", ["float32"], "compute types; bfloat16 is autocast in PyTorch, and on a CPU means little in JAX"
)
_SIDES = flags.DEFINE_list("sides", list(SIDES), "of ours, remat (ours with train.remat) and torch")
_BATCHES = flags.DEFINE_list("batches", ["8", "16", "32"], "clips in a step; the largest two make a line")
_MODE = flags.DEFINE_enum(
    "mode", "measured", ["measured", "compiled"], "measured = run the steps; compiled = ask XLA, of ours only"
)
_MEMORY_GIB = flags.DEFINE_float("memory_gib", 16.0, "memory for the largest batch, GiB")
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the figures")
_ONE = flags.DEFINE_string("one", "", "measure this one case, as a JSON object, and print its bytes")

# What the libraries, XLA and CUDA say when memory runs out, and the exit status if the kernel killed the process.
_EXHAUSTED = ("RESOURCE_EXHAUSTED", "out of memory", "can't allocate memory", "bad_alloc", "MemoryError")
_KILLED = (-9, 137)

# Options for a program that is only compiled: no optimization by LLVM, no trying out of kernels.
_QUICKLY: dict[str, dict[str, Any]] = {
    "cpu": {"xla_backend_optimization_level": 0},
    "gpu": {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False},
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A step to take: `side` is one of `SIDES`."""

    side: str
    depth: int
    dtype: Dtype
    batch: int


def main(_: list[str]) -> None:
    """Measures all cases, prints the table, and writes the file asked for."""
    if _ONE.value:
        case = Case(**json.loads(_ONE.value))
        measure = {"compiled": compiled}.get(_MODE.value, torch_peak if case.side == "torch" else our_peak)
        print(json.dumps(measure(case)))
        return
    sides = [side for side in _SIDES.value if not (_MODE.value == "compiled" and side == "torch")]
    if strange := set(sides) - set(SIDES):
        raise UserError(f"--sides has {strange.pop()!r}; choose of {', '.join(SIDES)}")
    rows = []
    for depth in map(int, _DEPTHS.value):
        for dtype in _DTYPES.value:
            those = [measured(side, depth, cast(Dtype, dtype)) for side in sides]
            theirs = next((row for row in those if row["side"] == "torch"), None)
            for row in those:
                row["of_torch"] = row["largest"] / theirs["largest"] if theirs and theirs["largest"] else None
                print(line(row), flush=True)
            rows += those
    if _OUTPUT.value:
        text = json.dumps({"mode": _MODE.value, "memory_gib": _MEMORY_GIB.value, "rows": rows}, indent=1) + "\n"
        Path(_OUTPUT.value).write_text(text, encoding="utf-8")


def measured(side: str, depth: int, dtype: Dtype) -> dict[str, Any]:
    """A row: the bytes by batch, the line through them, and the largest batch by that line."""
    found = {}
    for batch in map(int, _BATCHES.value):
        counted = apart(Case(side, depth, dtype, batch))
        if counted is None:
            print(f"{side}, depth {depth}, {dtype}: {batch} clips do not fit", flush=True)
            break
        found[batch] = counted
    sizes = {batch: counted["bytes"] for batch, counted in found.items()}
    row = {"side": side, "depth": depth, "dtype": dtype, "cases": found, "largest": 0}
    if len(sizes) > 1:
        low, high = sorted(sizes)[-2:]
        clip = (sizes[high] - sizes[low]) / (high - low)
        fixed = sizes[high] - clip * high
        row |= {"bytes_a_clip": clip, "bytes_fixed": fixed}
        row["largest"] = max(int((_MEMORY_GIB.value * 2**30 - fixed) / clip), 0) if clip > 0 else 0
    return row


def apart(case: Case) -> dict[str, Any] | None:
    """The figures of a case, measured in a process of its own; None if it runs out of memory."""
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks.memory",
            f"--one={json.dumps(dataclasses.asdict(case))}", f"--mode={_MODE.value}",
        ],
        env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if not done.returncode:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode in _KILLED or any(word in done.stderr for word in _EXHAUSTED):
        return None
    raise UserError(f"{case} failed: {''.join(done.stderr.strip().splitlines()[-1:])}")


def our_peak(case: Case) -> dict[str, Any]:
    """Peak bytes of two steps of ours."""
    config = configured(case)
    mesh, optimizer = mesh_lib.make_mesh(config.mesh), make_optimizer(config, steps_per_epoch=100)
    jax.block_until_ready(jnp.zeros(8) + 1)  # initializes the device, which does not count
    before = resident()
    graphdef, described, create = describe(config, optimizer, mesh)
    batch = mesh_lib.place_batch(mesh, torch_side.clips(config.model, case.batch))
    step: Any = make_step(graphdef, optimizer, config, described)
    program = step.lower(described, batch).compile()
    state = create()
    forget_peak()
    for _ in range(2):
        state, found = program(state, batch)
    jax.block_until_ready((state, found))
    statistics = jax.local_devices()[0].memory_stats() or {}
    return {
        "bytes": statistics.get("peak_bytes_in_use") or resident(most=True) - before,
        "device": jax.devices()[0].device_kind,
    }


def torch_peak(case: Case) -> dict[str, Any]:
    """Peak bytes of two steps of PyTorch's."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.nn.functional.conv3d(torch.ones(1, 1, 3, 3, 3, device=device), torch.ones(1, 1, 1, 1, 1, device=device))
    before = resident()
    named = torch_side.Case("training", case.depth, case.dtype, case.batch)
    run = torch_side.make(named, torch_side.Way("contiguous_format"))
    forget_peak()
    run(2)
    if device.type == "cuda":
        return {"bytes": torch.cuda.max_memory_allocated(), "device": torch.cuda.get_device_name()}
    return {"bytes": resident(most=True) - before, "device": "cpu"}


def compiled(case: Case) -> dict[str, Any]:
    """XLA's figures of the compiled step: bytes with state and batch, temporary bytes, and operations."""
    config = configured(case)
    mesh, optimizer = mesh_lib.make_mesh(config.mesh), make_optimizer(config, steps_per_epoch=100)
    graphdef, described, _ = describe(config, optimizer, mesh)
    step: Any = make_step(graphdef, optimizer, config, described)
    program = step.lower(described, batch_shapes(config, mesh)).compile(_QUICKLY.get(jax.default_backend(), {}))
    analysis = program.memory_analysis()
    beside = analysis.temp_size_in_bytes
    return {
        "bytes": analysis.argument_size_in_bytes + beside,
        "temporary_bytes": beside,
        "flops": program.cost_analysis()["flops"],
        "device": jax.devices()[0].device_kind,
    }


def configured(case: Case) -> Config:
    """The published network and recipe, on one device."""
    return Config(
        model=ModelConfig(depth=case.depth, dtype=case.dtype),
        train=TrainConfig(batch_size=case.batch, remat=case.side == "remat"),
        mesh=MeshConfig(data=1),
    )


def resident(most: bool = False) -> int:
    """Resident bytes of this process: now, or the peak since `forget_peak`."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (kilobytes,) = re.findall(rf"^{'VmHWM' if most else 'VmRSS'}:\s+(\d+) kB", status, re.MULTILINE)
    return int(kilobytes) * 1024


def forget_peak() -> None:
    """Starts the peak of `resident` anew, without that of compiling and initializing."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    sizes = ", ".join(f"{batch}: {counted['bytes'] / 2**30:.2f}" for batch, counted in row["cases"].items())
    text = f"depth {row['depth']:3} {row['dtype']:8} {row['side']:5}  GiB by clips {sizes}"
    if "bytes_a_clip" in row:
        text += f"; {row['bytes_a_clip'] / 1e6:.0f} MB a clip and {row['bytes_fixed'] / 1e9:.2f} GB"
        text += f"; {row['largest']} clips in {_MEMORY_GIB.value:g} GiB"
    if row["of_torch"]:
        text += f", {row['of_torch']:.2f} of PyTorch's"
    return text


if __name__ == "__main__":
    command_line.run(main)
