"""One real film, both ways in: as a film with key shots, and as the published layout made from it.

    python benchmarks/real_film.py --film film.mp4 --keyshots keyshots.csv --workdir DIR

Prepares the film with `--dataset movies`; then writes it out as the published layout, once with lossless
frames and once as JPEG of quality 95, and prepares these with `--dataset movie50`. All fields but the pixels must be
the same. The pixels are not quite: of a film FFmpeg's scaler makes 320x240, of the published layout Pillow, as
published. With lossless frames they must agree to half a level on average; the JPEG layout shows what that format
costs. What is written goes to DIR and is removed at the end, save the records of the film, DIR/movies.

Leaves with status 1 if a record differs.
"""

import argparse
import csv
import itertools
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import scipy.io.wavfile
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from avmsnet_jax.data import MANIFEST
from avmsnet_jax.data.pipeline import Record, open_split
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.data.sources.movies import Film, read_key_shots
from avmsnet_jax.media.audio import SAMPLE_RATE
from avmsnet_jax.media.movie import Movie

CLOSE = 0.5  # levels of 255: the mean difference of pixels that two scalers may make


def write_published_layout(film: Film, root: Path, save: Callable[[Image.Image, Path], None]) -> int:
    """Writes a film as the published layout, all of it for training; returns how many frames there are."""
    frames = root / "video_frames" / "Movie50" / film.name
    sound = root / "video_audio" / "Movie50" / film.name
    labels = root / "annotations" / "Movie50" / film.name
    lists = root / "fold_lists"
    for folder in (frames, sound, labels, lists):
        folder.mkdir(parents=True)
    count = 0
    for frame in Movie(film.path).frames(constant_rate=True):
        save(Image.fromarray(frame.rgb()), frames / f"{frame.number}.jpg")
        count = frame.number
    waveform = Movie(film.path).whole_waveform()
    if waveform is not None:
        scipy.io.wavfile.write(sound / f"{film.name}.wav", SAMPLE_RATE, waveform)
    with open(labels / f"{film.name}.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            (number, film.label(number, (number - 1) / film.fps)) for number in range(1, count + 1)
        )
    (lists / "Movie50_list_train_fps.txt").write_text(f"{film.name} {count} {film.fps!r}\n")
    (lists / "Movie50_list_test_fps.txt").write_text("")
    return count


def save_lossless(image: Image.Image, path: Path) -> None:
    """As PNG, whatever the name says: Pillow opens a file by its content."""
    image.save(path, "PNG", compress_level=1)


def save_jpeg(image: Image.Image, path: Path) -> None:
    """As JPEG of quality 95 with Pillow's default chroma subsampling."""
    image.save(path, "JPEG", quality=95)


def records_of(directory: Path) -> Iterator[Record]:
    """Every record of a data set of one film, by time: the test split is its end."""
    splits = json.loads((directory / MANIFEST).read_text())["splits"]
    return itertools.chain.from_iterable(open_split(directory, split) for split in splits)


def compare(a: Path, b: Path) -> tuple[dict[str, int], dict[str, float]]:
    """Compares two data sets of one film.

    Returns:
      in how many records each field differs (`records`: how many only one side has), and the difference of the pixels.
    """
    differing, absolute, squared, largest = {"records": 0}, [], [], 0
    for ours, theirs in itertools.zip_longest(records_of(a), records_of(b)):
        if ours is None or theirs is None:
            differing["records"] += 1
            continue
        for name, value in ours.items():
            differing[name] = differing.get(name, 0) + (not np.array_equal(value, theirs[name]))
        difference = np.abs(ours["clip"].astype(np.int32) - theirs["clip"])
        absolute.append(difference.mean())
        squared.append(np.square(difference).mean())
        largest = max(largest, int(difference.max()))
    psnr = round(float(10 * np.log10(255**2 / np.mean(squared))), 1) if any(squared) else math.inf
    return differing, {"mean": round(float(np.mean(absolute)), 3), "largest": largest, "PSNR in dB": psnr}


def main() -> None:
    """Prepares, compares, and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("film", "keyshots", "workdir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    source, workdir = arguments.workdir / "source", arguments.workdir
    source.mkdir(parents=True)
    copy = source / arguments.film.name
    copy.symlink_to(arguments.film.resolve())
    shutil.copyfile(arguments.keyshots, source / f"{copy.stem}.keyshots.csv")

    started, used = time.perf_counter(), time.process_time()
    manifest = prepare("movies", source, workdir / "movies")
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    splits = manifest["splits"]
    print(
        json.dumps({"seconds to prepare": round(seconds, 1), "CPU seconds": round(cpu, 1), "splits": splits}),
        flush=True,
    )
    film = Film(
        copy.stem, float(Movie(copy).info().fps), "train", copy, read_key_shots(source / f"{copy.stem}.keyshots.csv")
    )
    same = True
    for name, save in (("lossless", save_lossless), ("jpeg95", save_jpeg)):
        write_published_layout(film, workdir / name, save)
        started = time.perf_counter()
        prepare("movie50", workdir / name, workdir / f"{name}_records")
        seconds = time.perf_counter() - started
        differing, pixels = compare(workdir / "movies", workdir / f"{name}_records")
        facts = {
            "seconds to prepare": round(seconds, 1),
            "records that differ": differing,
            "difference of pixels": pixels,
        }
        print(name, json.dumps(facts), flush=True)
        same = same and not any(count for field, count in differing.items() if field != "clip")
        same = same and (name != "lossless" or pixels["mean"] < CLOSE)
        shutil.rmtree(workdir / name)
        shutil.rmtree(workdir / f"{name}_records")
    shutil.rmtree(source)
    print("the layouts give", "the same records" if same else "DIFFERENT RECORDS")
    sys.exit(not same)


if __name__ == "__main__":
    main()
