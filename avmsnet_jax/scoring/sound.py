"""The attention scorer's measures of a clip's sound."""

import functools

import numpy as np
import scipy.fft
from scipy import sparse

from avmsnet_jax.data.clips import SOUNDNET_RANGE, excerpt_bounds
from avmsnet_jax.media.audio import SAMPLE_RATE

_BANDS = 12  # band-pass filters of the Teager energy
_LOWEST, _HIGHEST = 100.0, 10_000.0  # center frequencies of the lowest and the highest filter, Hz
_TIMBRE = 20  # cepstral coefficients
_WINDOW = 1024  # samples per spectrum for the timbre
_RANGE_DB = 80.0  # dynamic range: quieter values are raised to this far below the loudest of the clip
_EDGE = 0.05  # where the Hann window is lower, it cannot be undone
_SILENCE = 1e-5  # of full scale: less is dither


def measure(buffer: np.ndarray, rate: float, frames: int) -> dict[str, np.ndarray]:
    """Measures a clip's sound.

    Args:
      buffer: (S,) float32, `data.clips.Clip.sound`.
      rate: frames per second of the film.
      frames: frames of the clip.

    Returns:
      `envelope` (frames,): the root mean square during each frame, relative to full scale; `teager`: the largest mean
      Teager energy over a bank of band-pass filters; `timbre` (20,): mel-frequency cepstral coefficients 1 to 20, which
      do not depend on the loudness.
    """
    excerpt = _unwindowed(buffer, rate, frames)
    whole, rest = divmod(len(excerpt), frames)
    edges = np.arange(frames + 1) * whole + np.minimum(np.arange(frames + 1), rest)  # the first ones are longer
    energy = np.concatenate([[0.0], np.cumsum(np.square(excerpt, dtype=np.float64))])[edges]
    envelope = np.sqrt(np.maximum(np.diff(energy), 0) / np.maximum(np.diff(edges), 1))
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
    """Undoes `data.clips.sound_buffer`: the excerpt of a clip, (N,) float32 in ±1, with silence at its very ends."""
    start, stop = excerpt_bounds(frames, rate, frames)
    length = stop - start
    offset = len(buffer) // 2 - length // 2
    first, last = max(-offset, 0), max(-offset, 0) + len(buffer) - max(offset, 0)
    gain = _gain(length)[first:last]
    return buffer[max(offset, 0) : max(offset, 0) + len(gain)] * gain


@functools.lru_cache(maxsize=4)
def _gain(length: int) -> np.ndarray:
    """(length,) float32: the gain that undoes SoundNet's range and the Hann window; 0 where the window is too low."""
    window = np.hanning(length)
    return np.where(window > _EDGE, 1 / (SOUNDNET_RANGE * np.maximum(window, _EDGE)), 0).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _bands(length: int) -> np.ndarray:
    """(bands, length / 2 + 1) float32: the weight of each frequency in the Teager energy of each band.

    The bands are Gaussians over the logarithm of the frequency, as wide as their distance. By Parseval's theorem the
    sum of x[n]² - x[n-1] x[n+1] is the sum over frequencies of |X|² (1 - cos 2w), so no inverse transform is needed.
    """
    hertz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    centers = np.geomspace(_LOWEST, _HIGHEST, _BANDS)
    octaves = np.log2(np.maximum(hertz, 1e-9)[None] / centers[:, None])
    width = np.log2(centers[1] / centers[0])
    passed = np.exp(-0.5 * (octaves / (width / 2)) ** 2)
    return (passed**2 * (1 - np.cos(4 * np.pi * hertz / SAMPLE_RATE))).astype(np.float32)


def _teager(excerpt: np.ndarray) -> float:
    """The mean of x[n]² - x[n-1] x[n+1], its maximum over the bands."""
    length = scipy.fft.next_fast_len(len(excerpt), real=True)
    power = _power(scipy.fft.rfft(excerpt, length))
    return 2 * float(np.einsum("bf,f", _bands(length), power).max()) / length / len(excerpt)


def _power(spectrum: np.ndarray) -> np.ndarray:
    return np.square(spectrum.real) + np.square(spectrum.imag)


def _timbre(excerpt: np.ndarray) -> np.ndarray:
    around = np.pad(excerpt, _WINDOW // 2)
    windows = np.lib.stride_tricks.sliding_window_view(around, _WINDOW)[:: _WINDOW // 2]
    power = _power(scipy.fft.rfft(windows * _hann()))
    decibels = 10 * np.log10(np.maximum(_mel() @ power.T, 1e-10))
    decibels = np.maximum(decibels, decibels.max() - _RANGE_DB)
    return scipy.fft.dct(decibels.mean(axis=1), norm="ortho")[1 : _TIMBRE + 1].astype(np.float32)


@functools.cache
def _hann() -> np.ndarray:
    return np.hanning(_WINDOW + 1)[:-1].astype(np.float32)


@functools.cache
def _mel() -> sparse.csr_array:
    """(128, 513) float32, mostly zeros: librosa's triangular filters, evenly spaced in mel."""
    import librosa.filters  # imported here, because it takes a second

    return sparse.csr_array(librosa.filters.mel(sr=SAMPLE_RATE, n_fft=_WINDOW))
