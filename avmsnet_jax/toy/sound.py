"""The sound of a toy movie: wind and hum, stray plucks, and the boing and the chirp."""

import numpy as np

from avmsnet_jax.toy.script import BEATS, Script

SAMPLE_RATE = 22050
BOING_HZ = (330.0, 150.0)  # pitch at the start and at the end
CHIRP_HZ = (2300.0, 4300.0)
PLUCK_HZ = (700.0, 1100.0)  # between the two: distractors


def waveform(script: Script) -> np.ndarray:
    """The sound of a film, (22050 seconds,) float32 within +-1."""
    rng = np.random.default_rng((script.seed, 1 << 20))
    count = script.seconds * SAMPLE_RATE
    sound = _wind(rng, count)
    time = np.arange(count, dtype=np.float32) / SAMPLE_RATE
    hum = rng.uniform(48, 62)
    sound += 0.008 * np.sin(2 * np.pi * hum * time) + 0.005 * np.sin(2 * np.pi * 2 * hum * time)
    for start in np.cumsum(rng.exponential(1.8, size=2 * script.seconds)):
        _add(sound, start, 0.04 * rng.uniform(0.4, 1) * _pluck(rng.uniform(*PLUCK_HZ)))
    for event in script.events:
        if event.sound is None:
            continue
        for beat in BEATS:
            note = {"boing": _boing, "chirp": _chirp}[event.sound](rng.uniform(0.94, 1.06))
            _add(sound, event.time + beat, rng.uniform(0.35, 0.5) * note)
    return np.clip(sound, -1, 1).astype(np.float32)


def _boing(pitch: float) -> np.ndarray:
    """A spring: a falling low tone that wobbles, with harmonics."""
    time = _seconds(0.27)
    high, low = (pitch * hz for hz in BOING_HZ)
    hertz = low + (high - low) * np.exp(-time / 0.08) + 18 * np.sin(2 * np.pi * 17 * time)
    phase = 2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE
    tone = sum(np.sin(n * phase) / n**1.3 for n in range(1, 6))
    return 0.6 * tone * _fade(time, 0.27, 0.11)


def _chirp(pitch: float) -> np.ndarray:
    """A bird: a high tone that rises."""
    time = _seconds(0.2)
    low, high = (pitch * hz for hz in CHIRP_HZ)
    phase = 2 * np.pi * np.cumsum(low + (high - low) * time / 0.2) / SAMPLE_RATE
    return 0.8 * np.sin(phase) * _fade(time, 0.2, 0.15)


def _pluck(hertz: float) -> np.ndarray:
    """A string in the middle of the range."""
    time = _seconds(0.35)
    return (np.sin(2 * np.pi * hertz * time) + 0.3 * np.sin(4 * np.pi * hertz * time)) * _fade(time, 0.35, 0.07)


def _seconds(length: float) -> np.ndarray:
    return np.arange(int(length * SAMPLE_RATE)) / SAMPLE_RATE


def _fade(time: np.ndarray, length: float, decay: float) -> np.ndarray:
    """A soft attack of 5 ms, an exponential decay, and a fade to zero over the last 20 ms."""
    return np.minimum(1, time / 0.005) * np.exp(-time / decay) * np.clip((length - time) / 0.02, 0, 1)


def _add(sound: np.ndarray, start: float, note: np.ndarray) -> None:
    """Mixes a note in from `start` seconds on, cut at the end of the film."""
    first = int(start * SAMPLE_RATE)
    note = note[: max(0, len(sound) - first)]
    sound[first : first + len(note)] += note


def _wind(rng: np.random.Generator, count: int) -> np.ndarray:
    """Noise that falls off with frequency and swells every few seconds, (count,) float32."""
    size = 1 << (count - 1).bit_length()
    spectrum = np.fft.rfft(rng.standard_normal(size).astype(np.float32))
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum / (1 + hertz / 250) * (hertz > 40))[:count]
    seconds = np.arange(count) / SAMPLE_RATE
    swell = 1 + 0.5 * np.sin(2 * np.pi * seconds * rng.uniform(0.1, 0.3) + rng.uniform(0, 6.3))
    return (0.02 * swell * noise / noise.std()).astype(np.float32)
