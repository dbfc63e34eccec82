"""How well the attention scorer, and each of its signals, finds known key shots, compared with chance.

    python -m benchmarks.attention demo/films          # train/ and test/ with FILM.keyshots.csv beside each film
    python -m benchmarks.attention film.mp4 --keyshots=keyshots.csv [--keyshots=another_films.csv]

Prints average precision and F over the clips of the test films, for the scores and for each signal, at the threshold
that is best on the training films (for a single film, average precision only). Baselines: a coin for each clip, and
every clip called key.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from avmsnet_jax.data.sources.movies import read_key_shots
from avmsnet_jax.evaluation import average_precision, best_threshold, precision_recall_f
from avmsnet_jax.media.films import listed
from avmsnet_jax.scoring.attention import SIGNALS, Attention
from avmsnet_jax.scoring.film import Scores, watch

_TOSSES = 200


def labels_of(scores: Scores, key_shots: Path) -> np.ndarray:
    """(N,) bool, whether the time of each clip lies in a key shot."""
    shots = read_key_shots(key_shots)
    return np.array([any(start <= time < end for start, end in shots) for time in scores.times_s])


def columns(scores: Scores) -> dict[str, np.ndarray]:
    """The scores and each signal by name."""
    return {"attention": scores.scores, **{name: scores.signals[name] for name in SIGNALS}}


def pooled(films: Sequence[Path]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The columns and labels of all clips of some films."""
    watched = [watch(film, Attention()).scores for film in films]
    labels = [labels_of(scores, film.with_suffix(".keyshots.csv")) for scores, film in zip(watched, films, strict=True)]
    found = [columns(scores) for scores in watched]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}, np.concatenate(labels)


def coin(labels: np.ndarray) -> tuple[float, float]:
    """Average precision of random scores, and F of calling each clip key by chance as often as clips are."""
    chance = np.random.default_rng(0)
    precision = statistics.fmean(average_precision(chance.random(len(labels)), labels) for _ in range(_TOSSES))
    tossed = [precision_recall_f(chance.random(len(labels)) < labels.mean(), labels).fscore for _ in range(_TOSSES)]
    return precision, statistics.fmean(tossed)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, help="a folder with train/ and test/, or a film")
    parser.add_argument("--keyshots", type=Path, action="append", default=[], help="of a film; its own, or another's")
    options = parser.parse_args()
    if options.place.is_file():
        scores = watch(options.place, Attention()).scores
        for path in options.keyshots or [options.place.with_suffix(".keyshots.csv")]:
            labels = labels_of(scores, path)
            print(f"{path}: {len(labels)} clips, {labels.mean():.1%} key")
            print(f"  {'coin':10} {coin(labels)[0]:.3f}")
            for name, values in columns(scores).items():
                print(f"  {name:10} {average_precision(values, labels):.3f}")
        return
    train, test = (pooled(listed([options.place / split])) for split in ("train", "test"))
    print(f"{len(test[1])} clips of test films, {test[1].mean():.1%} key\n            AP     F")
    print(f"{'coin':10} {coin(test[1])[0]:.3f} {coin(test[1])[1]:.3f}")
    print(f"{'all':10}     - {precision_recall_f(np.ones(len(test[1]), bool), test[1]).fscore:.3f}")
    for name, values in test[0].items():
        threshold = best_threshold(train[0][name], train[1])[0]
        fscore = precision_recall_f(values >= threshold, test[1]).fscore
        print(f"{name:10} {average_precision(values, test[1]):.3f} {fscore:.3f}")


if __name__ == "__main__":
    main()
