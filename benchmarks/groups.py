"""Whether batch norm over groups of clips learns as much as over the whole batch: F on the toy movies held out.

    python -m benchmarks.groups --workdir=DIR [--groups 0 8] [--seeds=3] [--batch_size=32] [--frame_size=48] \
        [--epochs=12]

Trains the demo's configuration for each seed of the network and each group size
(`train.norm_clips`; 0 = the whole batch), on the same films. Prints one line of JSON a run. DIR keeps films, records
and runs; the same command resumes where it was stopped.
"""

import argparse
import contextlib
import json
import shutil
import sys
from pathlib import Path

from avmsnet_jax import config
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.evaluation import movie50
from avmsnet_jax.toy import movies
from avmsnet_jax.training.loop import train


def fscore(settings: config.Config, folder: Path, group: int, seed: int) -> float:
    """F on the held-out films of a network trained with `group` clips in a group of batch norm."""
    settings = settings.replace(train={"norm_clips": group, "seed": seed})
    run, results = folder / f"group{group}_seed{seed}", folder / f"group{group}_seed{seed}_results"
    train(settings, run)
    shutil.rmtree(results, ignore_errors=True)
    return movie50.evaluate(settings, str(run), "test", results)["fscore"]


def main() -> None:
    """Renders, prepares, and trains each pair of seed and group size."""
    demo = config.load("demo")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--groups", type=int, nargs="+", default=[0, 8], help="clips in a group; 0 = the whole batch")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=demo.train.batch_size, help="clips of a step")
    parser.add_argument("--frame_size", type=int, default=demo.model.frame_size, help="side of a frame in pixels")
    parser.add_argument("--epochs", type=int, default=demo.train.epochs)
    arguments = parser.parse_args()
    folder = arguments.workdir
    if not (folder / "records").exists():
        shutil.rmtree(folder / "films", ignore_errors=True)
        movies.render(folder / "films", films=24, seconds=40, seed=0)
        prepare("movies", folder / "films", folder / "records", frame_size=arguments.frame_size)
    settings = demo.replace(
        model={"frame_size": arguments.frame_size},
        data={"dir": str(folder / "records")},
        train={"epochs": arguments.epochs, "batch_size": arguments.batch_size},
    )
    for seed in range(arguments.seeds):
        for group in arguments.groups:
            with contextlib.redirect_stdout(sys.stderr):
                found = fscore(settings, folder, group, seed)
            print(
                json.dumps({"seed": seed, "clips in a group": group or arguments.batch_size, "F": round(found, 4)}),
                flush=True,
            )


if __name__ == "__main__":
    main()
