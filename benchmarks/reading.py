"""Reading records against reading frames and sound the way the published loader does, side by side.

    python benchmarks/reading.py --workdir DIR [--film film.mp4 --keyshots keyshots.csv] [--frame_height 720]

Prepares a film (without --film, a toy movie) as records, and writes its clips out as the published layout, JPEG of
quality 95. Then reads in turns, round by round: the records through `train_batches`, shuffled and flipped, in whole
batches; and the same clips as the published loader reads them, which for every clip reads the CSV again, opens 16 JPEG
files with Pillow, resizes each to 320x240 and to 112x112, and cuts the sound from a waveform in memory. That loader
gets as many processes as there are cores, and may keep its clips: no time is taken for sending them to a trainer.

Prints one line of JSON: clips a second and CPU milliseconds a clip of either side, median, least and most of the
rounds, and the ratios. DIR keeps what was prepared, for the next run.
"""

import argparse
import csv
import json
import multiprocessing
import os
import platform
import random
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from avmsnet_jax.data import clips
from avmsnet_jax.data.pipeline import Batches, Records, open_split, train_batches
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.media.audio import SAMPLE_RATE
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.toy import movies

Clips = dict[int, float]  # label by center


def prepare_records(film: Path | None, keyshots: Path | None, workdir: Path) -> Path:
    """Prepares the film in `workdir` unless that is done; returns where it lies."""
    source = workdir / "source"
    if not (workdir / "records").exists():
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        if film is None:
            movies.render(workdir / "toys", films=2, seconds=120, seed=0)
            film = next((workdir / "toys" / "train").glob("*.mp4"))
            keyshots = film.with_name(f"{film.stem}.keyshots.csv")
        (source / film.name).symlink_to(film.resolve())
        if keyshots is None:
            raise SystemExit("--film needs --keyshots")
        shutil.copyfile(keyshots, source / f"{film.stem}.keyshots.csv")
        prepare("movies", source, workdir / "records", test_fraction=0)
    return next(path for path in source.iterdir() if path.suffix != ".csv")


def write_layout(film: Path, chosen: Clips, root: Path, height: int | None) -> tuple[int, int]:
    """Writes the frames of the chosen clips, the sound and the labels; returns the width and height of the frames."""
    root.mkdir()
    needed = {number for center in chosen for number in clips.frame_list(center)}
    size = (0, 0)
    for frame in Movie(film).frames():
        if frame.number in needed:
            image = Image.fromarray(frame.rgb())
            if height is not None:
                image = image.resize((round(image.width * height / image.height), height), Image.Resampling.BICUBIC)
            image.save(root / f"{frame.number}.jpg", quality=95)
            size = image.size
        if frame.number >= max(needed):
            break
    waveform = Movie(film).whole_waveform()
    np.save(root / "waveform.npy", np.zeros(0, np.float32) if waveform is None else waveform)
    with open(root / "labels.csv", "w", newline="") as file:
        rows = csv.writer(file)
        for number in range(1, Movie(film).info().frames + 1):  # as long as the film, as the published files are
            rows.writerow([number, int(any(clips.label_frame(c) == number and label for c, label in chosen.items()))])
    return size


class PublishedLoader:
    """Reads one clip at a time; see above."""

    def __init__(self, root: Path, fps: float):
        self._root = root
        self._fps = fps
        self._waveform = np.load(root / "waveform.npy")

    def sample(self, center: int) -> dict[str, Any]:
        """The clip around a frame."""
        with open(self._root / "labels.csv", newline="") as file:
            labels = {int(number): int(label) for number, label in csv.reader(file)}
        pictures = []
        for number in clips.frame_list(center):
            with Image.open(self._root / f"{number}.jpg") as image:
                picture = image.convert("RGB").resize((320, 240)).resize((112, 112), Image.Resampling.BILINEAR)
            pictures.append(picture)
        if random.random() < 0.5:
            pictures = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
        start, stop = clips.excerpt_bounds(center, self._fps, sample_rate=SAMPLE_RATE)
        return {
            "clip": np.stack([np.asarray(picture) for picture in pictures]),
            "sound": clips.sound_buffer(self._waveform[start:stop], clips.SAMPLES_PER_FRAME * 16),
            "label": np.float32(labels.get(clips.label_frame(center), 0)),
        }


