from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soxr

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.movie import Movie
from tests.media.films import encode, numbered


def noise(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """(channels, N) float32 in ±0.9, band-limited, so that resampling keeps it."""
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
def test_every_sample_format_is_read(tmp_path, codec, sample_format, dtype, scale, bits):
    sound = noise(0.5, 22050).astype(np.float64)
    stored = sound if scale == 1 else np.round(sound * scale) + (128 if dtype is np.uint8 else 0)
    path = encode(tmp_path / "a.wav", sound=stored.astype(dtype), sound_codec=codec, sound_format=sample_format)
    waveform = Movie(path).whole_waveform()
    assert waveform.dtype == np.float32
    assert waveform.shape == (len(sound[0]),)
    np.testing.assert_allclose(waveform, sound[0], atol=2.0 ** (1 - bits))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_stereo_at_any_rate_is_the_mean_resampled(tmp_path, rate):
    sound = noise(1.3, rate, channels=2)
    path = encode(tmp_path / "a.wav", sound=sound, layout="stereo", sample_rate=rate)
    waveform = Movie(path).whole_waveform()
    expected = soxr.resample(sound.mean(axis=0), rate, 22050, "HQ")
    assert abs(len(waveform) - 1.3 * 22050) <= 1
    shared = min(len(waveform), len(expected))
    np.testing.assert_allclose(waveform[:shared], expected[:shared], atol=1e-5)


@pytest.mark.soak  # after its installation librosa compiles for half a minute
@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_librosa_resamples_as_soxr(rate):
    import librosa

    (sound,) = noise(1.3, rate)
    expected = librosa.resample(sound, orig_sr=rate, target_sr=22050)
    found = soxr.resample(sound, rate, 22050, "HQ")
    shared = min(len(found), len(expected))
    assert abs(len(found) - len(expected)) <= 1
    np.testing.assert_array_equal(found[:shared], expected[:shared])


@pytest.mark.parametrize(("layout", "channels"), [("2.1", 3), ("quad", 4), ("5.1", 6), ("7.1", 8)])
@pytest.mark.parametrize("suffix", ["wav", "mkv"])
def test_all_channels_are_averaged(tmp_path, layout, channels, suffix):
    sound = noise(0.3, 48000, channels=channels)
    path = encode(tmp_path / f"a.{suffix}", sound=sound, layout=layout, sample_rate=48000)
    np.testing.assert_allclose(Movie(path).whole_waveform(sample_rate=48000), sound.mean(axis=0), atol=1e-6)


def test_channels_without_a_position_are_averaged(tmp_path):
    path = encode(tmp_path / "a.wav", sound=(sound := noise(0.3, 22050, channels=4)), layout="quad")
    content = bytearray(path.read_bytes())
    mask = content.index(b"fmt ") + 8 + 20  # of WAVEFORMATEXTENSIBLE: which loudspeakers
    assert content[mask : mask + 4] == (0x33).to_bytes(4, "little")
    content[mask : mask + 4] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_allclose(Movie(path).whole_waveform(), sound.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("rate", [4000, 11025, 16000, 32000, 192000, 22051])
def test_rare_sample_rates_are_resampled(tmp_path, rate):
    times = np.arange(rate) / rate
    sound = (0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)[None]
    waveform = Movie(encode(tmp_path / "a.wav", sound=sound, sample_rate=rate)).whole_waveform()
    assert abs(len(waveform) - 22050) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(waveform)) / 22050)
    np.testing.assert_allclose(waveform[1000:-1000], expected[1000:-1000], atol=1e-3)


def test_nan_and_infinity_are_silence_and_full_scale(tmp_path):
    sound = np.full((1, 3000), 0.25, np.float32)
    sound[0, 100:103] = np.nan, np.inf, -np.inf
    waveform = Movie(encode(tmp_path / "a.wav", sound=sound)).whole_waveform()
    np.testing.assert_allclose(waveform[99:105], [0.25, 0, 1, -1, 0.25, 0.25], atol=1e-6)


