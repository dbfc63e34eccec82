"""A scorer without weights, which predicts what draws human attention by formulas from the literature.

The scores are not learned from people. A clip's score is the mean of its ranks within the film in five signals:

    motion     moving objects, as opposed to a moving camera (Ma, Lu, Zhang, Li, A user attention model for video
               summarization, ACM MM 2002)
    sound      loudness (Ma et al.) and Teager energy (Evangelopoulos et al., Multimodal saliency and fusion for movie
               summarization, IEEE TMM 2013)
    picture    visual saliency (Hou and Zhang, Saliency detection: a spectral residual approach,
               CVPR 2007)
    novelty    dissimilarity to the most similar clips and to most of the film (Pang et al., Contrastive losses are
               natural criteria for unsupervised video summarization, WACV 2023)
    agreement  simultaneous onsets of motion and sound

times a quality factor, which is low for black, blurred and uniform pictures, and for dissolves. Opening and end credits
score 0. Every signal is relative to the film, so a change of volume does not change the order of clips; a brighter or
mirrored picture can exchange clips of nearly equal scores. If SoundNet's weights are given, its features are used for
novelty and for finding shots, too.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import cv2
import numpy as np

from avmsnet_jax.data.clips import Clip
from avmsnet_jax.errors import UserError
from avmsnet_jax.media.frame import Frame
from avmsnet_jax.ranks import mean_ranks
from avmsnet_jax.scoring import credits, picture, sound
from avmsnet_jax.scoring.scorer import ClipScores, Measured

SIGNALS = ("motion", "sound", "picture", "novelty", "agreement")

_SURROUNDINGS_S = 10.0  # seconds on each side of a clip that its onsets are compared with
_NEAREST = 0.1  # share of the clips, the most similar ones, for local dissimilarity
_MOST_FAULTY = 0.15  # largest share of a film's clips whose score one fault lowers
_CHUNK = 256  # clips whose distances to all others are computed at once


class Attention:
    """A `Scorer` without weights. It is deterministic, and keeps about 9 kB per clip.

    Attributes:
      frames: frames of a clip.
      frame_size: height and width of a clip's frames, pixels.
      batch_size: most clips in a call of `measure`.
      soundnet: a checkpoint whose SoundNet describes the sound, as `avmsnet_jax.load` takes it; empty = none.
    """

    name: Literal["attention"] = "attention"
    learned_from_people = False

    def __init__(self, frames: int = 16, frame_size: int = 112, batch_size: int = 8, *, soundnet: str = ""):
        self.frames, self.frame_size, self.batch_size, self.soundnet = frames, frame_size, batch_size, soundnet

    def picture(self, frame: Frame, size: int) -> np.ndarray:
        """Scales a frame in one step, in a tenth of the time of a network's two steps."""
        picture = frame.scaled(size, size)
        return cv2.merge([picture[..., color] for color in range(3)])

    def measure(self, batch: Sequence[Clip]) -> Measured:
        """Measures each clip independently; see `picture.measure` and `sound.measure`.

        Raises:
          UserError: `soundnet` is not a checkpoint, or has no SoundNet.
        """
        rows = [self._measured(clip) for clip in batch]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _measured(self, clip: Clip) -> dict[str, np.ndarray]:
        rate = (clip.frame - 1) / clip.time_s if clip.time_s > 0 else 25.0
        return {
            "time_s": np.asarray(clip.time_s),
            "has_sound": np.asarray(clip.has_sound),
            **picture.measure(clip.clip),
            **credits.measure(clip.clip),
            **sound.measure(clip.sound, rate, self.frames),
            **({"soundnet": _soundnet(self.soundnet)(clip.sound)} if self.soundnet else {}),
        }

    def finish(self, measured: Measured) -> ClipScores:
        """Ranks the clips within the film."""
        groups = _groups(measured)
        signals = {
            "motion": _motion(measured),
            "picture": measured["saliency"],
            "novelty": np.mean([_novelty(group) for group in groups], axis=0),
        }
        if measured["has_sound"].any():
            signals |= {"sound": _sound(measured), "agreement": _agreement(measured)}
        ranks = {name: _ranks(values) for name, values in signals.items()}
        scores = np.mean([*ranks.values()], axis=0) * _quality(measured) * ~credits.found(measured)
        silent = np.zeros(len(scores), np.float32)
        return ClipScores(
            scores=scores.astype(np.float32),
            features=np.concatenate(groups, axis=1),
            attention=(measured["attention"],),
            localization=_localization(measured),
            signals={name: ranks.get(name, silent) for name in SIGNALS},
        )


