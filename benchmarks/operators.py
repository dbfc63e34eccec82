"""Every 3-D convolution of the network, forward and both gradients: each of our forms against PyTorch's convolution.

    python -m benchmarks.operators --depth=50 --batch=4 --output=operators.json --plot=docs/images/roofline.png

For each distinct convolution of the network, in one process and in turns: each form of `models/ops/conv3d.py` that can
run it, and PyTorch in the faster of its two memory layouts (contiguous, channels_last_3d). "input" and "kernel" are the
gradients with respect to these. Ratios are PyTorch's time divided by ours, so more is better, medians of the rounds.
Shares are of the highest rate in the run: of any convolution of either side, or of a large matrix product in JAX. The
plot is a roofline with that rate, the memory bandwidth (copying half a gigabyte), and both sides' convolutions by
operations per byte. Needs torch.
"""

import collections
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any, Literal, cast
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from avmsnet_jax import ModelConfig, command_line, xla
from avmsnet_jax.models.ops import conv3d
from avmsnet_jax.weights import names

_FORMS = {form.__name__: form for form in conv3d.FORMS}
_DEPTH = flags.DEFINE_integer("depth", 50, "3D-ResNet depth")
_BATCH = flags.DEFINE_integer("batch", 4, "clips in a batch")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "compute type, of both sides")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "rounds; each runs every side once")
_LEAVE_OUT = flags.DEFINE_list("leave_out", [], f"forms not to try, of {', '.join(_FORMS)}")
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the figures")
_PLOT = flags.DEFINE_string("plot", "", "PNG file for the roofline")

PASSES = ("forward", "input", "kernel")
_MATMUL = 1024  # rows and columns of the large product
_COPIED = 2**26  # float32 numbers, copied to measure memory bandwidth
_FILL_S = 0.01  # of repeating one operation on a GPU

# Runs an operation so many times, and returns when the last is done.
Run = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution of `x` (B, T, H, W, C) with a kernel (D, H, W, C, O)."""

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: conv3d.Triple
    padding: conv3d.Triple

    @property
    def output(self) -> tuple[int, ...]:
        """The shape of the result."""
        spans = zip(self.x[1:4], self.kernel, self.stride, self.padding, strict=False)
        return (self.x[0], *((n + 2 * p - k) // s + 1 for n, k, s, p in spans), self.kernel[-1])

    def bytes(self, dtype: str) -> int:
        """Input, kernel and result, each once: the least that any pass moves."""
        return sum(math.prod(shape) for shape in (self.x, self.kernel, self.output)) * jnp.dtype(dtype).itemsize

    @property
    def flops(self) -> int:
        """Of any pass: each multiplies every output with every tap once."""
        return 2 * int(np.prod(self.output)) * int(np.prod(self.kernel[:4]))

    def __str__(self) -> str:
        def times(sizes: tuple[int, ...]) -> str:
            return "x".join(map(str, sizes))

        stride = "" if self.stride == (1, 1, 1) else f" /{times(self.stride)}"
        return f"{times(self.x[1:4])}x{self.x[4]} -> {self.kernel[4]}, {times(self.kernel[:3])}{stride}"


def convolutions(config: ModelConfig, batch: int) -> dict[Convolution, int]:
    """The convolutions of the network in order, and how often each occurs."""
    seen: collections.Counter[Convolution] = collections.Counter()
    apply = conv3d.Conv3d.__call__

    def noted(layer: conv3d.Conv3d, x: jax.Array) -> jax.Array:
        seen[Convolution(x.shape, layer.kernel.shape, layer.stride, layer.padding)] += 1
        return apply(layer, x)

    model = names.abstract_model(config)
    graph, state = nnx.split(model)
    video = jax.ShapeDtypeStruct((batch, config.frames, config.frame_size, config.frame_size, 3), jnp.uint8)
    audio = jax.ShapeDtypeStruct((batch, config.audio_samples), jnp.float32)
    with mock.patch.object(conv3d.Conv3d, "__call__", noted):
        jax.eval_shape(lambda state, video, audio: nnx.merge(graph, state)(video, audio).logits, state, video, audio)
    return dict(seen)


def _platform() -> str:
    """The platform that everything is compiled for."""
    return jax.devices()[0].platform


def passes(run: Callable[[Any, Any], Any], x: Any, kernel: Any, dy: Any) -> dict[str, Run]:
    """The forward pass and each gradient of `run(x, kernel)`, compiled."""

    def with_respect_to(part: int) -> Run:
        def gradient(x: Any, kernel: Any, dy: Any) -> Any:
            alone = (lambda x: run(x, kernel)) if part == 0 else (lambda kernel: run(x, kernel))
            return jax.vjp(alone, (x, kernel)[part])[1](dy)

        return repeated(xla.jit(gradient, _platform()), x, kernel, dy)

    return {
        "forward": repeated(xla.jit(run, _platform()), x, kernel),
        "input": with_respect_to(0),
        "kernel": with_respect_to(1),
    }


def repeated(function: Any, *arrays: jax.Array) -> Run:
    """Repeats a jitted function without waiting between calls."""

    def run(times: int) -> None:
        jax.block_until_ready([function(*arrays) for _ in range(times)])

    return run


def ours(case: Convolution, dtype: str) -> dict[str, dict[str, Run]]:
    """Every form that can run the case, by name, and its passes."""
    rng = np.random.default_rng(0)
    x, kernel, dy = (
        jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for shape in (case.x, case.kernel, case.output)
    )
    found = {}
    for form, convolve in _FORMS.items():
        if form in _LEAVE_OUT.value:
            continue
        if case.kernel[:3] == (1, 1, 1) and form not in ("pointwise", "direct"):  # the other forms are the same product
            continue

        def run(x: Any, kernel: Any, convolve: conv3d.Form = convolve) -> Any:
            return convolve(x, kernel, case.stride, case.padding)

        try:
            jax.eval_shape(run, x, kernel)
        except ValueError:  # the form is for other shapes
            continue
        found[form] = passes(run, x, kernel, dy)
    return found


def pytorch(case: Convolution, dtype: str) -> dict[str, dict[str, Run]]:
    """PyTorch's convolution in both memory layouts."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = getattr(torch, dtype)
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True  # as XLA does

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def side(layout: torch.memory_format) -> dict[str, Run]:
        def tensor(shape: tuple[int, ...]) -> torch.Tensor:
            return torch.randn(shape, device=device, dtype=kind).to(memory_format=layout)

        x = tensor((case.x[0], case.x[4], *case.x[1:4]))
        kernel = tensor((case.kernel[4], case.kernel[3], *case.kernel[:3]))
        dy = tensor((case.output[0], case.output[4], *case.output[1:4]))

        def forward(times: int) -> None:
            with torch.inference_mode():
                for _ in range(times):
                    torch.nn.functional.conv3d(x, kernel, None, case.stride, case.padding)
            finish()

        def backward(wanted: list[bool]) -> Run:
            def run(times: int) -> None:
                for _ in range(times):
                    torch.ops.aten.convolution_backward(
                        dy, x, kernel, None, case.stride, case.padding, (1, 1, 1), False, (0, 0, 0), 1, wanted
                    )
                finish()

            return run

        return {"forward": forward, "input": backward([True, False, False]), "kernel": backward([False, True, False])}

    return {
        "torch, contiguous": side(torch.contiguous_format),
        "torch, channels_last_3d": side(torch.channels_last_3d),
    }