def test_damaged_floats_are_bounded(tmp_path):
    sound = np.full((1, 3000), 40.0, np.float32)  # above full scale, as float formats may be
    sound[0, 100:102] = 1e38, -3e38
    waveform = Movie(encode(tmp_path / "a.wav", sound=sound)).whole_waveform()
    np.testing.assert_allclose(waveform[99:103], [40, 64, -64, 40], atol=1e-4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("layout", ["stereo", "5.1"])
@pytest.mark.parametrize("stereo", [False, True])
def test_damaged_floats_do_not_overflow_when_channels_are_mixed(tmp_path, layout, stereo):
    sound = np.full((2 if layout == "stereo" else 6, 3000), 3e38, np.float32)
    movie = Movie(encode(tmp_path / "a.wav", sound=sound, layout=layout))
    waveform = movie.waveform(stereo=stereo).excerpt(0, 3000)
    assert np.abs(waveform).max() == pytest.approx(64, rel=1e-4)


@pytest.mark.parametrize(("picture_start_s", "sound_start_s"), [(0, 0.48), (0.48, 0), (1.0, 1.2)])
def test_sound_and_picture_stay_in_sync_when_one_starts_late(tmp_path, picture_start_s, sound_start_s):
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
    heard_s = np.abs(Movie(path).whole_waveform()).argmax() / 22050
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
    waveform = Movie(gap).whole_waveform()
    clicks = np.flatnonzero(waveform > 0.5)
    np.testing.assert_allclose(clicks / 22050, [100 / 22050, 1 + 100 / 22050], atol=0.001)


def tone(hertz: float, seconds: float, rate: int = 22050, start_s: float = 0.0) -> np.ndarray:
    """(1, N) float32, loud from `start_s` on."""
    times = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * times) * (times >= start_s)).astype(np.float32)[None]


def pitch(waveform: np.ndarray) -> float:
    """The loudest frequency, Hz."""
    return float(np.abs(np.fft.rfft(waveform)).argmax() * 22050 / len(waveform))


def flash_and_beep(path: Path, fps: Fraction, picture_start_s: float, sound_start_s: float, **sound) -> Path:
    """A film of which, 1.6 s into the container's clock, one frame is white and a tone begins."""
    begin = round(picture_start_s * fps) / fps
    white = [abs(begin + i / fps - Fraction(8, 5)) < 1 / fps / 2 for i in range(round(2 * fps))]
    return encode(
        path,
        [np.full((48, 64, 3), 255 * on, np.uint8) for on in white],
        fps,
        codec="libx264",
        pix_fmt="yuv420p",
        picture_start_s=picture_start_s,
        sound_start_s=sound_start_s,
        sound=tone(1000, 2.5, sound["sample_rate"], 1.6 - sound_start_s),
        **sound,
    )


@pytest.mark.parametrize(("picture_start_s", "sound_start_s"), [(0, 0), (0, 0.48), (0.48, 0), (0.8, 1.0)])
@pytest.mark.parametrize("fps", [Fraction(24000, 1001), 25, 60])
@pytest.mark.parametrize(
    ("suffix", "codec", "sample_rate", "sample_format"),
    [
        ("mp4", "aac", 48000, "fltp"),  # with an edit list for AAC's priming samples
        ("mp4", "libmp3lame", 44100, "fltp"),
        ("mkv", "aac", 44100, "fltp"),
        ("mkv", "libopus", 48000, "flt"),
        ("ts", "aac", 22050, "fltp"),
    ],
)
def test_a_flash_and_its_beep_stay_in_sync(
    tmp_path, suffix, codec, sample_rate, sample_format, fps, picture_start_s, sound_start_s
):
    sound = {"sound_codec": codec, "sample_rate": sample_rate, "sound_format": sample_format}
    film = flash_and_beep(tmp_path / f"film.{suffix}", Fraction(fps), picture_start_s, sound_start_s, **sound)
    seen = next(frame.number for frame in Movie(film).frames(constant_rate=True) if frame.scaled(8, 8).mean() > 128)
    heard_s = np.argmax(np.abs(Movie(film).whole_waveform()) > 0.1) / 22050
    # Half a frame, because the flash falls on a frame; the rest is the codec's pre-echo.
    assert abs(heard_s - (seen - 1) / Movie(film).info().fps) < 0.6 / fps


def test_sound_that_ends_before_the_picture_gives_a_shorter_waveform(tmp_path):
    film = encode(tmp_path / "film.mkv", [numbered(i) for i in range(75)], sound=tone(440, 1.0))
    assert len(Movie(film).whole_waveform()) == 22050


def test_sound_that_ends_before_the_picture_starts_counts_as_none(tmp_path):
    pictures = [numbered(i) for i in range(25)]
    film = encode(tmp_path / "film.mkv", pictures, picture_start_s=2.0, sound=tone(440, 1.0))
    assert Movie(film).whole_waveform() is None


