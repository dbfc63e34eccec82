"""The spectra of the attention scorer against those of SciPy and librosa."""

import librosa
import numpy as np
import pytest
import scipy.fft
import scipy.signal

from avmsnet_jax.scoring import sound


def mel_bands(power: np.ndarray) -> np.ndarray:
    return librosa.filters.mel(sr=22050, n_fft=1024) @ power


def decibels_by_scipy(excerpt: np.ndarray) -> np.ndarray:
    """Decibels of the power in each mel band and window, (128, windows)."""
    window = scipy.signal.get_window("hann", 1024)
    padded = np.pad(excerpt, 512).astype(np.float64)
    _, _, spectra = scipy.signal.stft(padded, window=window, nperseg=1024, boundary=None, padded=False)
    decibels = 10 * np.log10(np.maximum(mel_bands(np.square(np.abs(spectra) * window.sum())), 1e-10))
    return np.maximum(decibels, decibels.max() - 80)


def decibels_by_librosa(excerpt: np.ndarray) -> np.ndarray:
    return librosa.power_to_db(mel_bands(np.square(np.abs(librosa.stft(excerpt, n_fft=1024, hop_length=512)))))


@pytest.mark.parametrize("length", [700, 1024, 1500, 2048, 10241, 14112, 35280])
@pytest.mark.parametrize("kind", ["noise", "tone", "half silent"])
# After its installation librosa compiles for half a minute.
@pytest.mark.parametrize("decibels", [decibels_by_scipy, pytest.param(decibels_by_librosa, marks=pytest.mark.soak)])
def test_timbre_equals_scipys_and_librosas(decibels, length, kind):
    rng = np.random.default_rng(length)
    noise = rng.standard_normal(length).astype(np.float32)
    tone = np.sin(np.arange(length) / 7).astype(np.float32)
    excerpt = {"noise": noise, "tone": tone, "half silent": noise * (np.arange(length) > length / 2)}[kind]
    excerpt = (excerpt / np.abs(excerpt).max()).astype(np.float32)
    expected = scipy.fft.dct(decibels(excerpt).mean(axis=1), norm="ortho")[1:21]
    np.testing.assert_allclose(sound._timbre(excerpt), expected, rtol=1e-5, atol=1e-4)
