"""PyTorch's side of `benchmarks.network`: the tests' statement of the network, as a user would run it.

As a program, `python -m benchmarks.torch_side CASE` prepares one side in a process of its own and then serves it: it
answers "ready" or what went wrong as one line of JSON, and each number of steps that it reads with the seconds they
took.
"""

import dataclasses
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from avmsnet_jax.config import ModelConfig

LAYOUTS = ("contiguous_format", "channels_last_3d")


@dataclasses.dataclass(frozen=True)
class Case:
    """A network to run: `mode` is inference or training."""

    mode: str
    depth: int
    dtype: str
    batch: int

    @property
    def config(self) -> ModelConfig:
        """The published network of that depth."""
        return ModelConfig(depth=self.depth, dtype=self.dtype)


@dataclasses.dataclass(frozen=True)
class Way:
    """How PyTorch runs it: memory layout of film and kernels, and whether through `torch.compile`."""

    layout: str
    compiled: bool

    def __str__(self) -> str:
        return ("torch.compile, " if self.compiled else "torch, ") + self.layout


def clips(config: ModelConfig, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise to look at and to listen to, and labels."""
    rng = np.random.default_rng(0)
    film = rng.integers(0, 256, (batch, config.frames, config.frame_size, config.frame_size, 3), dtype=np.uint8)
    sound = (rng.standard_normal((batch, config.audio_samples)) * 20).astype(np.float32)
    return film, sound, (np.arange(batch) % 2).astype(np.float32)


def make(case: Case, way: Way) -> Callable[[int], float]:
    """A side: takes a number of steps, gives the seconds until the last is done."""
    import torch

    from tests.reference.torch_network import TorchAVMSNet

    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = getattr(torch, way.layout)
    torch.set_float32_matmul_precision("high")  # TF32, as XLA takes it by default; without effect on a CPU
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    network = TorchAVMSNet(case.config).to(device)
    for parameter in network.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.to(memory_format=layout)
    film, sound, labels = (torch.from_numpy(part).to(device) for part in clips(case.config, case.batch))
    # (B, T, H, W, C) by name; what the first convolution then finds has the layout.
    film = film.float().permute(0, 4, 1, 2, 3).contiguous(memory_format=layout).permute(0, 2, 3, 4, 1)
    autocast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=case.dtype == "bfloat16")
    forward = torch.compile(network) if way.compiled else network

    def infer() -> None:
        with torch.inference_mode(), autocast():
            forward(film, sound)

    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, dampening=0.9, weight_decay=1e-5)

    def learn() -> None:
        optimizer.zero_grad()
        with autocast():
            logits = forward(film, sound).logits
        torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), labels).backward()
        optimizer.step()

    network.train(case.mode == "training")
    once = learn if case.mode == "training" else infer

    def run(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            once()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return run


class Served:
    """A side in a process of its own, which prepares it while others prepare theirs."""

    def __init__(self, case: Case, way: Way, environment: dict[str, str]):
        named = json.dumps([dataclasses.asdict(case), dataclasses.asdict(way)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.torch_side", named],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.peak_bytes = 0

    def wait(self) -> None:
        """Until it is ready.

        Raises:
          RuntimeError: it could not be prepared.
        """
        assert self._process.stdout is not None
        said = json.loads(next((line for line in self._process.stdout if line.startswith("{")), '{"error": "it died"}'))
        if "error" in said:
            raise RuntimeError(said["error"])
        self.peak_bytes = said["peak_bytes"]

    def __call__(self, steps: int) -> float:
        """Seconds of so many steps."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(steps, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def end(self) -> None:
        """Gives its memory back."""
        self._process.kill()
        self._process.wait()


def main() -> None:
    """Serves the side that is named."""
    import torch

    case, way = json.loads(sys.argv[1])
    try:
        side = make(Case(**case), Way(**way))
        side(2)
        if torch.cuda.is_available():  # of a step as it will be, without what choosing the fastest kernels took
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        side(2)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}), flush=True)
        return
    peak = 0
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.empty_cache()  # the others may need it to prepare theirs
    print(json.dumps({"peak_bytes": peak}), flush=True)
    for line in sys.stdin:
        print(side(int(line)), flush=True)


if __name__ == "__main__":
    main()
