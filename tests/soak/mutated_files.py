"""Runs the commands on randomly damaged files and reports every violation of the rules below.

    python -m tests.soak.mutated_files --films=500 --labels=150 --scores=200 --weights=150
    python -m tests.soak.mutated_files --only="films 17" --seed=0 --keep=there

Films of all containers, score, label and weight files, records, checkpoints and training runs: bits flipped, boxes
dropped, lengths and counts changed, addresses planted. Each command must end with status 0 or 2, without a traceback,
within a minute and 2.5 GB, leave a whole result or nothing, not change its inputs, and open nothing else. The planted
addresses are those of a port on 127.0.0.1 and a named pipe, which record every access.

The same seed repeats the same changes. Each failure is printed as a command line, and its files stay in --keep.
"""

import argparse
import sys
import tempfile
from pathlib import Path

# Import everything the commands need once: they run in forks of this process.
import grain  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import scipy.stats  # noqa: F401
import torch  # noqa: F401

import avmsnet_jax.data.prepare
import avmsnet_jax.evaluation.benchmark
import avmsnet_jax.evaluation.given_scores
import avmsnet_jax.evaluation.movie50
import avmsnet_jax.summarization.run
import avmsnet_jax.training.loop
import avmsnet_jax.weights.convert
import avmsnet_jax.weights.export  # noqa: F401
from tests.mutated.cases import Bench
from tests.mutated.watch import traps

COUNTS = {"films": 500, "labels": 150, "scores": 200, "weights": 150, "records": 100, "checkpoints": 100, "runs": 20}


def main() -> None:
    """Prints each failure; the exit status is 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind, count in COUNTS.items():
        parser.add_argument(f"--{kind}", type=int, default=count, metavar="COUNT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help='a single case, such as "films 17"')
    parser.add_argument("--keep", type=Path, help="an empty folder to work in; default: a new one")
    options = parser.parse_args()
    folder = (options.keep or Path(tempfile.mkdtemp(prefix="mutated_"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {kind: range(getattr(options, kind)) for kind in COUNTS}
    if options.only:
        kind, number = options.only.split()
        numbers = {kind: range(int(number), int(number) + 1)}
    failures = []
    with traps(folder) as set_traps:
        bench = Bench(folder, set_traps, options.seed)
        for kind, cases in numbers.items():
            bench.whole = 0
            found = bench.run(kind, cases)
            for failure in found:
                print(failure, flush=True)
            print(f"{kind}: {len(cases)} cases, {bench.whole} whole results, {len(found)} complaints", flush=True)
            failures += found
    if failures:
        sys.exit(f"seed {options.seed}: {len(failures)} complaints; the files are in {folder}")


if __name__ == "__main__":
    main()
