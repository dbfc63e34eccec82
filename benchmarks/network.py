"""The whole network against PyTorch: inference and the training step, both sides in turns.

    python -m benchmarks.network --depths=50 --batches=4,16 --output=network.json

The PyTorch side is the tests' reference network (tests/reference), run as users would: in both memory layouts, on a GPU
with `torch.compile` in channels last, under autocast for bfloat16. Every step of either side starts with the batch on
the device. A training step is forward pass, loss, backward pass and SGD with momentum and weight decay; ours is that of
train.py. In each round each side runs one untimed step first, because an idle side may have lost its memory to the
system (which costs two seconds on a CPU), and then as many as fill a second (0.3 on a GPU), at least two.

On a GPU compiling takes minutes. Our programs are compiled first, several at a time, while nothing else uses the GPU,
because XLA chooses kernels by timing them. Then PyTorch prepares all cases at once, in processes that are idle until
asked, and cuDNN tries its kernels for each case before it is timed. `JAX_COMPILATION_CACHE_DIR` and
`TORCHINDUCTOR_CACHE_DIR` keep what was compiled for the next run.

The ratio is the time of the fastest PyTorch variant divided by ours in the same round, so more is better: median, and
quantiles 0.1 and 0.9. On a GPU both rates, their share of the peak (MFU) and the memory are printed, too. Needs torch.
"""

import functools
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # both sides share a GPU's memory

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from avmsnet_jax import command_line, xla
from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config, Dtype, MeshConfig, TrainConfig
from avmsnet_jax.models import flops as flops_lib
from avmsnet_jax.training import peak as peak_lib
from avmsnet_jax.training import step as step_lib
from avmsnet_jax.training.optimizer import make_optimizer
from benchmarks import candidates, torch_side
from benchmarks.torch_side import Case, Way

_MODES = flags.DEFINE_list("modes", ["inference", "training"], "inference, training or both")
_DEPTHS = flags.DEFINE_list("depths", ["18", "50"], "3D-ResNet depths")
_BATCHES = flags.DEFINE_list("batches", ["1", "4", "16"], "clips in a batch")
_DTYPES = flags.DEFINE_list("dtypes", ["float32"], "compute types: float32, bfloat16")
_COMPILE = flags.DEFINE_bool("compile", False, "on a CPU, also PyTorch's torch.compile")
_TORCH_MODES = flags.DEFINE_list(
    "torch_modes", ["default"], "on a GPU, modes of torch.compile: default, max-autotune; the fastest counts"
)
_CANDIDATES = flags.DEFINE_list(
    "candidates", [], f"on a GPU, changes of our training step, of {', '.join(candidates.NAMES)}"
)
_ROUNDS = flags.DEFINE_integer("rounds", 11, "rounds; each runs every side")
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the figures")

_AT_ONCE = 4  # programs compiled at a time; XLA uses several threads for each
_FILL_S, _FILL_ELSEWHERE_S = 1.0, 0.3

# Runs so many steps, and returns the seconds until the last is done.
Side = Callable[[int], float]


