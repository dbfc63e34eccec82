"""The spectra of the attention scorer against librosa's."""

import librosa
import numpy as np
import pytest
import scipy.fft

from avmsnet_jax.scoring import sound


@pytest.mark.parametrize("length", [700, 1024, 1500, 2048, 10241, 14112, 35280])
@pytest.mark.parametrize("kind", ["noise", "tone", "half silent"])
def test_timbre_equals_librosa_s(length, kind):
    rng = np.random.default_rng(length)
    noise = rng.standard_normal(length).astype(np.float32)
    tone = np.sin(np.arange(length) / 7).astype(np.float32)
    excerpt = {"noise": noise, "tone": tone, "half silent": noise * (np.arange(length) > length / 2)}[kind]
    excerpt = (excerpt / np.abs(excerpt).max()).astype(np.float32)
    power = np.square(np.abs(librosa.stft(excerpt, n_fft=1024, hop_length=512)))
    decibels = librosa.power_to_db(librosa.filters.mel(sr=22050, n_fft=1024) @ power)
    expected = scipy.fft.dct(decibels.mean(axis=1), norm="ortho")[1:21].astype(np.float32)
    np.testing.assert_allclose(sound._timbre(excerpt), expected, rtol=1e-5, atol=1e-4)
