import av
import numpy as np
import pytest
import soxr

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.audio import read_waveform
from tests.media.films import encode, numbered


def noise(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """(channels, N) float32 in ±0.9, without what a resampler must cut off."""
    rng = np.random.default_rng(channels * rate)
    smooth = np.apply_along_axis(
        lambda row: np.convolve(row, np.hanning(33), "same"), 1, rng.standard_normal((channels, round(seconds * rate)))
    )
    return (0.9 * smooth / np.abs(smooth).max()).astype(np.float32)


@pytest.mark.parametrize(
    ("codec", "sample_format", "dtype", "scale", "bits"),
    [
        ("pcm_u8", "u8", np.uint8, 2**7, 8),
        ("pcm_s16le", "s16", np.int16, 2**15, 16),
        ("pcm_s24le", "s32", np.int32, 2**31, 24),
        ("pcm_s32le", "s32", np.int32, 2**31, 32),
        ("pcm_f32le", "flt", np.float32, 1, 24),
        ("pcm_f64le", "dbl", np.float64, 1, 24),
    ],
)
def test_any_sample_format(tmp_path, codec, sample_format, dtype, scale, bits):
    sound = noise(0.5, 22050).astype(np.float64)
    stored = sound if scale == 1 else np.round(sound * scale) + (128 if dtype is np.uint8 else 0)
    path = encode(tmp_path / "a.wav", sound=stored.astype(dtype), sound_codec=codec, sound_format=sample_format)
    waveform = read_waveform(path)
    assert waveform.dtype == np.float32
    assert waveform.shape == (len(sound[0]),)
    np.testing.assert_allclose(waveform, sound[0], atol=2.0 ** (1 - bits))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_stereo_at_any_rate_is_the_mean_resampled(tmp_path, rate):
    sound = noise(1.3, rate, channels=2)
    path = encode(tmp_path / "a.wav", sound=sound, layout="stereo", sample_rate=rate)
    waveform = read_waveform(path)
    expected = soxr.resample(sound.mean(axis=0), rate, 22050, "HQ")  # librosa.resample's default
    assert abs(len(waveform) - 1.3 * 22050) <= 1
    shared = min(len(waveform), len(expected))
    np.testing.assert_allclose(waveform[:shared], expected[:shared], atol=1e-5)


def test_all_channels_are_heard(tmp_path):
    sound = noise(0.3, 48000, channels=6)
    path = encode(tmp_path / "a.wav", sound=sound, layout="5.1", sample_rate=48000)
    np.testing.assert_allclose(read_waveform(path, sample_rate=48000), sound.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(("picture_start_s", "sound_start_s"), [(0, 0.48), (0.48, 0), (1.0, 1.2)])
def test_sound_and_picture_stay_together_when_one_starts_late(tmp_path, picture_start_s, sound_start_s):
    sound = np.zeros((1, 44100), np.float32)
    sound[0, 22050] = 0.9  # a click, 0.5 s after the sound starts
    path = encode(
        tmp_path / "film.mkv",
        [numbered(i) for i in range(75)],
        sound=sound,
        sample_rate=44100,
        picture_start_s=picture_start_s,
        sound_start_s=sound_start_s,
    )
    heard_s = np.abs(read_waveform(path)).argmax() / 22050
    assert heard_s == pytest.approx(sound_start_s + 0.5 - picture_start_s, abs=0.001)


def test_missing_sound_is_filled_with_silence(tmp_path):
    click = np.zeros((1, 2000), np.float32)
    click[0, 100] = 0.9
    first = encode(tmp_path / "a.mkv", [numbered(0)] * 50, sound=click)
    later = encode(tmp_path / "b.mkv", [numbered(0)] * 50, sound=click, sound_start_s=1.0)
    gap = tmp_path / "gap.mkv"
    with av.open(str(gap), "w") as out, av.open(str(first)) as one, av.open(str(later)) as two:
        stream = out.add_stream_from_template(one.streams.audio[0])
        for source in (one, two):
            for packet in source.demux(source.streams.audio[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
    waveform = read_waveform(gap)
    clicks = np.flatnonzero(waveform > 0.5)
    np.testing.assert_allclose(clicks / 22050, [100 / 22050, 1 + 100 / 22050], atol=0.001)


def test_a_silent_film_has_no_waveform(tmp_path):
    assert read_waveform(encode(tmp_path / "film.mkv", [numbered(i) for i in range(5)])) is None


def test_a_broken_sound_file_is_named(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"a\.wav"):
        read_waveform(path)
