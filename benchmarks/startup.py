"""How long a training command takes to its first step, with and without the compilation cache.

    python benchmarks/startup.py --workdir=DIR [--depths 18 50] [--rounds=3] [--output=startup.json]

Renders two toy films, prepares them, and starts training the published network on them, each time in a new process:
with an empty cache (first start), with the cache that the first one left (second start), and with the cache off, in
turns. The clock runs from the start of the process until `metrics.jsonl` has the line of step 1, polled every 10 ms;
then the process is killed, so no checkpoint is written. `train.py --help` and the imports of training are timed, too.

Prints a line for each kind of start: median, least and most of the rounds, in seconds, and the ratios within a round.
DIR keeps what was prepared.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIRST, SECOND, OFF = "first start", "second start", "cache off"


def prepare(workdir: Path) -> Path:
    """Toy records of the published sizes; returns where they are."""
    if not (workdir / "records").exists():
        shutil.rmtree(workdir / "films", ignore_errors=True)
        films = ["-m", "avmsnet_jax.toy", f"--output={workdir / 'films'}", "--films=2", "--seconds=12"]
        records = ["prepare_data.py", "--dataset=movies", f"--source={workdir / 'films'}"]
        for arguments in (films, [*records, f"--output={workdir / 'records'}"]):
            subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment(), check=True)
    return workdir / "records"


def environment(**variables: str) -> dict[str, str]:
    """The environment without settings of JAX's cache."""
    kept = {name: value for name, value in os.environ.items() if "_CACHE_" not in name and "COMPILATION" not in name}
    return kept | {"PYTHONPATH": str(ROOT)} | variables


def start(records: Path, workdir: Path, depth: int, batch_size: int, **variables: str) -> float:
    """Seconds until the first step was done."""
    shutil.rmtree(workdir, ignore_errors=True)
    settings = {"data.dir": records, "model.depth": depth, "train.batch_size": batch_size, "train.log_every_steps": 1}
    command = [sys.executable, "train.py", "--config=configs/films.py", f"--workdir={workdir}"]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    metrics = workdir / "metrics.jsonl"
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(**variables), stdout=log, stderr=log)
        try:
            while not (metrics.exists() and metrics.read_bytes().count(b"\n")):
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(log.read())
                time.sleep(0.01)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


def take(*arguments: str) -> float:
    """Seconds that a whole process takes."""
    began = time.perf_counter()
    command = [sys.executable, *arguments]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {name: round(f(values), 3) for name, f in (("median", statistics.median), ("least", min), ("most", max))}


def row(name: str, found: dict[str, float]) -> str:
    """A line of the table."""
    return f"{name:44}" + "".join(f"{value:9.2f}" for value in found.values())


def measure(records: Path, workdir: Path, depth: int, rounds: int, batch_size: int) -> dict[str, Any]:
    """The three kinds of start in turns."""
    found: dict[str, list[float]] = {FIRST: [], SECOND: [], OFF: []}
    cache = workdir / "cache"
    for _ in range(rounds):
        shutil.rmtree(cache, ignore_errors=True)
        for kind, seconds in found.items():
            variables = {"XDG_CACHE_HOME": str(cache)}
            if kind == OFF:
                variables["JAX_ENABLE_COMPILATION_CACHE"] = "false"
            seconds.append(start(records, workdir / "run", depth, batch_size, **variables))
    kept = sum(path.stat().st_size for path in cache.rglob("*-cache"))
    rows = list(zip(found[FIRST], found[SECOND], found[OFF], strict=True))
    return {
        **{f"{kind}, s to the first step": spread(seconds) for kind, seconds in found.items()},
        "second / first": spread([second / first for first, second, _ in rows]),
        "first / cache off": spread([first / off for first, _, off in rows]),
        "kept on disk, MB": round(kept / 1e6, 1),
    }


def main() -> None:
    """Prepares, starts in turns, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--depths", type=int, nargs="+", default=[18, 50])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file of the figures")
    arguments = parser.parse_args()
    workdir = arguments.workdir.resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    records = prepare(workdir)

    print(" " * 44 + "".join(f"{name:>9}" for name in ("median", "least", "most")), flush=True)
    imports = "import avmsnet_jax.training.loop"
    commands = {"train.py --help, s": ["train.py", "--help"], f"{imports}, s": ["-c", imports]}
    times = [{name: take(*command) for name, command in commands.items()} for _ in range(arguments.rounds)]
    facts: dict[str, Any] = {name: spread([turn[name] for turn in times]) for name in commands}
    for name in commands:
        print(row(name, facts[name]), flush=True)
    for depth in arguments.depths:
        facts[f"depth {depth}"] = measure(records, workdir, depth, arguments.rounds, arguments.batch_size)
        for name, found in facts[f"depth {depth}"].items():
            if isinstance(found, dict):
                print(row(f"depth {depth}: {name}", found), flush=True)
    facts |= {"batch": arguments.batch_size, "cores": os.cpu_count(), "machine": platform.machine()}
    if arguments.output:
        arguments.output.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