def limits(dtype: str) -> dict[str, float]:
    """Limits of the device: `flops` per second of a large product, `bytes` per second of a copy."""
    size = _MATMUL if _platform() == "cpu" else 8 * _MATMUL
    a = jnp.asarray(np.random.default_rng(0).standard_normal((size, size), np.float32), dtype)
    big = jnp.zeros(_COPIED, jnp.float32)
    seconds = measure(
        {"product": repeated(jax.jit(jnp.matmul), a, a), "copy": repeated(jax.jit(lambda x: x + 1), big)},
    )
    return {
        "flops": 2 * size**3 / float(np.median(seconds["product"])),
        "bytes": 2 * 4 * _COPIED / float(np.median(seconds["copy"])),
    }


def measure(sides: dict[str, Run]) -> dict[str, list[float]]:
    """Seconds of every side in every round."""

    def taken(run: Run, times: int) -> float:
        start = time.perf_counter()
        run(times)
        return (time.perf_counter() - start) / times

    for run in sides.values():
        run(1)
    times = dict.fromkeys(sides, 1)
    if _platform() != "cpu":  # so that launch overhead is negligible
        times = {name: max(1, round(_FILL_S / taken(run, 2))) for name, run in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(_ROUNDS.value):
        for name, run in sides.items():
            seconds[name].append(taken(run, times[name]))
    return seconds


def compare(case: Convolution, us: dict[str, dict[str, Run]], dtype: str) -> dict[str, dict[str, Any]]:
    """By pass: PyTorch's time over each form's, its spread, the form chosen, and the rates of all."""
    them = pytorch(case, dtype)
    forms = conv3d.choose(_platform(), case.kernel[:3], case.stride)
    found = {}
    for name, chosen in zip(PASSES, forms, strict=True):
        if name == "input" and case.x[-1] == 3:
            continue  # training needs no gradient of the video
        seconds = {
            side: np.array(times) for side, times in measure({k: v[name] for k, v in {**us, **them}.items()}).items()
        }
        theirs = np.min([seconds[side] for side in them], axis=0)
        ratios = {form: theirs / seconds[form] for form in us}
        found[name] = {
            "chosen": chosen.__name__,
            "ratio": {form: float(np.median(ratio)) for form, ratio in ratios.items()},
            "spread": {form: np.quantile(ratio, [0.1, 0.9]).tolist() for form, ratio in ratios.items()},
            "flops a second": {
                side: case.flops / float(np.median(times))
                for side, times in {**{form: seconds[form] for form in us}, "torch": theirs}.items()
            },
        }
    return found


def line(row: dict[str, Any], name: str, roof: float) -> str:
    """A row of the table: forms by speed, and the shares of the roof."""
    found = row["passes"][name]
    chosen, rates = found["chosen"], found["flops a second"]
    listed = "  ".join(
        f"{form}{'*' * (form == chosen)} {ratio:.2f}"
        for form, ratio in sorted(found["ratio"].items(), key=lambda item: -item[1])
    )
    shares = f"{rates[chosen] / roof:.0%}, PyTorch {rates['torch'] / roof:.0%}"
    return f"{row['convolution']:42} x{row['count']:<2} {name:8} {listed}   {shares}"


def draw(rows: list[dict[str, Any]], roof: float, bandwidth: float, path: Path) -> None:
    """The roofline: rate by operations a byte."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    slope = np.geomspace(1, 2000, 100)
    axes.plot(slope, np.minimum(slope * bandwidth, roof) / 1e9, color="0.5", label="limit of memory and arithmetic")
    for side, marker, color in (("torch", "o", "tab:orange"), ("chosen", "x", "tab:blue")):
        points = [
            (row["flops"] / row["bytes"], found["flops a second"][found["chosen"] if side == "chosen" else side] / 1e9)
            for row in rows
            for found in row["passes"].values()
        ]
        label = "PyTorch" if side == "torch" else "ours, the forms chosen"
        axes.scatter(*zip(*points, strict=True), marker=marker, color=color, label=label)
    axes.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="GFLOP/s", xlim=(5, 1000))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(_: list[str]) -> None:
    """Measures, prints a table, and writes the files asked for."""
    config, dtype = (
        ModelConfig(depth=_DEPTH.value, dtype=cast(Literal["float32", "bfloat16"], _DTYPE.value)),
        _DTYPE.value,
    )
    rows: list[dict[str, Any]] = []
    cases = convolutions(config, _BATCH.value)
    prepared = {case: ours(case, dtype) for case in cases} if _platform() == "gpu" else {}
    with futures.ThreadPoolExecutor(16) as pool:  # on a GPU, XLA takes seconds to compile each
        runs = [run for forms in prepared.values() for by_pass in forms.values() for run in by_pass.values()]
        list(pool.map(lambda run: run(1), runs))
    for case, count in cases.items():
        print(f"measuring {case}", file=sys.stderr, flush=True)
        rows.append({"convolution": str(case), "count": count, "flops": case.flops, "bytes": case.bytes(dtype)})
        rows[-1]["passes"] = compare(case, prepared.pop(case) if case in prepared else ours(case, dtype), dtype)
    limit = limits(dtype)
    rates = [found["flops a second"] for row in rows for found in row["passes"].values()]
    roof = max(limit["flops"], *(max(rate.values()) for rate in rates))

    print(f"{jax.devices()[0].device_kind}, depth {_DEPTH.value}, batch {_BATCH.value}, {dtype}")
    print("PyTorch's time over ours; * is the form that the network takes, then its share of the roof\n")
    seconds = {"ours": 0.0, "torch": 0.0}
    for row in rows:
        for name, found in row["passes"].items():
            print(line(row, name, roof))
            for side, kind in (("ours", found["chosen"]), ("torch", "torch")):
                seconds[side] += row["count"] * row["flops"] / found["flops a second"][kind]
    together = seconds["torch"] / seconds["ours"]
    print(
        f"\nall convolutions of a training step together: {together:.2f}; a large product: {limit['flops'] / roof:.0%}"
    )
    if _PLOT.value:
        draw(rows, roof, limit["bytes"], Path(_PLOT.value))
    if _OUTPUT.value:
        settings = {
            "device": jax.devices()[0].device_kind, "depth": _DEPTH.value, "batch": _BATCH.value, "dtype": dtype,
            "rounds": _ROUNDS.value, "jax": jax.__version__, "limits": limit, "roof": roof, "together": together,
        }  # fmt: skip
        Path(_OUTPUT.value).write_text(json.dumps({**settings, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command_line.run(main)