def main(_: list[str]) -> None:
    """Measures and prints."""
    rows = []
    kind = jax.devices()[0].device_kind
    print(f"{kind}: PyTorch's time over ours, median (10% to 90%) of {_ROUNDS.value} rounds", flush=True)
    cases = [
        Case(mode, depth, cast(Dtype, dtype), batch)
        for dtype in _DTYPES.value
        for mode in _MODES.value
        for depth in map(int, _DEPTHS.value)
        for batch in map(int, _BATCHES.value)
    ]
    for case, found in (_on_gpu if jax.default_backend() == "gpu" else _on_cpu)(cases):
        rows.append(vars(case) | found)
        print(line(rows[-1]), flush=True)
        gc.collect()
        if _OUTPUT.value:
            settings = {"device": kind, "rounds": _ROUNDS.value, "jax": jax.__version__}
            Path(_OUTPUT.value).write_text(json.dumps({**settings, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def _on_cpu(cases: list[Case]) -> Iterator[tuple[Case, dict[str, Any]]]:
    """The cases one after the other, both sides in this process."""
    for case in cases:
        ours = Ours(case)

        def start(ours: Ours = ours) -> Side:
            ours.compile()
            ours.start(ours.create())
            return ours

        ways = [Way(layout) for layout in torch_side.LAYOUTS]
        ways += [Way("channels_last_3d", "default")] * _COMPILE.value
        makers = {str(way): functools.partial(torch_side.make, case, way) for way in ways}
        yield case, _compared(case, {"ours": start, **makers})


def _on_gpu(cases: list[Case]) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Prepares all cases at once, then measures one after the other."""
    ours = [Ours(case) for case in cases]
    with futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        compiling = {pool.submit(side.compile): case for side, case in zip(ours, cases, strict=True)}
        began = time.monotonic()
        for done in futures.as_completed(compiling):
            print(f"after {time.monotonic() - began:.0f} s: compiled {compiling[done]}", file=sys.stderr, flush=True)
            done.result()  # or its error
    states: dict[int, step_lib.TrainState] = {}
    for us, case in zip(ours, cases, strict=True):
        if case.depth not in states:
            states[case.depth] = us.create()
            jax.block_until_ready(_copied(states[case.depth]))

    ways = [Way("channels_last_3d", mode) for mode in _TORCH_MODES.value]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TORCHINDUCTOR_COMPILE_THREADS": "4"}
    theirs = {(case, way): torch_side.Served(case, way, environment) for case in cases for way in ways}
    alone = []
    for key, them in theirs.items():
        try:
            them.wait()
        except RuntimeError:  # perhaps for lack of memory: started again when its turn comes
            them.end()
            alone.append(key)
    for case, us in zip(cases, ours, strict=True):
        needed = {"ours": us.bytes}

        def start_ours(case: Case = case, us: Ours = us) -> Side:
            us.start(states[case.depth])
            return us

        def start_theirs(way: Way, case: Case = case, needed: dict[str, int] = needed) -> Side:
            if (case, way) in alone:
                theirs[case, way] = torch_side.Served(case, way, environment)
                theirs[case, way].wait()
            needed[str(way)] = theirs[case, way].settle()
            return theirs[case, way]

        makers: dict[str, Callable[[], Side]] = {str(way): functools.partial(start_theirs, way) for way in ways}
        found = _compared(case, {"ours": start_ours} | makers)
        us.end()
        for way in ways:
            theirs[case, way].end()
        if "ratio" in found:
            flops = (flops_lib.training_flops if case.mode == "training" else flops_lib.forward_flops)(case.config)
            peak = peak_lib.of(us.mesh, case.dtype)
            found["mfu"] = {side: flops * rate / peak.rate for side, rate in found["clips a second"].items()}
            found["gigabytes"] = {side: count / 1e9 for side, count in needed.items()}
        yield case, found


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    text = f"{row['mode']:9} depth {row['depth']:<3} {row['dtype']:8} batch {row['batch']:<3} "
    if "ratio" not in row:
        return text + "; ".join(f"{name} failed: {error}" for name, error in row["failed"].items())
    low, high = row["spread"]
    text += f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})  against {row['fastest']}"
    if "mfu" in row:  # on a GPU; absolute times of a shared CPU mean little
        sides = ("ours", row["fastest"])
        text += "; " + " against ".join(f"{row['clips a second'][side]:.0f}" for side in sides) + " clips/s, MFU "
        text += " against ".join(f"{row['mfu'][side]:.1%}" for side in sides)
        text += ", " + " against ".join(f"{row['gigabytes'][side]:.1f}" for side in sides) + " GB"
    return text


def _compared(case: Case, makers: dict[str, Callable[[], Side]]) -> dict[str, Any]:
    """Ratios of one case, and the errors of sides that cannot run it (for lack of memory)."""
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
    fill = _FILL_S if jax.default_backend() == "cpu" else _FILL_ELSEWHERE_S
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    try:
        repeats = {name: max(2, round(fill / (side(3) / 3))) for name, side in sides.items()}
        for _ in range(_ROUNDS.value):
            for name, side in sides.items():
                side(1)
                seconds[name].append(side(repeats[name]) / repeats[name])
    except Exception as error:  # the other cases may go well
        return {"failed": failed | {"a round": f"{type(error).__name__}: {error}".splitlines()[0][:200]}}
    medians = {name: float(np.median(taken)) for name, taken in seconds.items()}
    fastest = min((name for name in medians if name != "ours"), key=medians.__getitem__)
    ratios = {name: np.array(seconds[name]) / np.array(seconds["ours"]) for name in sides if name != "ours"}
    return {
        "fastest": fastest,
        "ratio": float(np.median(ratios[fastest])),
        "spread": np.quantile(ratios[fastest], [0.1, 0.9]).tolist(),
        "ratios": {name: float(np.median(ratio)) for name, ratio in ratios.items()},
        "clips a second": {name: case.batch / median for name, median in medians.items()},
        "failed": failed,
    }


class Ours:
    """Our side of a case: traced on creation, then `compile`, then `start`; after that it runs steps."""

    def __init__(self, case: Case):
        self._case, settings = case, Config(model=case.config, train=TrainConfig(batch_size=case.batch))
        self.mesh = mesh_lib.make_mesh(MeshConfig(data=1))
        optimizer = make_optimizer(settings, steps_per_epoch=1000)
        graphdef, described, self.create = step_lib.describe(settings, optimizer, self.mesh)
        shapes = step_lib.batch_shapes(settings, self.mesh)

        def infer(params: nnx.State, stats: nnx.State, film: jax.Array, sound: jax.Array) -> jax.Array:
            model = nnx.merge(graphdef, params, stats, copy=True)
            model.eval()
            return model(film, sound).logits

        self._begin: Callable[[step_lib.TrainState], Any] = lambda state: state
        if case.mode == "training":
            prepared = candidates.prepare(
                settings, graphdef, described, _CANDIDATES.value, mesh_lib.platform(self.mesh)
            )  # fmt: skip
            self._lowered, self._begin = prepared.lowered, prepared.begin
        else:
            arrays = described.params, described.stats, shapes["clip"], shapes["sound"]
            self._lowered = xla.jit(infer, mesh_lib.platform(self.mesh)).lower(*arrays)
        self._compiled: Any = None
        self._state: Any = None
        self._batch: Any = None

    def compile(self) -> None:
        """Compiles the program. This takes most of the time, and threads can do it."""
        self._compiled = self._lowered.compile()

    @property
    def bytes(self) -> int:
        """Device memory of the program: arguments, results and temporary buffers."""
        needs = self._compiled.memory_analysis()
        kept = needs.argument_size_in_bytes + needs.output_size_in_bytes - needs.alias_size_in_bytes
        return kept + needs.temp_size_in_bytes

    def start(self, state: step_lib.TrainState) -> None:
        """Takes a copy of the state, and places the batch."""
        self._state = self._begin(_copied(state))
        self._batch = mesh_lib.place_batch(self.mesh, torch_side.clips(self._case.config, self._case.batch))

    def end(self) -> None:
        """Frees its memory."""
        self._state = self._batch = None

    def __call__(self, steps: int) -> float:
        """Runs so many steps and returns the seconds they took."""
        start = time.perf_counter()
        if self._case.mode == "training":
            for _ in range(steps):
                self._state, _measured = self._compiled(self._state, self._batch)
            jax.block_until_ready(self._state)
        else:
            arrays = self._state.params, self._state.stats, self._batch["clip"], self._batch["sound"]
            jax.block_until_ready([self._compiled(*arrays) for _ in range(steps)])
        return time.perf_counter() - start


@jax.jit
def _copied(state: step_lib.TrainState) -> step_lib.TrainState:
    return jax.tree.map(jnp.copy, state)


if __name__ == "__main__":
    command_line.run(main)
