"""Compares every number that the commands produce at another commit and in this checkout.

    python -m tests.soak.compare_versions COMMIT --work=/tmp/compare

For changes that must not change results. Records and exported weights must be the same byte for byte; losses, scores,
chosen shots and the summary's pictures and sound must be the same number for number. The other commit's results are
kept in --work and not computed again. With ../shared beside the checkout, Big Buck Bunny and the annotations of TVSum
and SumMe are used as well.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import av

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"

_RANDOM_WEIGHTS = """
import sys, avmsnet_jax
from flax import nnx
model = avmsnet_jax.AVMSNet(avmsnet_jax.ModelConfig(depth=18, frame_size=48, trunk_width=16), rngs=nnx.Rngs(0))
avmsnet_jax.save(model, sys.argv[1])
"""


def commands(place: Path) -> list[list[str]]:
    """The commands, in order; they write to the folder `place`."""
    films, records, run = f"{place}/films", f"{place}/records", f"{place}/run"
    demo = ["--config=configs/demo.py", f"--config.data.dir={records}"]
    found = [
        ["-m", "avmsnet_jax.toy", f"--output={films}"],
        ["prepare_data.py", "--dataset=movies", f"--source={films}", f"--output={records}", "--frame_size=48"],
        ["train.py", *demo, f"--workdir={run}", "--config.train.epochs=1"],
        ["eval.py", *demo, f"--checkpoint={run}", f"--output={place}/results"],
        ["convert_weights.py", f"--checkpoint={run}", f"--export={place}/run.safetensors"],
        ["convert_weights.py", f"--source={place}/run.safetensors", f"--output={place}/converted"],
        ["summarize.py", f"{films}/test", f"--checkpoint={run}", f"--output={place}/summaries"],
        ["-c", _RANDOM_WEIGHTS, f"{place}/random"],
    ]
    if SHARED.exists():
        bunny = SHARED / "big_buck_bunny"
        found += [
            ["prepare_data.py", "--dataset=movies", f"--source={bunny}", f"--output={place}/bunny"],
            ["summarize.py", str(bunny), f"--checkpoint={place}/random", f"--output={place}/summaries"],
            ["eval.py", f"--annotations={SHARED}/tvsum/ydata-tvsum50.mat", f"--output={place}/tvsum"],
            ["eval.py", f"--annotations={SHARED}/summe", f"--output={place}/summe"],
        ]
    return found


def run_all(code: Path, place: Path) -> None:
    """Runs the commands that have not finished in `place` yet, with the package in `code`."""
    place.mkdir(parents=True, exist_ok=True)
    for number, command in enumerate(commands(place)):
        done = place / f"{number}.done"
        if done.exists():
            continue
        print(f"{code.name}: {' '.join(part for part in command if chr(10) not in part)}", flush=True)
        environment = os.environ | {"PYTHONPATH": str(code)}
        subprocess.run([sys.executable, *command], cwd=code, env=environment, check=True, stdout=subprocess.DEVNULL)
        done.touch()


def digests(place: Path) -> dict[str, str]:
    """A digest of each result file in `place`, by its relative path."""
    found = {}
    for path in sorted(place.rglob("*")):
        reader = next((read for ends, read in _READERS.items() if path.name.endswith(ends)), None)
        if path.is_file() and reader is not None:
            found[str(path.relative_to(place))] = reader(path)
    return found


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _of_bytes(path: Path) -> str:
    return _digest(path.read_bytes())


def _of_movie(path: Path) -> str:
    """Digest of the decoded pictures and sound; file headers differ between FFmpeg versions."""
    digest = hashlib.sha256()
    with av.open(str(path)) as container:
        for frame in container.decode(*container.streams.video, *container.streams.audio):
            digest.update(frame.to_ndarray().tobytes())
    return digest.hexdigest()[:16]


def _of_rows(path: Path) -> str:
    """Digest of the columns that all versions write."""
    with open(path, newline="") as file:
        rows = [{name: row.get(name) for name in ("frame", "time_s", "score", "label")} for row in csv.DictReader(file)]
    return _digest(json.dumps(rows).encode())


def _of_log(path: Path) -> str:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return _digest(json.dumps([[row["step"], row.get("loss"), row.get("grad_norm")] for row in rows]).encode())


def _of_shots(path: Path) -> str:
    return _digest(json.dumps(json.loads(path.read_text())["shots"]).encode())


def _of_metrics(path: Path) -> str:
    """Digest of the numbers only; texts may differ."""

    def numbers(value: object) -> object:
        if isinstance(value, dict):
            return {name: numbers(each) for name, each in value.items()}
        if isinstance(value, list):
            return [numbers(each) for each in value]
        return value if isinstance(value, int | float) else None

    return _digest(json.dumps(numbers(json.loads(path.read_text())), sort_keys=True).encode())


_READERS: dict[str, Callable[[Path], str]] = {
    ".mp4": _of_movie,
    ".csv": _of_rows,
    "metrics.jsonl": _of_log,
    "summary.json": _of_shots,
    "metrics.json": _of_metrics,
    ".safetensors": _of_bytes,
    ".npz": _of_bytes,
    **{f".array_record-{shard:05d}-of-{count:05d}": _of_bytes for count in range(1, 20) for shard in range(count)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the version to compare with")
    parser.add_argument("--work", type=Path, required=True, help="folder for the results of both versions")
    options = parser.parse_args()
    name = subprocess.run(
        ["git", "rev-parse", "--short", options.commit], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    code = options.work.resolve() / f"code_{name}"
    if not code.exists():
        archive = subprocess.run(["git", "archive", name], cwd=ROOT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(code, filter="data")
    before, now = (options.work.resolve() / place for place in (f"gave_{name}", "gives"))
    run_all(code, before)
    run_all(ROOT, now)
    old, new = digests(before), digests(now)
    different = [path for path in old if new.get(path) != old[path]]
    for path in different:
        print(f"DIFFERENT: {path}" + ("" if path in new else " (gone)"))
    print(f"{len(old) - len(different)} of {len(old)} results are the same; {len(new.keys() - old.keys())} are new")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
