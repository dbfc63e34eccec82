"""How long a forward pass takes against PyTorch's of the same network, interleaved in one process.

    python -m benchmarks.forward --depth=50 --batch=4

PyTorch runs the tests' statement of the network (tests/reference) in each memory layout a user might choose; every
ratio is our time over PyTorch's in the same round, and the last line is against the fastest layout. Needs torch.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import flags
from flax import nnx

from avmsnet_jax import AVMSNet, ModelConfig, command

_DEPTH = flags.DEFINE_integer("depth", 50, "3D-ResNet depth")
_BATCH = flags.DEFINE_integer("batch", 4, "clips in a forward pass")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "rounds; each runs every side once")
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the figures")


def main(_: list[str]) -> None:
    """Measures and prints."""
    config = ModelConfig(depth=_DEPTH.value)
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (_BATCH.value, config.frames, config.frame_size, config.frame_size, 3), dtype=np.uint8)
    audio = (rng.standard_normal((_BATCH.value, config.audio_samples)) * 20).astype(np.float32)
    sides = {"ours": _ours(config, video, audio), **_torch_sides(config, video, audio)}
    for run in sides.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _round in range(_ROUNDS.value):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)

    medians = {name: float(np.median(taken)) for name, taken in seconds.items()}
    fastest = min((name for name in medians if name != "ours"), key=medians.__getitem__)
    measured: dict[str, dict[str, float]] = {}
    print(f"depth {_DEPTH.value}, batch {_BATCH.value}, {_ROUNDS.value} rounds; our time over PyTorch's")
    for name in sorted(set(sides) - {"ours"}, key=lambda name: -medians[name]):
        ratios = np.array(seconds["ours"]) / np.array(seconds[name])
        low, median, high = np.quantile(ratios, [0.1, 0.5, 0.9])
        measured[name] = {"median": median, "p10": low, "p90": high}
        print(f"  {name:34} median {median:.2f}  (10% {low:.2f}, 90% {high:.2f})")
    if _OUTPUT.value:
        settings: dict[str, object] = {
            "depth": _DEPTH.value,
            "batch": _BATCH.value,
            "rounds": _ROUNDS.value,
            "fastest": fastest,
        }
        text = json.dumps({**settings, "fastest": fastest, "ratio": measured}, indent=2) + "\n"
        Path(_OUTPUT.value).write_text(text, encoding="utf-8")


def _ours(config: ModelConfig, video: np.ndarray, audio: np.ndarray) -> Callable[[], object]:
    model = AVMSNet(config, rngs=nnx.Rngs(0))
    model.eval()
    graphdef, state = nnx.split(model)
    forward = jax.jit(lambda state, video, audio: nnx.merge(graphdef, state)(video, audio).logits)
    placed = jax.device_put((video, audio))
    return lambda: jax.block_until_ready(forward(state, *placed))


def _torch_sides(config: ModelConfig, video: np.ndarray, audio: np.ndarray) -> dict[str, Callable[[], object]]:
    import torch

    from tests.reference.torch_network import TorchAVMSNet

    clips, sound = torch.from_numpy(video).float(), torch.from_numpy(audio)
    # (B, T, H, W, C) in name, (B, C, T, H, W) in memory: what the first convolution then finds is contiguous.
    channels_first = clips.permute(0, 4, 1, 2, 3).contiguous().permute(0, 2, 3, 4, 1)
    plain = TorchAVMSNet(config).eval()
    channels_last = TorchAVMSNet(config).eval()
    for parameter in channels_last.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.to(memory_format=torch.channels_last_3d)

    def side(network: torch.nn.Module, clips: torch.Tensor) -> Callable[[], object]:
        def run() -> object:
            with torch.inference_mode():
                return network(clips, sound).logits

        return run

    return {
        "torch": side(plain, clips),
        "torch, contiguous clips": side(plain, channels_first),
        "torch, channels_last_3d weights": side(channels_last, clips),
    }


if __name__ == "__main__":
    command.run(main)