def tracks(path: Path, *sounds: np.ndarray | None, default: int | None = None) -> Path:
    """A film with several audio tracks, of which one is the default; None: a track without a single packet."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "bgr0"
        streams = [out.add_stream("pcm_f32le", rate=22050, layout="mono") for _ in sounds]
        for number, stream in enumerate(streams):
            stream.disposition = 1 if number == default else 0
        for index in range(25):
            frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24").reformat(format="bgr0", threads=1)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for stream, sound in zip(streams, sounds, strict=True):
            if sound is not None:
                frame = av.AudioFrame.from_ndarray(sound, format="flt", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 22050, 0, Fraction(1, 22050)
                out.mux([*stream.encode(frame), *stream.encode(None)])
    return path


@pytest.mark.parametrize(("default", "hertz"), [(0, 440), (1, 880), (2, 1320)])
def test_the_default_audio_track_is_used(tmp_path, default, hertz):
    film = tracks(tmp_path / "film.mkv", tone(440, 1), tone(880, 1), tone(1320, 1), default=default)
    assert pitch(Movie(film).whole_waveform()) == hertz


def test_an_audio_track_without_packets_counts_as_none(tmp_path):
    film = tracks(tmp_path / "film.mkv", None)
    with av.open(str(film)) as container:
        assert len(container.streams.audio) == 1
    assert Movie(film).whole_waveform() is None
    assert Movie(film).waveform() is None


def test_an_audio_format_may_change_midway(tmp_path):
    content = b""
    formats = [("stereo", 48000, 440), ("mono", 22050, 880), ("5.1", 44100, 1320)]
    for number, (layout, rate, hertz) in enumerate(formats):
        part = encode(
            tmp_path / "part.ts",
            sound=np.repeat(tone(hertz, 1, rate), {"mono": 1, "stereo": 2, "5.1": 6}[layout], axis=0),
            sound_codec="aac",
            sound_format="flt",
            layout=layout,
            sample_rate=rate,
            sound_start_s=10.0 + number,
        )
        content += part.read_bytes()
    film = tmp_path / "film.ts"
    film.write_bytes(content)
    waveform = Movie(film).whole_waveform()
    assert len(waveform) == pytest.approx(3 * 22050, abs=3000)  # AAC adds some samples at both ends
    for number, (_, _, hertz) in enumerate(formats):
        second = waveform[22050 * number + 6000 :][:11025]
        assert pitch(second) == pytest.approx(hertz, abs=4)
        assert np.abs(second).max() > 0.4


@pytest.mark.parametrize("gap_s", [-0.3, -0.1, 0.1, 2.0, -100.0, 5 * 3600.0])
def test_sound_follows_its_time_stamps_unless_they_jump(tmp_path, gap_s):
    film = tmp_path / "film.ts"
    content = b""
    for start, sound in ((200.0, tone(440, 1.0)), (201.0 + gap_s, tone(880, 1.0))):
        encode(film, sound=sound, sound_codec="aac", sound_format="fltp", sound_start_s=start)
        content += film.read_bytes()
    film.write_bytes(content)
    waveform = Movie(film).whole_waveform()
    expected = gap_s if abs(gap_s) <= 2 else 0
    assert len(waveform) / 22050 == pytest.approx(2 + expected, abs=0.15)
    assert pitch(waveform[-8000:-2000]) == pytest.approx(880, abs=4)


def test_only_the_damaged_sound_is_lost(tmp_path):
    film = encode(
        tmp_path / "film.mp4",
        [numbered(i) for i in range(250)],
        sound=tone(440, 10),
        sound_codec="libmp3lame",
        sound_format="fltp",
        codec="libx264",
        pix_fmt="yuv420p",
    )
    with av.open(str(film)) as container:
        places = [packet.pos for packet in container.demux(container.streams.audio[0]) if packet.size]
    content = bytearray(film.read_bytes())
    for place in places[100:120]:
        content[place : place + 60] = bytes(60)
    film.write_bytes(content)
    waveform = Movie(film).whole_waveform()
    assert len(waveform) == pytest.approx(220500, abs=3000)
    assert pitch(waveform[:50000]) == pytest.approx(440, abs=1)
    assert pitch(waveform[-50000:-3000]) == pytest.approx(440, abs=1)


def test_a_truncated_wav_is_read_to_its_end(tmp_path):
    path = encode(tmp_path / "a.wav", sound=tone(440, 2))
    path.write_bytes(path.read_bytes()[:88_244])  # of 4 bytes a sample
    assert len(Movie(path).whole_waveform()) == pytest.approx(22050, abs=100)


def test_files_without_sound_are_refused(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "b.wav").write_text("not a sound")
    for path, reason in ((tmp_path / "a.wav", "is empty"), (tmp_path / "b.wav", "cannot read")):
        with pytest.raises(UserError, match=reason):
            Movie(path).whole_waveform()
    with pytest.raises(UserError, match="there is no film"):
        Movie(tmp_path / "missing.wav").whole_waveform()


def test_a_silent_film_has_no_waveform(tmp_path):
    assert Movie(encode(tmp_path / "film.mkv", [numbered(i) for i in range(5)])).whole_waveform() is None


def test_a_broken_sound_file_is_named(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"a\.wav"):
        Movie(path).whole_waveform()
