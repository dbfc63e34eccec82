"""Eye-tracking files: all formats give the same key frames; damaged files are errors of one line."""

import dataclasses

import numpy as np
import pytest

from avmsnet_jax.errors import UserError
from avmsnet_jax.gaze import concentration as gaze
from avmsnet_jax.gaze import formats
from tests.gaze import writers

ON_SCREEN = dataclasses.replace(writers.FILM, screen=writers.SCREEN)
OBSERVERS = {f"viewer{number}": writers.simulated(seed=number) for number in range(6)}
RATE, N_FRAMES = 25.0, 1000


def recordings(path, geometry=ON_SCREEN, form=""):
    return [one for file in sorted(path.iterdir()) for one in formats.read(file, geometry, form)]


def labels(found):
    positions = np.stack([one.positions(N_FRAMES, RATE) for one in found])
    curve = gaze.concentration(positions, RATE, ON_SCREEN.aspect)
    return gaze.key_frames(curve.values, 0.5)


@pytest.fixture(scope="module")
def expected():
    """The labels computed from the simulated fixations without a file."""
    return labels([formats.Recording(name, *np.array(rows).T, recorded_s=40.0) for name, rows in OBSERVERS.items()])


@pytest.mark.parametrize("form", writers.WRITERS)
def test_every_format_gives_the_same_key_frames(form, tmp_path, expected):
    folder = tmp_path / "film.gaze"
    folder.mkdir()
    writers.WRITERS[form](folder, OBSERVERS)
    found = recordings(folder)
    assert sorted(one.observer.removesuffix("_eyelink") for one in found) == sorted(OBSERVERS)
    assert all(0.7 < one.validity < 0.95 for one in found)
    got = labels(found)
    # Runs of key frames begin and end within a frame of the expected place.
    edges, wanted = (np.flatnonzero(np.diff(each == 1)) for each in (got, expected))
    assert (got == expected).mean() > 0.97
    assert np.median([np.abs(wanted - edge).min() for edge in edges]) <= 1
    truth = np.arange(N_FRAMES) / RATE // 4 % 2 == 1
    assert ((got == 1) == truth).mean() > 0.9


@pytest.mark.parametrize("rate", [30, 60, 250, 1000])
def test_saccades_in_raw_gaze_are_left_out_where_the_rate_shows_them(rate, tmp_path):
    writers.plain(tmp_path, {"a": OBSERVERS["viewer1"]}, rate)
    (found,) = recordings(tmp_path)
    positions = found.positions(N_FRAMES, RATE)
    truth = formats.Recording("a", *OBSERVERS["viewer1"].T, recorded_s=40.0).positions(N_FRAMES, RATE)
    both = np.isfinite(positions[:, 0]) & np.isfinite(truth[:, 0])
    assert both.sum() > 700
    apart = np.abs(positions - truth)[both].max(axis=1)
    assert np.mean(apart > 0.02) < (0.2 if rate < 45 else 0.08)


def test_decimal_commas_and_other_films_of_a_session(tmp_path):
    folder = tmp_path / "film.gaze"
    folder.mkdir()
    writers.tobii(folder, {"a": OBSERVERS["viewer0"]}, comma=True)
    text = (folder / "a.tsv").read_text(encoding="utf-16")
    extra = "".join(f"{90000 + n * 16}\tanother.mp4\t0\t1280\t720\t1\t10,5\t10,5\ta\n" for n in range(200))
    (folder / "a.tsv").write_text(text + extra, encoding="utf-8")
    (found,) = recordings(folder)
    truth = formats.Recording("a", *OBSERVERS["viewer0"].T, recorded_s=40.0).positions(N_FRAMES, RATE)
    positions = found.positions(N_FRAMES, RATE)
    both = np.isfinite(positions[:, 0]) & np.isfinite(truth[:, 0])
    assert np.abs(positions - truth)[both].mean() < 0.01


def rows(count=500, x="0.5", step=0.08):
    return "observer,time_s,x,y\n" + "".join(f"a,{n * step:.3f},{x},0.5\n" for n in range(count))


