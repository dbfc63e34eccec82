"""The whole network against PyTorch's: inference and the training step, interleaved in one process.

    python -m benchmarks.network --depths=50 --batches=4,16 --output=network.json

PyTorch runs the tests' statement of the network (tests/reference) as a user would: in the memory layouts there are,
on a GPU also compiled, under autocast where the compute type is bfloat16; every step of either side starts with the
batch on the device. A training step is forward, loss, backward and SGD with momentum and decay; ours is the step that
train.py takes. In each round each side runs once off the clock, as what is idle may have lost its memory to the system
(here that costs two seconds), and then as often as fills a second, twice at least.

The ratio is the fastest PyTorch's time over ours in the same round, more is better: median, and the quantiles 0.1 and
0.9. On a GPU the rates of both are printed too. Needs torch.
"""

import functools
import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU's memory has to do for both sides

import jax
import numpy as np
from absl import flags
from flax import nnx

from avmsnet_jax import AVMSNet, ModelConfig, command
from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config, MeshConfig
from avmsnet_jax.training import step as step_lib
from avmsnet_jax.training.optimizer import make_optimizer

_MODES = flags.DEFINE_list("modes", ["inference", "training"], "inference, training or both")
_DEPTHS = flags.DEFINE_list("depths", ["18", "50"], "3D-ResNet depths")
_BATCHES = flags.DEFINE_list("batches", ["1", "4", "16"], "clips in a batch")
_DTYPES = flags.DEFINE_list("dtypes", ["float32"], "compute types: float32, bfloat16")
_COMPILE = flags.DEFINE_bool("compile", False, "also PyTorch's torch.compile, which always runs on a GPU")
_ROUNDS = flags.DEFINE_integer("rounds", 11, "rounds; each runs every side")
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the figures")

_FILL_S = 1.0

# Asks for so many steps, and returns when the last is done.
Side = Callable[[int], None]
Clips = tuple[np.ndarray, np.ndarray, np.ndarray]


