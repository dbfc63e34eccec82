"""The share of training time spent waiting for the next batch.

    python benchmarks/waiting.py --workdir=DIR [--depth=18] [--batch_size=4] [--clips_per_second 100 1000]

Renders toy films, prepares them, and trains the published network on them as `train.py` does, logging every step. Then
reads the same records, shuffled and flipped, as fast as possible without training: a device that trains faster than
that has to wait. For each rate in --clips_per_second, prints the share that such a device would wait, 1 - reading
rate / rate.

Prints one line of JSON. DIR keeps what was prepared.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from avmsnet_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from avmsnet_jax.data.pipeline import open_split, train_batches
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.toy import movies
from avmsnet_jax.training.loop import train
from avmsnet_jax.training.metrics import METRICS, read_metrics


def shares(lines: list[dict[str, Any]], batch_size: int) -> dict[str, float]:
    """The share of waiting in the time of the first line of metrics, of the others, and of all."""
    steps = [line["step"] - before for line, before in zip(lines, [0, *(line["step"] for line in lines)], strict=False)]
    took = [count * batch_size / line["clips_per_second"] for count, line in zip(steps, lines, strict=True)]
    waited = [line["data_wait_seconds"] for line in lines]
    return {
        "waiting, first line": waited[0] / took[0],
        "waiting, other lines": sum(waited[1:]) / sum(took[1:]),
        "waiting, whole run": sum(waited) / sum(took),
        "clips a second": sum(steps) * batch_size / sum(took),
    }


def reading_rate(config: Config, seconds: float) -> float:
    """Clips per second that this machine reads for `config` when it does nothing else."""
    data, size = config.data, config.train.batch_size
    records = open_split(data.dir, data.train_split, config.model)
    batches = train_batches(
        records, batch_size=size, seed=0, flip=data.flip, threads=data.threads, workers=data.workers
    )
    with contextlib.closing(batches):
        for _ in range(8):  # already read ahead
            next(batches)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            next(batches)
            count += size
        return count / (time.perf_counter() - began)


def main() -> None:
    """Prepares, trains, reads, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    defaults = {"depth": 18, "frame_size": 112, "batch_size": 4, "epochs": 4, "threads": 4, "workers": 0, "films": 4}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=5, help="how long to read alone")
    parser.add_argument("--clips_per_second", type=float, nargs="*", default=[100, 1000])
    arguments = parser.parse_args()
    records, run = arguments.workdir / f"records_{arguments.frame_size}", arguments.workdir / "run"
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    if not records.exists():
        shutil.rmtree(arguments.workdir / "films", ignore_errors=True)
        movies.render(arguments.workdir / "films", films=arguments.films, seconds=12, seed=0)
        prepare("movies", arguments.workdir / "films", records, frame_size=arguments.frame_size)
    shutil.rmtree(run, ignore_errors=True)
    config = Config(
        model=ModelConfig(depth=arguments.depth, frame_size=arguments.frame_size),
        data=DataConfig(dir=str(records), threads=arguments.threads, workers=arguments.workers),
        optimizer=OptimizerConfig(name="adamw", learning_rate=1e-4),
        train=TrainConfig(
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            log_every_steps=1,
            checkpoint_every_epochs=arguments.epochs,
        ),
    )
    with contextlib.redirect_stdout(sys.stderr):
        train(config, run)
    rate = reading_rate(config, arguments.seconds)
    facts: dict[str, Any] = {name: getattr(arguments, name) for name in defaults} | {"cores": os.cpu_count()}
    facts |= {
        name: round(value, 5) for name, value in shares(read_metrics(run / METRICS), config.train.batch_size).items()
    }
    facts["reading alone, clips a second"] = round(rate, 1)
    for wanted in arguments.clips_per_second:
        facts[f"a device of {wanted:g} clips a second would wait"] = round(max(0.0, 1 - rate / wanted), 3)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