@functools.lru_cache(maxsize=1)
def _soundnet(directory: str) -> Callable[[np.ndarray], np.ndarray]:
    """SoundNet's features (1024,) float32 of a clip's sound."""
    import jax  # imported here, because it takes seconds, and scores without SoundNet do not need it
    from flax import nnx

    from avmsnet_jax.weights import checkpoint

    model = checkpoint.load(directory, finite=True)
    if not model.config.audiovisual:
        raise UserError(f"{directory} is a visual-only network without SoundNet; give an audio-visual one")
    graphdef, state = nnx.split(model.soundnet)
    forward = jax.jit(lambda state, audio: nnx.merge(graphdef, state)(audio))
    # One clip at a time, so that the result does not depend on the other clips of a batch.
    return lambda audio: np.asarray(forward(state, audio[None]))[0]


def _ranks(values: np.ndarray) -> np.ndarray:
    """(N,) float32: ranks scaled to 0-1; ties share the mean of their ranks, so a constant signal gives 0.5."""
    values = np.round(values.astype(np.float64), 9)  # equal clips differ by rounding
    if len(values) == 1:
        return np.full(1, 0.5, np.float32)
    return ((mean_ranks(values) - 1) / (len(values) - 1)).astype(np.float32)


def _motion(measured: Measured) -> np.ndarray:
    """Ma et al.'s I * Ct * (1 - I * Cs), averaged over blocks; I is relative to the film's 95th percentile."""
    lengths = measured["flow_length"].astype(np.float64)  # (N, blocks)
    moving = lengths[lengths > 0]
    most = np.percentile(moving, 95) if len(moving) else 0.0
    if most <= 0:
        return np.zeros(len(lengths))
    intensity = np.minimum(lengths / most, 1)
    over_time, around = measured["flow_entropy"].astype(np.float64), measured["flow_entropy_around"].astype(np.float64)
    return (intensity * over_time * (1 - intensity * around)).mean(axis=1)


def _sound(measured: Measured) -> np.ndarray:
    """The mean of loudness and Teager energy, each relative to the film's maximum."""
    envelope = np.square(measured["envelope"].astype(np.float64))  # (N, frames), short-time energy
    mean, peak, teager = envelope.mean(axis=1), envelope.max(axis=1), measured["teager"].astype(np.float64)
    loudness = _over_largest(mean) * _over_largest(peak)
    return (loudness + _over_largest(teager)) / 2


def _over_largest(values: np.ndarray) -> np.ndarray:
    return values / values.max() if values.max() > 0 else np.zeros(len(values))


def _groups(measured: Measured) -> list[np.ndarray]:
    """Colors, edges, timbre and SoundNet's features if measured: (N, C) float32 each, centered, with equal variance.

    Near silence, sound features describe noise, so they are scaled by the loudness of the clip.
    """
    loudness = measured["envelope"].astype(np.float64).mean(axis=1)
    loud_clip = float(np.percentile(loudness, 95))
    relative_loudness = np.minimum(loudness / loud_clip, 1) if loud_clip > 0 else np.zeros(len(loudness))
    sounds = [measured[name] for name in ("timbre", "soundnet") if name in measured]
    sounds = [(values - np.median(values, axis=0)) * relative_loudness[:, None] for values in sounds]
    groups = []
    for group in (measured["colors"], measured["edges"], *sounds):
        values = group.astype(np.float32)
        values = values - values.mean(axis=0)
        scale = float(np.sqrt(np.square(values).sum(axis=1).mean()))
        groups.append(values / scale if scale > 1e-6 else np.zeros_like(values))
    return groups


def _novelty(features: np.ndarray) -> np.ndarray:
    """(N,): local dissimilarity times global uniqueness, each scaled to 0-1 within the film."""
    count = len(features)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(norms, 1e-12)
    nearest = max(round(_NEAREST * count), 1)
    local, alike = np.zeros(count), np.zeros(count)
    for first in range(0, count, _CHUNK):
        chunk = slice(first, first + _CHUNK)
        distances = np.maximum(2 - 2 * (unit[chunk] @ unit.T), 0).astype(np.float64)
        alike[chunk] = np.log(np.exp(-2 * distances).mean(axis=1))
        # Exclude the clip itself.
        distances[np.arange(len(distances)), np.arange(first, first + len(distances))] = np.inf
        if count > 1:
            part = min(nearest, count - 1)
            local[chunk] = np.partition(distances, part - 1, axis=1)[:, :part].mean(axis=1)
    return _to_unit(local) * (1 - _to_unit(alike))