def main(_: list[str]) -> None:
    """Measures and prints."""
    rows = []
    kind = jax.devices()[0].device_kind
    print(f"{kind}: PyTorch's time over ours, median (10% to 90%) of {_ROUNDS.value} rounds")
    for mode, depth, dtype, batch in _cases():
        config = ModelConfig(depth=depth, dtype=dtype)
        found = compare(mode, config, batch)
        rows.append({"mode": mode, "depth": depth, "dtype": dtype, "batch": batch, **found})
        print(line(rows[-1]), flush=True)
        gc.collect()
        if _OUTPUT.value:
            settings = {"device": kind, "rounds": _ROUNDS.value, "jax": jax.__version__}
            Path(_OUTPUT.value).write_text(json.dumps({**settings, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def _cases() -> Iterator[tuple[str, int, str, int]]:
    for mode in _MODES.value:
        for depth in map(int, _DEPTHS.value):
            for dtype in _DTYPES.value:
                for batch in map(int, _BATCHES.value):
                    yield mode, depth, dtype, batch


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    text = f"{row['mode']:9} depth {row['depth']:<3} {row['dtype']:8} batch {row['batch']:<3} "
    if "ratio" not in row:
        return text + "; ".join(f"{name} failed: {error}" for name, error in row["failed"].items())
    low, high = row["spread"]
    text += f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})  against {row['fastest']}"
    if jax.default_backend() != "cpu":  # an absolute time of a shared CPU says nothing
        text += f"; {row['clips a second']['ours']:.0f} against {row['clips a second'][row['fastest']]:.0f} clips/s"
    return text


def compare(mode: str, config: ModelConfig, batch: int) -> dict[str, Any]:
    """Ratios of one case; a side that cannot run it (memory) is told by its error."""
    clips = make_clips(config, batch)
    makers: dict[str, Callable[[], Side]] = {
        "ours": functools.partial(_ours, mode, config, clips),
        **_torch_sides(mode, config, clips),
    }
    sides: dict[str, Side] = {}
    failed: dict[str, str] = {}
    for name, make in makers.items():
        try:
            side = make()
            side(1)  # compiles
            side(2)
            sides[name] = side
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    if "ours" not in sides or len(sides) == 1:
        return {"failed": failed}
    repeats = {name: max(2, round(_FILL_S / _seconds(side, 3))) for name, side in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(_ROUNDS.value):
        for name, side in sides.items():
            side(1)
            seconds[name].append(_seconds(side, repeats[name]))
    medians = {name: float(np.median(taken)) for name, taken in seconds.items()}
    fastest = min((name for name in medians if name != "ours"), key=medians.__getitem__)
    ratios = {name: np.array(seconds[name]) / np.array(seconds["ours"]) for name in sides if name != "ours"}
    return {
        "fastest": fastest,
        "ratio": float(np.median(ratios[fastest])),
        "spread": np.quantile(ratios[fastest], [0.1, 0.9]).tolist(),
        "ratios": {name: float(np.median(ratio)) for name, ratio in ratios.items()},
        "clips a second": {name: batch / median for name, median in medians.items()},
        "failed": failed,
    }


def _seconds(side: Side, repeats: int) -> float:
    start = time.perf_counter()
    side(repeats)
    return (time.perf_counter() - start) / repeats


def make_clips(config: ModelConfig, batch: int) -> Clips:
    """Noise to look at and to listen to, and labels."""
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (batch, config.frames, config.frame_size, config.frame_size, 3), dtype=np.uint8)
    audio = (rng.standard_normal((batch, config.audio_samples)) * 20).astype(np.float32)
    return video, audio, (np.arange(batch) % 2).astype(np.float32)


def _ours(mode: str, config: ModelConfig, clips: Clips) -> Side:
    return _our_inference(config, clips) if mode == "inference" else _our_training(config, clips)


def _our_inference(config: ModelConfig, clips: Clips) -> Side:
    model = AVMSNet(config, rngs=nnx.Rngs(0))
    model.eval()
    graphdef, state = nnx.split(model)
    forward = jax.jit(lambda state, video, audio: nnx.merge(graphdef, state)(video, audio).logits)
    placed = jax.device_put(clips[:2])

    def run(steps: int) -> None:
        jax.block_until_ready([forward(state, *placed) for _ in range(steps)])

    return run


def _our_training(config: ModelConfig, clips: Clips) -> Side:
    settings = Config(model=config)
    settings.train.batch_size = len(clips[0])
    mesh = mesh_lib.make_mesh(MeshConfig(data=1))
    optimizer = make_optimizer(settings, steps_per_epoch=1000)
    graphdef, described = step_lib.describe(settings, optimizer, mesh)
    state = [step_lib.create(settings, optimizer, described)]
    step = step_lib.make_step(graphdef, optimizer, settings, described)
    batch = mesh_lib.place_batch(mesh, dict(zip(("clip", "sound", "label"), clips, strict=True)))

    def run(steps: int) -> None:
        for _ in range(steps):
            state[0], _measured = step(state[0], batch)
        jax.block_until_ready(state[0])

    return run


def _torch_sides(mode: str, config: ModelConfig, clips: Clips) -> dict[str, Callable[[], Side]]:
    """The ways to run it, by name."""
    import torch

    ways = {
        "torch": (torch.contiguous_format, False),
        "torch, channels_last_3d": (torch.channels_last_3d, False),
        "torch.compile, channels_last_3d": (torch.channels_last_3d, True),
    }
    compiling = _COMPILE.value or torch.cuda.is_available()
    return {
        name: functools.partial(_torch_side, mode, config, clips, layout, compiled)
        for name, (layout, compiled) in ways.items()
        if compiling or not compiled
    }


def _torch_side(mode: str, config: ModelConfig, clips: Clips, layout: Any, compiled: bool) -> Side:
    import torch

    from tests.reference.torch_network import TorchAVMSNet

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")  # TF32, as XLA takes it by default; without effect on a CPU
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    network = TorchAVMSNet(config).to(device)
    for parameter in network.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.to(memory_format=layout)
    video, audio, labels = (torch.from_numpy(part).to(device) for part in clips)
    # (B, T, H, W, C) by name; what the first convolution then finds has the layout.
    video = video.float().permute(0, 4, 1, 2, 3).contiguous(memory_format=layout).permute(0, 2, 3, 4, 1)
    autocast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=config.dtype == "bfloat16")
    forward = torch.compile(network) if compiled else network

    def infer() -> None:
        with torch.inference_mode(), autocast():
            forward(video, audio)

    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, dampening=0.9, weight_decay=1e-5)

    def learn() -> None:
        optimizer.zero_grad()
        with autocast():
            logits = forward(video, audio).logits
        torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), labels).backward()
        optimizer.step()

    network.train(mode == "training")
    once = learn if mode == "training" else infer

    def run(steps: int) -> None:
        for _ in range(steps):
            once()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


if __name__ == "__main__":
    command.run(main)
