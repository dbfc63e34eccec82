"""watched.npz: the analysis of a film, stored with its summary so that another cut needs no second pass."""

import dataclasses
import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from avmsnet_jax import array_file
from avmsnet_jax.errors import UserError
from avmsnet_jax.media.timecode import Timecode
from avmsnet_jax.scoring.film import Scores, Watched

WATCHED = "watched.npz"
FORMAT = 2  # increase it when the file format or the analysis changes
_PIECES, _PIECE_BYTES = 32, 2**18  # sampled from a film for its fingerprint
_BY_FRAME = ("times_s", "stamps_s", "change", "loudness")
_BY_CLIP = ("frames", "times_s", "scores", "features", "localization")


@dataclasses.dataclass(frozen=True)
class Kept:
    """The analysis of a film, and how it was made.

    Attributes:
      watched: the analysis.
      scorer: name, learned_from_people, spacing_s, clip_frames, as in `cut.json`.
      film_key: fingerprint of the film.
      scorer_key: fingerprint of the scorer, its versions and the spacing; empty if the scorer has none.
    """

    watched: Watched
    scorer: dict[str, Any]
    film_key: str
    scorer_key: str


def film_key(film: Path) -> str:
    """A fingerprint of a film's content: of its size and of evenly spaced pieces."""
    size = film.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(film, "rb") as file:
        for number in range(_PIECES):
            file.seek(max(size - _PIECE_BYTES, 0) * number // (_PIECES - 1))
            digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()


def write(kept: Kept, path: Path) -> None:
    """Writes the file, unless the film is so long that `read` would refuse it."""
    watched, scores = kept.watched, kept.watched.scores
    ends = np.cumsum([len(picture) for picture in scores.thumbnails])
    facts = {
        "format": FORMAT,
        "film_key": kept.film_key,
        "scorer_key": kept.scorer_key,
        "scorer": kept.scorer,
        "rate": str(watched.rate),
        "pixel_aspect": str(watched.pixel_aspect),
        "interlaced": watched.interlaced,
        "timecode": dataclasses.asdict(watched.timecode),
        "scores": {
            name: getattr(scores, name) for name in ("duration_s", "fps", "n_frames", "width", "height", "has_sound")
        },
        "signals": list(scores.signals),
    }
    arrays = {
        "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
        "thumbnails": np.frombuffer(b"".join(scores.thumbnails), np.uint8),
        "thumbnail_ends": ends,
        **{f"film_{name}": getattr(watched, name) for name in _BY_FRAME},
        **{f"clip_{name}": getattr(scores, name) for name in _BY_CLIP},
        **{f"attention_{number}": maps for number, maps in enumerate(scores.attention)},
        **{f"signal_{number}": levels for number, levels in enumerate(scores.signals.values())},
    }
    if sum(array.nbytes for array in arrays.values()) <= 0.99 * array_file.MOST_BYTES:
        np.savez(path, **arrays)


def read(path: Path, film: Path, key: str) -> Kept | None:
    """Reads the file; None if it is missing, damaged, or of another film or format.

    Args:
      path: the file.
      film: the film.
      key: its `film_key`.
    """
    try:
        arrays = array_file.read_npz(path, "remove it")
        facts = json.loads(arrays["facts"].tobytes())
        if facts["format"] != FORMAT or facts["film_key"] != key:
            return None
        watched = _watched(facts, {name: array.copy() for name, array in arrays.items()}, film)
        _check(watched)
        scorer, counted = facts["scorer"], watched.timecode
        typed = {
            bool: (watched.interlaced, watched.scores.has_sound, counted.drop, scorer["learned_from_people"]),
            int: (counted.start, counted.base, scorer["clip_frames"]),
            float: (float(scorer["spacing_s"]),),
            str: (scorer["name"], facts["scorer_key"]),
        }
        if not all(isinstance(value, kind) for kind, values in typed.items() for value in values):
            return None
        return Kept(watched, facts["scorer"], key, facts["scorer_key"])
    except (UserError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None


def _watched(facts: dict[str, Any], arrays: dict[str, np.ndarray], film: Path) -> Watched:
    pictures, ends = arrays["thumbnails"].tobytes(), arrays["thumbnail_ends"].tolist()
    by_clip: dict[str, Any] = {name: arrays[f"clip_{name}"] for name in _BY_CLIP}
    scores = Scores(
        film=film,
        **facts["scores"],
        **by_clip,
        attention=tuple(
            arrays[f"attention_{number}"] for number in range(sum("attention_" in name for name in arrays))
        ),
        thumbnails=[pictures[first:stop] for first, stop in zip([0, *ends], ends, strict=False)],
        signals={name: arrays[f"signal_{number}"] for number, name in enumerate(facts["signals"])},
    )
    return Watched(
        scores=scores,
        rate=Fraction(facts["rate"]),
        **{name: arrays[f"film_{name}"] for name in _BY_FRAME},
        pixel_aspect=Fraction(facts["pixel_aspect"]),
        interlaced=facts["interlaced"],
        timecode=Timecode(**facts["timecode"]),
    )


def _check(watched: Watched) -> None:
    """Raises ValueError if the arrays of a file do not fit together, as in a forged file."""
    scores, times_s = watched.scores, watched.times_s
    by_clip = (scores.times_s, scores.scores, scores.features, scores.localization)
    clips, frames = len(scores.frames), len(times_s)
    positive: list[Any] = [scores.duration_s, scores.fps, scores.n_frames, scores.width, scores.height]
    positive += [watched.rate, watched.pixel_aspect, watched.timecode.base]
    fits = (
        0 < min(positive) <= max(positive) < 1e12
        and clips > 0
        and frames > 0
        and len(scores.thumbnails) == clips
        and all(len(part) == clips for part in (*by_clip, *scores.attention, *scores.signals.values()))
        and all(maps.ndim == 3 for maps in (*scores.attention, scores.localization))
        and (scores.features.ndim, len(watched.stamps_s), len(watched.change)) == (2, frames, scores.n_frames)
        and all(array.ndim == 1 for array in (scores.frames, scores.times_s, scores.scores, times_s, watched.loudness))
        and bool(np.isfinite(times_s).all() and (np.diff(times_s) >= 0).all() and np.isfinite(scores.scores).all())
        and 1 <= scores.frames.min() <= scores.frames.max() <= scores.n_frames
        and bool((np.diff(scores.frames) > 0).all())
    )
    if not fits:
        raise ValueError("its arrays do not fit together")
