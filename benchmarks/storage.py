"""What a store costs a training run: the same work in a local folder and on emulators of GCS and S3, in turns.

    python -m benchmarks.storage [--rounds=3]

Trains the demo's network, without sound, on toy movies for two epochs with a checkpoint after each, then resumes for
two more; records and working directory lie in the same place. Prints one line of JSON: the median seconds of each part,
and their ratio to a local folder's. The emulators (gcp-storage-emulator, moto) answer on loopback from another process,
so that the figures show what this package adds, not what a network or a cloud does. Needs the extras `gcs`, `s3` and
`test`.
"""

import argparse
import concurrent.futures
import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from avmsnet_jax import config, storage
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.toy import movies
from avmsnet_jax.training.loop import train

Seconds = dict[str, float]


def seconds(place: str, records: Path, folder: Path) -> Seconds:
    """Seconds to train two epochs in `place`, a new folder or a place on a store, and to resume for two more."""
    if storage.is_remote(place):
        storage.upload(records, f"{place}/records")
    else:
        shutil.copytree(records, f"{place}/records")
    settings = config.load("demo").replace(
        model={"frames": 8, "frame_size": 32, "audiovisual": False},
        data={"dir": f"{place}/records", "cache": tempfile.mkdtemp(dir=folder)},
        train={"batch_size": 4, "checkpoint_every_epochs": 1},
    )
    found = {}
    for name, epochs in (("train", 2), ("resume", 4)):
        began = time.perf_counter()
        train(settings.replace(train={"epochs": epochs}), f"{place}/run")
        found[name] = time.perf_counter() - began
    return found


def in_turns(places: dict[str, str], rounds: int) -> dict[str, list[Seconds]]:
    """The seconds of each place and round, after a round that only compiles."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        folder = Path(name)
        movies.render(folder / "films", films=4, seconds=12, seed=0)
        prepare("movies", folder / "films", folder / "records", frames=8, frame_size=32)
        found: dict[str, list[Seconds]] = {place: [] for place in places}
        for count, place in itertools.product(range(rounds + 1), places):
            found[place].append(seconds(f"{places[place] or folder}/round{count}", folder / "records", folder))
        return {place: each[1:] for place, each in found.items()}


def main() -> None:
    """Starts the emulators, measures in another process, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    from tests import stores

    served = [stores.serve(scheme, "benchmark") for scheme in ("gs", "s3")]
    for store in served:
        os.environ |= store.environment
    os.environ["STORAGE_EMULATOR_HOST"] = served[0].environment["STORAGE_EMULATOR_HOST"]
    places = {"folder": "", "gs": served[0].url, "s3": served[1].url}
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as process:
        found = process.submit(in_turns, places, arguments.rounds).result()
    for store in served:
        store.close()
    medians = {
        place: {part: statistics.median(each[part] for each in rounds) for part in rounds[0]}
        for place, rounds in found.items()
    }
    facts = {
        f"{part}, {place}": {"seconds": round(value, 2), "ratio": round(value / medians["folder"][part], 2)}
        for place, parts in medians.items()
        for part, value in parts.items()
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
