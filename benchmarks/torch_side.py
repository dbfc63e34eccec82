"""PyTorch's side of `benchmarks.network`: the tests' reference network, run as a user would.

`python -m benchmarks.torch_side CASE` prepares a case and then serves it, a JSON line in and a JSON line out: for a
number of steps it answers the seconds they took; for "settle" it lets cuDNN try its kernels and answers the peak bytes
of a step. Several processes may prepare at the same time, but only one may settle.
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
    """How PyTorch runs a case: memory layout of video and kernels, and the mode of `torch.compile` ("" = eager)."""

    layout: str
    compiled: str = ""

    def __str__(self) -> str:
        mode = "" if self.compiled == "default" else f" {self.compiled}"
        return (f"torch.compile{mode}, " if self.compiled else "torch, ") + self.layout


def clips(config: ModelConfig, batch: int) -> dict[str, np.ndarray]:
    """Random frames, sound and labels of a batch, named as a training step takes them."""
    rng, size = np.random.default_rng(0), config.frame_size
    return {
        "clip": rng.integers(0, 256, (batch, config.frames, size, size, 3), dtype=np.uint8),
        "sound": rng.standard_normal((batch, config.audio_samples), dtype=np.float32) * 20,
        "label": (np.arange(batch) % 2).astype(np.float32),
    }


def make(case: Case, way: Way) -> Callable[[int], float]:
    """A side: a function that runs so many steps and returns the seconds until the last is done."""
    import torch

    from tests.reference.torch_network import TorchAVMSNet

    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = getattr(torch, way.layout)
    torch.set_float32_matmul_precision("high")  # TF32, XLA's default; no effect on a CPU
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    network = TorchAVMSNet(case.config).to(device)
    for parameter in network.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.to(memory_format=layout)
    film, sound, labels = (torch.from_numpy(part).to(device) for part in clips(case.config, case.batch).values())
    # The network takes (B, T, H, W, C) and permutes to (B, C, T, H, W), which then has the layout.
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
    """A side in a process of its own. Every call raises RuntimeError if the process failed or ended."""

    def __init__(self, case: Case, way: Way, environment: dict[str, str]):
        named = json.dumps([dataclasses.asdict(case), dataclasses.asdict(way)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.torch_side", named],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait(self) -> None:
        """Waits until the process is prepared."""
        self._answer()

    def settle(self) -> int:
        """Lets cuDNN choose its kernels by trying them; returns the peak bytes of a step."""
        return int(self._ask("settle"))

    def __call__(self, steps: int) -> float:
        """Runs so many steps and returns the seconds they took."""
        return self._ask(steps)

    def end(self) -> None:
        """Ends the process."""
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
    """Serves the case of the command line."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not mix with the answers

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
        torch.backends.cudnn.benchmark = False  # timings mean nothing while other processes prepare
        taken = side(2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # other processes need the memory
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
