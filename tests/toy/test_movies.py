"""The rendered films contain what their scripts say; they are read back from the MP4 files."""

import csv
import hashlib

import av
import numpy as np
import pytest

from avmsnet_jax.errors import UserError
from avmsnet_jax.toy import movies, picture, sound
from avmsnet_jax.toy.script import BEATS, FPS, Event, Script, write_script

SECONDS = 12


@pytest.fixture(scope="module")
def collection(forked, tmp_path_factory):
    """A small collection with gaze, made by the command: (folder, scripts by split)."""
    folder = tmp_path_factory.mktemp("toy") / "new" / "toy_movies"
    done = forked(
        "-m", "avmsnet_jax.toy", "--output", folder, "--films=3", f"--seconds={SECONDS}", "--seed=5", "--gaze"
    )
    assert done.returncode == 0, done.stderr
    return folder, movies.write_scripts(3, SECONDS, 5)


@pytest.fixture(scope="module")
def films(collection):
    """[(path, script, frames, waveform)] of all films, decoded."""
    folder, scripts = collection
    paths = {split: sorted((folder / split).glob("*.mp4")) for split in scripts}
    assert {split: len(found) for split, found in paths.items()} == {"train": 2, "test": 1}
    return [
        (path, script, *decode(path))
        for split in scripts
        for path, script in zip(paths[split], scripts[split], strict=True)
    ]


def decode(path):
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        heard = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return frames, np.concatenate(heard, axis=1)[0]


def colored(frame):
    """Which of the events' colors covers a good part of `frame` (H, W, 3)."""
    red, green, blue = np.moveaxis(frame.astype(int), -1, 0)
    reds = ((red > 120) & (red > 2.5 * green) & (red > 2.5 * blue)).mean()
    blues = ((blue > 170) & (blue > 2 * red) & (blue > 1.3 * green)).mean()
    return {name for name, share in (("ball", reds), ("square", blues)) if share > 0.015}


def loud(waveform, start, end, low, high):
    """Root mean square, between two times in seconds, of what lies between two frequencies in Hz."""
    part = waveform[round(start * sound.SAMPLE_RATE) : round(end * sound.SAMPLE_RATE)]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)))) / len(part)
    hertz = np.fft.rfftfreq(len(part), 1 / sound.SAMPLE_RATE)
    return np.sqrt(np.sum(spectrum[(hertz >= low) & (hertz < high)] ** 2))


def heard(waveform, time):
    boing = max(loud(waveform, time + b, time + b + 0.2, 120, 420) for b in BEATS)
    chirp = max(loud(waveform, time + b, time + b + 0.2, 2000, 4800) for b in BEATS)
    return {name for name, level in (("boing", boing), ("chirp", chirp)) if level > 0.015}


def test_every_film_is_whole(films):
    for _, script, frames, waveform in films:
        assert frames.shape == (SECONDS * FPS, picture.HEIGHT, picture.WIDTH, 3)
        assert abs(len(waveform) / sound.SAMPLE_RATE - script.seconds) < 0.1


def test_the_files_show_what_the_script_says(films):
    """Checks each clip except its first frame, where an event may not have its full size yet."""
    for path, script, frames, _ in films:
        for k, slot in enumerate(script.slots(), start=1):
            expected = {slot.sight} - {None}
            for number in (25 * k - 6, 25 * k, 25 * k + 8):  # counted from 1, as the clips are
                if number <= len(frames):
                    assert colored(frames[number - 1]) == expected, f"{path.name} frame {number}: {slot}"


def test_the_files_sound_as_the_script_says(films):
    for path, script, _, waveform in films:
        for slot in script.slots():
            assert heard(waveform, slot.time) == {slot.sound} - {None}, f"{path.name}: {slot}"


