"""PyTorch's side of `benchmarks.network`: the tests' statement of the network, as a user would run it.

As a program, `python -m benchmarks.torch_side CASE` prepares one side in a process of its own and then serves it. Of
each line that it reads it answers one, in JSON: of a number of steps the seconds they took, of "settle" the most memory
that a step takes, once cuDNN has tried its kernels. Others may prepare theirs at the same time, but not settle.
"""

import dataclasses
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from avmsnet_jax.config import Dtype, ModelConfig

LAYOUTS = ("contiguous_format", "channels_last_3d")


@dataclasses.dataclass(frozen=True)
class Case:
    """A network to run: `mode` is inference or training."""

    mode: str
    depth: int
    dtype: Dtype
    batch: int

    @property
    def config(self) -> ModelConfig:
        """The published network of that depth."""
        return ModelConfig(depth=self.depth, dtype=self.dtype)


@dataclasses.dataclass(frozen=True)
class Way:
    """How PyTorch runs it: memory layout of film and kernels, and the mode of `torch.compile`, if it is compiled."""

    layout: str
    compiled: str = ""

    def __str__(self) -> str:
        mode = "" if self.compiled == "default" else f" {self.compiled}"
        return (f"torch.compile{mode}, " if self.compiled else "torch, ") + self.layout


def clips(config: ModelConfig, batch: int) -> dict[str, np.ndarray]:
    """Noise to look at and to listen to, and labels, by the names that a step takes them by."""
    rng, size = np.random.default_rng(0), config.frame_size
    return {
        "clip": rng.integers(0, 256, (batch, config.frames, size, size, 3), dtype=np.uint8),
        "sound": rng.standard_normal((batch, config.audio_samples), dtype=np.float32) * 20,
        "label": (np.arange(batch) % 2).astype(np.float32),
    }


def make(case: Case, way: Way) -> Callable[[int], float]:
    """A side: takes a number of steps, gives the seconds until the last is done."""
    import torch

    from tests.reference.torch_network import TorchAVMSNet

    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = getattr(torch, way.layout)
    torch.set_float32_matmul_precision("high")  # TF32, as XLA takes it by default; without effect on a CPU
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    network = TorchAVMSNet(case.config).to(device)
    for parameter in network.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.to(memory_format=layout)
    film, sound, labels = (torch.from_numpy(part).to(device) for part in clips(case.config, case.batch).values())
    # (B, T, H, W, C) by name; what the first convolution then finds has the layout.
    film = film.float().permute(0, 4, 1, 2, 3).contiguous(memory_format=layout).permute(0, 2, 3, 4, 1)
    autocast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=case.dtype == "bfloat16")
    forward = torch.compile(network, mode=way.compiled) if way.compiled else network

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
    """A side in a process of its own.

    Raises, at any call:
      RuntimeError: it could not be prepared, or ended.
    """

    def __init__(self, case: Case, way: Way, environment: dict[str, str]):
        named = json.dumps([dataclasses.asdict(case), dataclasses.asdict(way)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.torch_side", named],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait(self) -> None:
        """Until it is prepared."""
        self._answer()

    def settle(self) -> int:
        """Lets cuDNN choose its kernels by trying them; returns the bytes that a step takes at most."""
        return int(self._ask("settle"))

    def __call__(self, steps: int) -> float:
        """Seconds of so many steps."""
        return self._ask(steps)

    def end(self) -> None:
        """Gives its memory back."""
        self._process.kill()
        self._process.wait()

    def _ask(self, what: int | str) -> float:
        assert self._process.stdin is not None
        try:
            print(json.dumps(what), file=self._process.stdin, flush=True)
        except OSError:
            raise RuntimeError("it ended") from None
        return self._answer()

    def _answer(self) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("it ended")
        answer = json.loads(line)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer


def main() -> None:
    """Serves the side that is named."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library may have to say

    def answer(work: Callable[[], float]) -> bool:
        try:
            print(json.dumps(work()), file=answers, flush=True)
        except Exception as error:
            print(json.dumps(f"{type(error).__name__}: {error}".splitlines()[0][:200]), file=answers, flush=True)
            return False
        return True

    import torch

    case, way = json.loads(sys.argv[1])
    side = make(Case(**case), Way(**way))

    def prepare() -> float:
        torch.backends.cudnn.benchmark = False  # which one is fastest cannot be told while others prepare theirs
        taken = side(2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # they may need it
        return taken

    def settle() -> float:
        torch.backends.cudnn.benchmark = True
        side(2)
        if not torch.cuda.is_available():
            return 0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        side(2)
        return torch.cuda.max_memory_allocated()

    if answer(prepare):
        for line in sys.stdin:
            asked = json.loads(line)
            answer(settle if asked == "settle" else functools.partial(side, asked))


if __name__ == "__main__":
    main()