def _to_unit(values: np.ndarray) -> np.ndarray:
    spread = np.ptp(values)
    return (values - values.min()) / spread if spread > 1e-9 else np.zeros(len(values))


def _agreement(measured: Measured) -> np.ndarray:
    """The largest product, over the instants of a clip, of a rise of the sound and an abrupt movement.

    A movement is abrupt if something begins to move, appears, or turns. Sound and movement are measured in standard
    deviations above their mean within ±10 s. They may be one frame apart, because films are not synchronized more
    precisely.
    """
    times = measured["time_s"]
    sound_onsets = _standing_out(np.diff(measured["envelope"].astype(np.float64), axis=1), times)
    motion_onsets = _standing_out(np.maximum(measured["begins"], measured["turns"]).astype(np.float64), times)
    near = np.maximum(motion_onsets, np.maximum(np.roll(motion_onsets, 1, axis=1), np.roll(motion_onsets, -1, axis=1)))
    return (sound_onsets * near).max(axis=1)


def _standing_out(rises: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """(N, T): each rise in standard deviations above the mean of those around it; falls and smaller rises are 0."""
    rises = np.maximum(rises, 0)
    first = np.searchsorted(times_s, times_s - _SURROUNDINGS_S, side="left")
    last = np.searchsorted(times_s, times_s + _SURROUNDINGS_S, side="right")
    sums, squares = (np.concatenate([[0.0], np.cumsum(each.sum(axis=1))]) for each in (rises, np.square(rises)))
    count = (last - first) * rises.shape[1]
    mean = (sums[last] - sums[first]) / count
    spread = np.sqrt(np.maximum((squares[last] - squares[first]) / count - mean**2, 0))
    largest = rises.max() if rises.size else 0.0
    spread = np.where(spread > 1e-6 * largest, spread, np.inf)  # nothing stands out if all rises are equal
    return np.maximum((rises - mean[:, None]) / spread[:, None], 0)


def _localization(measured: Measured) -> np.ndarray:
    """(N, h, w) float16: correlation of each cell's movement with the sound, over a clip and its neighbors."""
    movement, envelope = measured["movement"], measured["envelope"][:, 1:]
    count, _, height, width = movement.shape
    found = np.zeros((count, height, width), np.float16)
    for index in range(count):
        near = slice(max(index - 1, 0), index + 2)
        level = envelope[near].astype(np.float64).ravel()
        moved = movement[near].astype(np.float64).reshape(len(level), -1)
        level, moved = level - level.mean(), moved - moved.mean(axis=0)
        scale = np.linalg.norm(level) * np.linalg.norm(moved, axis=0)
        # Weighted by the amount of movement, because cells that hardly move correlate by chance.
        weight = np.linalg.norm(moved, axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.where(scale > 1e-9, level @ moved / scale, 0)
            share = weight / weight.max() if weight.max() > 0 else weight
        found[index] = (np.maximum(correlation, 0) * np.sqrt(share)).reshape(height, width)
    return found


# Thresholds and the largest share of faulty clips as in hecate (Song et al., To click or not to click, CIKM 2016).
_FAULTS: Mapping[str, tuple[float, float]] = {  # measure: (no fault from here on, useless from here on)
    "brightness": (0.075, 0.04),
    "sharpness": (0.08, 0.04),
    "uniformity": (0.80, 0.92),
    "dissolve": (0.35, 0.2),
}


def _quality(measured: Measured) -> np.ndarray:
    """(N,) in 0-1: 1 for a picture without faults, 0 for a useless one.

    A fault lowers only the worst clips, because a fault of many clips is the look of the film. Clips with equal
    measures are lowered together; if all are equal, none is.
    """
    factor = np.ones(len(measured["time_s"]))
    for name, (right, wrong) in _FAULTS.items():
        level = (measured[name].astype(np.float64) - wrong) / (right - wrong)
        worse = np.searchsorted(np.sort(level), level) / len(level)  # share of the clips that are worse
        if np.ptp(level) > 0:
            factor *= np.where(worse < _MOST_FAULTY, np.clip(level, 0, 1), 1)
    return factor


cv2.setNumThreads(1)  # other threads decode the film at the same time