def test_sound_is_in_step_with_the_picture(films):
    """A chirp begins at the beat, not a frame sooner or later."""
    for path, script, _, waveform in films:
        for event in script.events:
            if event.sound != "chirp":
                continue
            start = event.time + BEATS[0]
            before = loud(waveform, start - 0.05, start, 2000, 4800)
            after = loud(waveform, start, start + 0.05, 2000, 4800)
            assert after > 5 * before, f"{path.name}: {event}"


def test_the_key_shots_are_the_key_events(films):
    for path, script, _, _ in films:
        with open(path.with_name(f"{path.stem}.keyshots.csv"), newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert rows[0] == ["start_s", "end_s"]
        spans = [(float(start), float(end)) for start, end in rows[1:]]
        np.testing.assert_allclose(spans, [event.span for event in script.events if event.key], atol=1e-6)
        # The label of a clip is that of its center: it lies in a key shot if and only if the slot is a key event.
        inside = [any(start <= k + 0.02 < end for start, end in spans) for k in range(1, SECONDS)]
        assert inside == [slot.key for slot in script.slots()]


def test_gaze_is_written_beside_each_film(films):
    for path, *_ in films:
        text = (path.with_name(f"{path.stem}.gaze") / "viewers.csv").read_text()
        assert text.startswith("observer,time_s,x,y\nviewer00,0.000,")


def test_the_same_seed_gives_the_same_films(films, tmp_path):
    path, script, _, _ = films[0]
    again = tmp_path / "again.mp4"
    movies.write_film(again, script)
    first, second = (hashlib.sha256(p.read_bytes()).hexdigest() for p in (path, again))
    assert first == second


def test_films_differ_within_and_between_collections():
    scripts = [s for seed in (0, 1) for split in movies.write_scripts(4, SECONDS, seed).values() for s in split]
    assert len({(script.seed, script.events) for script in scripts}) == 8
    assert len({next(iter(picture.frames(script))).tobytes() for script in scripts}) == 8


def test_a_handwritten_script_renders():
    """For tests elsewhere that need events at known times."""
    script = Script(4, (Event(2.0, "ball", "boing"),), (), 1)
    frames = list(picture.frames(script))
    assert len(frames) == 4 * FPS
    assert frames[0].shape == (picture.HEIGHT, picture.WIDTH, 3)
    assert colored(frames[round(2 * FPS)]) == {"ball"}
    assert colored(frames[0]) == colored(frames[-1]) == set()
    waveform = sound.waveform(script)
    assert waveform.dtype == np.float32
    assert waveform.shape == (4 * sound.SAMPLE_RATE,)
    assert heard(waveform, 2.0) == {"boing"}
    assert heard(waveform, 3.0) == set()


def test_background_changes_over_time():
    frames = np.stack(list(picture.frames(Script(18, (), (4.5,), 3)))).astype(float)
    assert frames[::25].std(axis=0).mean() > 3  # things move
    assert np.abs(np.diff(frames[:20], axis=0)).mean() > 1  # the camera is never quite still
    change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    assert np.flatnonzero(change > 3 * np.median(change)).tolist() == [111]  # the cut, at frame 112; no other jump


@pytest.mark.parametrize(
    ("films", "seconds", "seed", "word"), [(1, 40, 0, "films"), (4, 9, 0, "seconds"), (4, 40, -1, "seed")]
)
def test_impossible_collections_are_refused(tmp_path, films, seconds, seed, word):
    with pytest.raises(UserError, match=f"--{word}"):
        movies.render(tmp_path, films=films, seconds=seconds, seed=seed)
    assert not list(tmp_path.iterdir())


def test_existing_files_are_left_alone(tmp_path):
    (tmp_path / "holiday.mp4").touch()
    for output in (tmp_path, tmp_path / "holiday.mp4", tmp_path / "holiday.mp4" / "toys"):
        with pytest.raises(UserError, match=r"choose another"):
            movies.render(output, films=2, seconds=10, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]


def test_scripts_of_odd_lengths_are_valid():
    for seconds in (10, 11, 25):
        assert len(write_script(seconds, 0).slots()) == seconds - 1
