"""Installs the package as a user does, and runs every command on films made there.

    python -m tests.soak.clean_venv
    python -m tests.soak.clean_venv --keep=there

Builds the wheel and the source distribution, checks them with twine, and installs the wheel into a new virtual
environment in an empty folder, with the versions that `make` takes. There it prints the time of each `--help`, and runs
toy films through prepare, train, evaluate, convert (export and back) and summarize. It takes some minutes and 3 GB.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("prepare", "train", "evaluate", "convert", "summarize", "studio", "inspect")
STEPS = """
avmsnet prepare --dataset=movies --source=films --output=records --frame_size=48
avmsnet inspect records --output=sheet.png
avmsnet train --config=demo --config.data.dir=records --config.train.epochs=1 --workdir=run
avmsnet evaluate --config=demo --config.data.dir=records --checkpoint=run --output=results
avmsnet convert --checkpoint=run --export=weights.safetensors
avmsnet convert --source=weights.safetensors --output=converted
avmsnet summarize films/test/toy_06.mp4 --checkpoint=converted --output=by_network
avmsnet summarize films/test/toy_06.mp4 --output=by_attention
"""
LEFT = (
    "records/manifest.json sheet.png run/config.json run/metrics.jsonl results/metrics.json converted/report.json "
    "by_network/toy_06/summary.mp4 by_network/toy_06/report.html by_attention/toy_06/summary.mp4"
)


def main() -> None:
    """Prints what it does with its time; the exit status is 1 if a step fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="an empty folder to work in; default: one that is removed")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        check(options.keep.absolute())
        return
    with tempfile.TemporaryDirectory(prefix="clean_venv_") as folder:
        check(Path(folder))


def check(folder: Path) -> None:
    """Builds, installs and runs the package in an empty folder."""
    work, bin_ = folder / "work", folder / "venv" / "bin"
    work.mkdir()
    distributions = build(folder)
    run([sys.executable, "-m", "venv", folder / "venv"], folder)
    wheel = next(path for path in distributions if path.suffix == ".whl")
    run([bin_ / "pip", "install", "--quiet", "--constraint", constraints(), wheel], folder)
    for command in COMMANDS:
        run([bin_ / "avmsnet", command, "--help"], work)
    run([bin_ / "python", "-m", "avmsnet_jax.toy", "--output=films", "--films=8", "--seconds=20"], work)
    for step in STEPS.strip().splitlines():
        command, *arguments = step.split()
        run([bin_ / command, *arguments], work)
    missing = [name for name in LEFT.split() if not (work / name).exists()]
    if missing:
        sys.exit(f"not written: {', '.join(missing)}")
    print("every command ran")


def build(folder: Path) -> list[Path]:
    """The wheel and the source distribution, built and checked by tools in an environment of their own."""
    tools = folder / "tools" / "bin"
    run([sys.executable, "-m", "venv", tools.parent], folder)
    run([tools / "pip", "install", "--quiet", "build", "twine"], folder)
    run([tools / "python", "-m", "build", "--outdir", folder / "dist", ROOT], folder)
    distributions = sorted((folder / "dist").iterdir())
    run([tools / "twine", "check", "--strict", *distributions], folder)
    return distributions


def constraints() -> Path:
    """The list of versions that `make` takes: this Python's, or else the newest."""
    own = ROOT / "constraints" / f"python{sys.version_info.major}.{sys.version_info.minor}.txt"
    return own if own.exists() else max((ROOT / "constraints").glob("*.txt"))


def run(command: list[str | Path], cwd: Path) -> None:
    """Runs a command without this checkout in sight, and prints its time; exits with its output if it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JAX_", "XLA_"))}
    began, before = time.perf_counter(), os.times()
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wall, after = time.perf_counter() - began, os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])
    words = " ".join(map(str, command)).replace(f"{cwd.parent}/", "").replace(f"{cwd}/", "")
    print(f"{wall:6.1f} s, {cpu:6.1f} s of CPU: {words}", flush=True)
    if done.returncode:
        sys.exit(f"it failed with status {done.returncode}:\n{done.stdout}")


if __name__ == "__main__":
    main()
