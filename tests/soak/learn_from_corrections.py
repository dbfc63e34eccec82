"""From films without labels to a network: summaries by attention, corrected by a person, are what it is trained on.

    python -m tests.soak.learn_from_corrections [--films=12] [--seconds=40] [--epochs=8] [--keep=FOLDER]

Renders toy movies and hides the key shots of those for training. Summarizes them by attention, corrects each cut as a
person would who knows the key shots, and trains a network on the corrected cuts; for comparison also one on the cuts
as attention made them. Prints the figures of each step on the test films, whose key shots are known.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from avmsnet_jax.config import Config, DataConfig, load
from avmsnet_jax.data import pipeline
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.data.sources.movies import read_key_shots
from avmsnet_jax.evaluation import average_precision, best_threshold, precision_recall_f
from avmsnet_jax.media.films import listed
from avmsnet_jax.scoring.attention import Attention
from avmsnet_jax.scoring.film import watch
from avmsnet_jax.scoring.network import Network
from avmsnet_jax.scoring.records import score_split
from avmsnet_jax.summarization import cutlist, reviewed
from avmsnet_jax.summarization.cutlist import CUT, CutList, CutShot
from avmsnet_jax.summarization.run import summarize
from avmsnet_jax.toy import movies
from avmsnet_jax.training.loop import train

Spans = Sequence[tuple[float, float]]
SUMMARIZE = {"budget": "0.2", "shortest_shot_s": 1.0, "longest_shot_s": 2.0}  # a fifth of a toy movie is key


def corrected(cut: CutList, key_shots: Spans) -> CutList:
    """The cut of someone who keeps the key shots, to the frame, drops the rest, and marks it as looked through."""
    rate, n_frames = float(cut.rate), cut.film["n_frames"]
    spans = [(round(start * rate), round(end * rate)) for start, end in key_shots]
    edges = sorted({0, n_frames, *itertools.chain.from_iterable(spans)})
    shots = tuple(
        CutShot(first + 1, stop, 0.5, "kept" if any(a <= first < b for a, b in spans) else "dropped")
        for first, stop in itertools.pairwise(edges)
    )
    return dataclasses.replace(cut, shots=shots, reviewed=True)


def make_cuts(films: Path, summaries: Path) -> None:
    """Summarizes the training films by attention."""
    config = Config().replace(summarize=SUMMARIZE)
    outcomes = summarize([films / "train"], "", summaries, config)
    assert not any(outcome.error for outcome in outcomes), outcomes


def look_through(films: Path, summaries: Path, truth: dict[str, Spans] | None) -> float:
    """Corrects all cuts by the truth (None = leaves them as they are) and marks them as looked through.

    Returns:
      F of what the cuts show, over the frames of all films.
    """
    shown, wanted = [], []
    for film in listed([films / "train"]):
        cut = cutlist.read(summaries / film.stem / CUT, film)
        cut = dataclasses.replace(cut, reviewed=True) if truth is None else corrected(cut, truth[film.stem])
        cutlist.write(cut, summaries / film.stem)
        shown.append(np.concatenate([np.full(s.last_frame - s.first_frame + 1, s.shown) for s in cut.shots]))
    for film, frames in zip(listed([films / "train"]), shown, strict=True):
        times = np.arange(len(frames)) / 25
        spans = read_key_shots(movies.key_shots_path(film).with_suffix(".truth"))
        wanted.append(np.any([(start <= times) & (times < end) for start, end in spans], axis=0))
    return precision_recall_f(np.concatenate(shown), np.concatenate(wanted)).fscore


def hide_labels(films: Path) -> dict[str, Spans]:
    """Renames the key shots of the training films, so that no command finds them, and returns them."""
    truth = {}
    for film in listed([films / "train"]):
        table = movies.key_shots_path(film)
        truth[film.stem] = read_key_shots(table)
        table.rename(table.with_suffix(".truth"))
    return truth


def by_attention(films: Path) -> tuple[float, float]:
    """Average precision and F of attention's scores on the test films, at the best threshold there."""
    scores, labels = [], []
    for film in listed([films / "test"]):
        found = watch(film, Attention()).scores
        spans = read_key_shots(movies.key_shots_path(film))
        scores.append(found.scores)
        labels.append([any(start <= time < end for start, end in spans) for time in found.times_s])
    return _figures(np.concatenate(scores), np.concatenate(labels))


def by_training(films: Path, summaries: Path, folder: Path, config: Config) -> tuple[float, float]:
    """Average precision and F of a network trained on the cuts, on the test films."""
    elsewhere = functools.partial(reviewed.key_shots, summaries)
    records = folder / "records"
    prepare("movies", films, records, frame_size=config.model.frame_size, elsewhere=elsewhere, workers=2)
    config = dataclasses.replace(config, data=DataConfig(dir=str(records), threads=2))
    train(config, folder / "run")
    network = Network.load(str(folder / "run"), config.mesh, config.eval.batch_size)
    rows = score_split(config, network, pipeline.open_split(records, "test", network))
    return _figures(np.array([row["score"] for row in rows]), np.array([row["label"] for row in rows]))


def _figures(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    threshold = best_threshold(scores, labels)[0]
    return average_precision(scores, labels), precision_recall_f(scores >= threshold, labels).fscore


def learn(folder: Path, *, films: int, seconds: int, epochs: int) -> dict[str, float]:
    """Goes through all steps in a folder.

    Args:
      folder: for films, summaries, records and runs.
      films: number of toy movies, a quarter of them test films.
      seconds: length of each.
      epochs: of training.

    Returns:
      the figures of each step by name.
    """
    config = load("demo").replace(
        model={"frame_size": 32}, train={"epochs": epochs, "checkpoint_every_epochs": epochs, "batch_size": 16}
    )
    place, summaries = folder / "films", folder / "summaries"
    movies.render(place, films=films, seconds=seconds, seed=0)
    truth = hide_labels(place)
    figures = dict(zip(("attention AP", "attention F"), by_attention(place), strict=True))
    make_cuts(place, summaries)
    figures["cuts by attention, F"] = look_through(place, summaries, None)
    found = by_training(place, summaries, folder / "uncorrected", config)
    figures |= dict(zip(("uncorrected AP", "uncorrected F"), found, strict=True))
    figures["corrected cuts, F"] = look_through(place, summaries, truth)
    found = by_training(place, summaries, folder / "corrected", config)
    return figures | dict(zip(("corrected AP", "corrected F"), found, strict=True))


def main() -> None:
    """Prints the figures as JSON; fails if the network is no better than attention."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--keep", type=Path, help="an empty folder to leave everything in")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp())
    try:
        figures = learn(folder, films=arguments.films, seconds=arguments.seconds, epochs=arguments.epochs)
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=1))
    assert figures["corrected AP"] > figures["attention AP"], figures


if __name__ == "__main__":
    main()