def read_samples(root: Path, fps: float, centers: Sequence[int]) -> float:
    """One process's share: reads, stacks, and returns the CPU seconds that took."""
    loader = PublishedLoader(root, fps)
    used = time.process_time()
    samples = [loader.sample(center) for center in centers]
    for name in samples[0]:
        np.stack([sample[name] for sample in samples])
    return time.process_time() - used


def round_of_records(batches: Batches, batch_size: int, count: int) -> tuple[float, float]:
    """Clips a second and CPU milliseconds a clip over `count` batches."""
    started, used = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(batches)
    n = count * batch_size
    return n / (time.perf_counter() - started), 1e3 * (time.process_time() - used) / n


def round_of_files(pool: Any, processes: int, root: Path, fps: float, centers: list[int]) -> tuple[float, float]:
    """The same of the published loader."""
    started = time.perf_counter()
    used = sum(pool.starmap(read_samples, [(root, fps, centers[i::processes]) for i in range(processes)], chunksize=1))
    return len(centers) / (time.perf_counter() - started), 1e3 * used / len(centers)


def check_same(records: Records, loader: PublishedLoader, chosen: dict[int, int]) -> float:
    """The mean difference of pixels over some clips; leaves if these are not the same clips."""
    differences = []
    for center, index in list(chosen.items())[:8]:
        record, sample = records[index], loader.sample(center)
        pixels = [np.abs(record["clip"].astype(int) - x).mean() for x in (sample["clip"], sample["clip"][:, :, ::-1])]
        if min(pixels) > 4 or record["label"] != sample["label"] or not np.allclose(record["sound"], sample["sound"]):
            raise SystemExit(f"the clip around frame {center} differs from its record")
        differences.append(min(pixels))
    return float(np.mean(differences))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {name: round(f(values), 3) for name, f in (("median", statistics.median), ("least", min), ("most", max))}


def main() -> None:
    """Prepares, reads in turns, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--film", type=Path)
    parser.add_argument("--keyshots", type=Path)
    parser.add_argument("--frame_height", type=int, help="scale the JPEG frames to this; without it, the film's own")
    for name, default in (("clips", 64), ("batch_size", 64), ("threads", 4), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    film = prepare_records(arguments.film, arguments.keyshots, arguments.workdir)
    records = open_split(arguments.workdir / "records", "train")
    fps = float(Movie(film).info().fps)

    step = max(len(records) // arguments.clips, 1)
    indices = range(0, len(records), step)[: arguments.clips]
    by_frame = {
        clips.label_frame(center): center for center in clips.centers(int(records[len(records) - 1]["frame"]) + 25)
    }
    chosen = {by_frame[int(records[index]["frame"])]: index for index in indices}
    root = arguments.workdir / "published"
    shutil.rmtree(root, ignore_errors=True)
    labels = {center: float(records[index]["label"]) for center, index in chosen.items()}
    size = write_layout(film, labels, root, arguments.frame_height)
    difference = check_same(records, PublishedLoader(root, fps), chosen)

    processes = os.cpu_count() or 1
    batches = train_batches(records, batch_size=arguments.batch_size, seed=0, threads=arguments.threads)
    count = max(len(records) // arguments.batch_size, 8)
    ours, theirs = [], []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        round_of_files(pool, processes, root, fps, list(chosen))  # both once before it counts: imports, page cache
        round_of_records(batches, arguments.batch_size, count)
        for _ in range(arguments.rounds):
            centers = random.sample(list(chosen), len(chosen))
            theirs.append(round_of_files(pool, processes, root, fps, centers))
            ours.append(round_of_records(batches, arguments.batch_size, count))
    batches.close()
    facts = {
        "film": film.name,
        "cores": processes,
        "machine": platform.processor() or platform.machine(),
        "JPEG frames": f"{size[0]}x{size[1]}",
        "mean difference of pixels": round(difference, 2),
        "batch": arguments.batch_size,
        "threads": arguments.threads,
        "records, clips a second": spread([rate for rate, _ in ours]),
        "published loader, clips a second": spread([rate for rate, _ in theirs]),
        "ratio of clips a second": spread([a[0] / b[0] for a, b in zip(ours, theirs, strict=True)]),
        "records, CPU ms a clip": spread([cpu for _, cpu in ours]),
        "published loader, CPU ms a clip": spread([cpu for _, cpu in theirs]),
        "ratio of CPU time": spread([b[1] / a[1] for a, b in zip(ours, theirs, strict=True)]),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