WRONG = {
    "an empty file": ("", "of no known format"),
    "a header alone": ("observer,time_s,x,y\n", "holds no gaze"),
    "pixels for shares": (rows(x="640"), "not shares of the picture .*640.*divide"),
    "milliseconds for seconds": (rows(step=80.0), "40,000 s, and the film has 40 s"),
    "microseconds for seconds": (rows(step=80000.0), "the film has 40 s"),
    "a longer film": (rows(count=2000), "160 s, and the film has 40 s"),
    "a missing column": ("observer,time_s,x\na,0,0.5\n", "of no known format"),
    "words for numbers": (rows() + "a,40,left,0.5\n", "line 502: 'left' is not a number"),
    "a short row": (rows() + "a,40\n", "line 502: 2 cells where the header has 4"),
    "a row without a time": (rows() + "a,,0.5,0.5\n", "line 502: a row without a time"),
    "times that stand still": (rows(step=0.0), "do not rise"),
    "one sample": (rows(count=1), "do not rise"),
    "no text": ("\x00\udcff", "not text"),
    "a picture": ("\udc89PNG\r\n", "not text"),
    "DIEM's numbers, one missing": ("1 2 3 4 1 2 3 4 1\n2 2 3 4 1 2 3 4\n", "line 2: 8 numbers"),
    "DIEM's frames from 0": ("0 2 3 4 1 2 3 4 1\n", "frames are counted from 1"),
    "DIEM of another film": ("9000 2 3 4 1 2 3 4 1\n", "300 s, and the film has 40 s"),
    "BIDS without positions": ("onset\tduration\tlabel\n0\t1\tFIXA\n", "no column start_x"),
    "BIDS with a negative duration": (
        "onset\tduration\tlabel\tstart_x\tstart_y\tend_x\tend_y\n0\t-1\tFIXA\t1\t1\t1\t1\n",
        "without onset or duration",
    ),
    "Tobii without gaze": ("RecordingTimestamp\tMediaName\n0\tfilm.mp4\n", "GazePointX/Y"),
    "EyeLink with half a fixation": ("MSG 1 SYNCTIME\nEFIX L 1 2 3\n", "line 2: not EFIX, eye"),
    "gaze far off the film": (
        "MSG 1000 SYNCTIME\n" + "".join(f"EFIX L {n * 100} {n * 100 + 50} 50 9000 9000 1\n" for n in range(10, 90)),
        "--gaze_screen",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_damaged_files_are_errors_of_one_line(case, tmp_path):
    content, complaint = WRONG[case]
    (tmp_path / "file.txt").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=complaint) as error:
        formats.read(tmp_path / "file.txt", writers.FILM)
    assert str(error.value).startswith((str(tmp_path / "file.txt"), f"cannot read {tmp_path}"))


ODD = {
    "semicolons and decimal commas": rows().replace(",", ";").replace(".", ","),
    "tabs": rows().replace(",", "\t"),
    "rows in any order": "\n".join([rows().splitlines()[0], *rows().splitlines()[:0:-1]]),
    "Windows line ends and a byte order mark": "\ufeff" + rows().replace("\n", "\r\n"),
    "empty lines": rows().replace("\n", "\n\n"),
    "further columns in another order": "pupil,x,y,observer,time_s\n"
    + "".join(f"3.1,0.5,0.5,a,{n * 0.08:.3f}\n" for n in range(500)),
    "a fifth of the rows in pixels": rows(count=400) + "".join(f"a,{32 + n * 0.08:.3f},640,360\n" for n in range(100)),
    "a tail of two seconds after the film": rows(count=525),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_files_are_read(case, tmp_path):
    (tmp_path / "a.csv").write_text(ODD[case], newline="")
    (found,) = formats.read(tmp_path / "a.csv", writers.FILM)
    positions = found.positions(N_FRAMES, RATE)
    known = np.isfinite(positions[:, 0])
    assert known.mean() == pytest.approx(0.8 if "fifth" in case else 1.0, abs=0.01)
    np.testing.assert_allclose(positions[known], 0.5, atol=1e-6)


def test_gaze_off_the_picture_does_not_count(tmp_path):
    text = rows(count=250) + "".join(f"a,{20 + n * 0.08:.3f},1.2,0.5\n" for n in range(250))
    (tmp_path / "a.csv").write_text(text)
    (found,) = formats.read(tmp_path / "a.csv", writers.FILM)
    assert found.validity == pytest.approx(0.5, abs=0.01)
    assert np.isnan(found.positions(N_FRAMES, RATE)[510:]).all()


def test_a_late_observer_counts_from_the_first_sample(tmp_path):
    (tmp_path / "a.csv").write_text(
        "observer,time_s,x,y\n" + "".join(f"a,{20 + n * 0.02:.3f},.5,.5\n" for n in range(900))
    )
    (found,) = formats.read(tmp_path / "a.csv", writers.FILM)
    positions = found.positions(N_FRAMES, RATE)
    assert np.isnan(positions[:499]).all()
    assert np.isfinite(positions[501:940]).all()
    assert found.validity > 0.99


@pytest.mark.parametrize(
    ("screen", "film", "expected"),
    [
        ((1280, 960), None, (0.25, 0.25)),  # letterboxed: 120 pixels above and below
        ((1280, 960), (320, 300, 640, 360), (0.0, 0.0)),
        ((1280, 720), None, (0.25, 300 / 720)),
    ],
)
def test_gaze_is_mapped_from_the_screen_to_the_film(screen, film, expected):
    geometry = dataclasses.replace(writers.FILM, screen=screen, film=film)
    assert geometry.shares(320.0, 300.0, screen) == pytest.approx(expected)


def test_a_pipe_or_a_folder_is_not_read(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        formats.read(tmp_path, writers.FILM)
