"""What the attention scorer measures of a clip's sound."""

import functools

import numpy as np
import scipy.fft

from avmsnet_jax.data.clips import SOUNDNET_RANGE, excerpt_bounds
from avmsnet_jax.media.audio import SAMPLE_RATE

_BANDS = 12  # band-pass filters of the Teager energy
_LOWEST, _HIGHEST = 100.0, 10_000.0  # their centers, Hz
_TIMBRE = 20  # coefficients
_WINDOW = 1024  # samples of the spectra that timbre is computed from
_MELS = 128  # bands of the spectra
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
    """The excerpt of a clip before `data.clips.sound_buffer`, (N,) float32 in ±1; silence at its very ends."""
    start, stop = excerpt_bounds(frames, rate, frames)
    length = stop - start
    offset = len(buffer) // 2 - length // 2
    first, last = max(-offset, 0), max(-offset, 0) + len(buffer) - max(offset, 0)
    gain = _gain(length)[first:last]
    return buffer[max(offset, 0) : max(offset, 0) + len(gain)] * gain


@functools.lru_cache(maxsize=4)
def _gain(length: int) -> np.ndarray:
    """(length,) float32 that undoes SoundNet's range and the Hann window; 0 where the window is too low."""
    window = np.hanning(length)
    return np.where(window > _EDGE, 1 / (SOUNDNET_RANGE * np.maximum(window, _EDGE)), 0).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _filters(length: int) -> np.ndarray:
    """(bands, length / 2 + 1) float32: Gaussians over the logarithm of the frequency, as wide as their distance."""
    hertz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    centers = np.geomspace(_LOWEST, _HIGHEST, _BANDS)
    with np.errstate(divide="ignore"):
        octaves = np.log2(np.maximum(hertz, 1e-9)[None] / centers[:, None])
    width = np.log2(centers[1] / centers[0])
    return np.exp(-0.5 * (octaves / (width / 2)) ** 2).astype(np.float32)


def _teager(excerpt: np.ndarray) -> float:
    """The largest over the bands of the mean of x[n]² - x[n-1] x[n+1]."""
    length = 1 << (len(excerpt) - 1).bit_length()
    bands = np.fft.irfft(np.fft.rfft(excerpt, length)[None] * _filters(length), length)[:, : len(excerpt)]
    energy = np.square(bands[:, 1:-1]) - bands[:, :-2] * bands[:, 2:]
    return float(np.maximum(energy.mean(axis=1), 0).max())


def _timbre(excerpt: np.ndarray) -> np.ndarray:
    power = np.square(np.abs(_spectra(excerpt)))
    decibels = 10 * np.log10(np.maximum(_mel() @ power, 1e-10))
    decibels = np.maximum(decibels, decibels.max() - 80)
    return scipy.fft.dct(decibels.mean(axis=1), norm="ortho")[1 : _TIMBRE + 1].astype(np.float32)


def _spectra(excerpt: np.ndarray) -> np.ndarray:
    """(513, frames) complex64: the short-time Fourier transform, its first window centered on the first sample.

    As `librosa.stft` computes it, whose import takes three seconds of CPU.
    """
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(excerpt, _WINDOW // 2), _WINDOW)[:: _WINDOW // 2]
    return np.fft.rfft(windows * hann, axis=1).astype(np.complex64).T


@functools.cache
def _mel() -> np.ndarray:
    """(128, 513) float32: triangular filters of equal area, evenly spaced on Slaney's mel scale up to half the rate."""
    step = np.log(6.4) / 27  # of the scale from 1000 Hz on, which is mel 15; below, it is linear
    mel = np.linspace(0, 15 + np.log(SAMPLE_RATE / 2 / 1000) / step, _MELS + 2)
    bounds = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(step * (mel - 15)))
    apart = bounds[:, None] - np.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE)
    width = np.diff(bounds)[:, None]
    filters = np.maximum(0, np.minimum(-apart[:-2] / width[:-1], apart[2:] / width[1:])).astype(np.float32)
    filters *= (2 / (bounds[2:] - bounds[:-2]))[:, None]
    return filters
