"""What the attention scorer measures of a clip's sound."""

import functools

import librosa
import numpy as np

from avmsnet_jax.data.clips import SOUNDNET_RANGE, excerpt_bounds
from avmsnet_jax.media.audio import SAMPLE_RATE

_BANDS = 12  # band-pass filters of the Teager energy
_LOWEST, _HIGHEST = 100.0, 10_000.0  # their centers, Hz
_TIMBRE = 20  # coefficients
_EDGE = 0.05  # of the Hann window: where it is lower, the sound cannot be brought back
_SILENCE = 1e-5  # of full scale: less is dither


def measure(buffer: np.ndarray, rate: float, frames: int) -> dict[str, np.ndarray]:
    """Measures a clip's sound.

    Args:
      buffer: (S,) float32, `data.clips.Clip.sound`.
      rate: frames of the film a second.
      frames: frames of the clip.

    Returns:
      `envelope` (frames,): the root mean square in each frame's time, of full scale; `teager`: the largest mean Teager
      energy over a bank of band-pass filters; `timbre` (20,): mel-frequency cepstral coefficients 1 to 20, which do not
      depend on the loudness.
    """
    excerpt = _unwindowed(buffer, rate, frames)
    parts = np.array_split(excerpt, frames)
    envelope = np.array([np.sqrt(np.mean(np.square(part))) if len(part) else 0.0 for part in parts])
    if envelope.max() < _SILENCE:
        return {
            "envelope": np.zeros(frames, np.float32),
            "teager": np.zeros((), np.float32),
            "timbre": np.zeros(_TIMBRE, np.float32),
        }
    return {
        "envelope": envelope.astype(np.float32),
        "teager": np.asarray(_teager(excerpt), np.float32),
        "timbre": _timbre(excerpt / np.abs(excerpt).max()),
    }


def _unwindowed(buffer: np.ndarray, rate: float, frames: int) -> np.ndarray:
    """The excerpt of a clip as it was before `data.clips.sound_buffer`, in ±1; silence at its very ends."""
    start, stop = excerpt_bounds(frames, rate, frames)
    length = stop - start
    offset = len(buffer) // 2 - length // 2
    first, last = max(-offset, 0), max(-offset, 0) + len(buffer) - max(offset, 0)
    window = np.hanning(length)[first:last]
    kept = buffer[max(offset, 0) : max(offset, 0) + len(window)].astype(np.float64) / SOUNDNET_RANGE
    return np.where(window > _EDGE, kept / np.maximum(window, _EDGE), 0.0)


@functools.lru_cache(maxsize=4)
def _filters(length: int) -> np.ndarray:
    """(bands, length / 2 + 1) of Gaussians over the frequency, as wide as their distance."""
    hertz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    centers = np.geomspace(_LOWEST, _HIGHEST, _BANDS)
    with np.errstate(divide="ignore"):
        octaves = np.log2(np.maximum(hertz, 1e-9)[None] / centers[:, None])
    width = np.log2(centers[1] / centers[0])
    return np.exp(-0.5 * (octaves / (width / 2)) ** 2)


def _teager(excerpt: np.ndarray) -> float:
    """The largest over the bands of the mean of x[n]² - x[n-1] x[n+1]."""
    length = 1 << (len(excerpt) - 1).bit_length()
    bands = np.fft.irfft(np.fft.rfft(excerpt, length)[None] * _filters(length), length)[:, : len(excerpt)]
    energy = np.square(bands[:, 1:-1]) - bands[:, :-2] * bands[:, 2:]
    return float(np.maximum(energy.mean(axis=1), 0).max())


def _timbre(excerpt: np.ndarray) -> np.ndarray:
    found = librosa.feature.mfcc(y=excerpt.astype(np.float32), sr=SAMPLE_RATE, n_mfcc=_TIMBRE + 1, n_fft=1024)
    return found[1:].mean(axis=1).astype(np.float32)
