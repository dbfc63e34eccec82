"""Captions in summaries: cuts do not split them, and their times follow the takes; clips in separate files."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from avmsnet_jax.config import SummarizeConfig
from avmsnet_jax.media import captions
from avmsnet_jax.media.captions import Cue
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.media.writer import Mp4Writer
from avmsnet_jax.scoring.film import watch
from avmsnet_jax.summarization import report
from avmsnet_jax.summarization.choose import choose
from avmsnet_jax.summarization.run import summarize, summarize_cut
from tests.media.films import encode, number_of
from tests.scoring.stub import Stub
from tests.summarization.conftest import until
from tests.summarization.made import make_summary
from tests.summarization.test_kinds import noise, pictures
from tests.summarization.test_watched import config

HALF_SECONDS = [Cue(number / 2, number / 2 + 0.4, f"cue {number}") for number in range(8)]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """A film of 4 seconds with captions, and the folder of its summary with separate clips."""
    root = tmp_path_factory.mktemp("captions")
    film = encode(root / "film.mkv", pictures(100), 25, sound=noise(4))
    captions.write(HALF_SECONDS, root / "film.vtt")
    (outcome,) = summarize([film], "", root / "out", config(clips=True))
    assert outcome.account.endswith("; captions: film.vtt"), outcome
    return film, outcome.folder


def takes_of(folder: Path) -> list[list[int]]:
    """The frames, from 1, of each stretch that the summary shows."""
    takes: list[list[int]] = []
    for shot in json.loads((folder / "summary.json").read_text(encoding="utf-8"))["shots"]:
        frames = list(range(shot["first_frame"], shot["last_frame"] + 1))
        if takes and takes[-1][-1] == frames[0] - 1:
            takes[-1] += frames
        else:
            takes.append(frames)
    return takes


def test_cuts_move_out_of_captions(tmp_path):
    film = encode(tmp_path / "film.mkv", pictures(200), 25, sound=noise(8))
    watched = watch(film, Stub(lambda clip: clip.frame // 50 % 2 * 0.8), spacing_s=0.2)
    options = SummarizeConfig(shortest_shot_s=0.4, longest_shot_s=2.0, move_cuts_s=0.3)
    before = [shot.start_s for shot in choose(watched, options).shots[1:]]
    assert len(before) >= 3
    cues = [Cue(edge - 0.1, edge + 0.15, "said") for edge in before]
    after = [shot.start_s for shot in choose(watched, options, cues).shots[1:]]
    assert len(after) == len(before)
    inside = [edge for edge in after for cue in cues if cue.start_s + 0.02 < edge < cue.end_s - 0.02]
    assert inside == []
    # A caption that leaves no place to cut moves nothing.
    assert [shot.start_s for shot in choose(watched, options, [Cue(0, 8, "always")]).shots[1:]] == before


def test_the_summary_carries_the_captions_of_what_it_shows(made):
    _, folder = made
    found = captions.read(folder / "summary.mkv").cues  # summary.vtt lies beside that name
    assert found
    shown = [frame for take in takes_of(folder) for frame in take]
    for index, frame in enumerate(shown):
        there = {cue.text for cue in HALF_SECONDS if cue.start_s < (frame - 0.5) / 25 < cue.end_s}
        here = {cue.text for cue in found if cue.start_s < (index + 0.5) / 25 < cue.end_s}
        assert here <= there  # the rests of cues that a cut leaves for less than 0.2 s are left out
    whole = [cue for cue in found if cue.end_s - cue.start_s == pytest.approx(0.4, abs=0.002)]
    assert whole
    for cue in whole:
        frame = shown[round(25 * cue.start_s + 0.49)]
        assert (frame - 1) / 25 == pytest.approx(float(cue.text.split()[1]) / 2, abs=0.05)
    (folder.parent / "alone.mp4").write_bytes((folder / "summary.mp4").read_bytes())  # without summary.vtt beside it
    track = captions.read(folder.parent / "alone.mp4").cues
    assert [cue.text for cue in track] == [cue.text for cue in found]
    times = [[(cue.start_s, cue.end_s) for cue in cues] for cues in (track, found)]
    assert np.abs(np.array(times[0]) - times[1]).max() <= 0.002


def test_clips_hold_their_frames_and_sound(made):
    film, folder = made
    takes = takes_of(folder)
    clips = sorted((folder / "clips").iterdir())
    assert len(clips) == len(takes) >= 2
    sound = Movie(film).whole_waveform()
    for number, (clip, take) in enumerate(zip(clips, takes, strict=True), start=1):
        assert clip.name == f"{number:03d} 00-00-{(take[0] - 1) // 25:02d}.mp4"
        assert [number_of(frame.scaled(64, 48)) for frame in Movie(clip).frames()] == take
        heard = Movie(clip).whole_waveform()[2205:6615]
        matches = [
            np.corrcoef(heard, sound[start : start + len(heard)])[0, 1]
            for shift in range(-882, 883, 21)  # a frame before and after
            if (start := (take[0] - 1) * 882 + 2205 + shift) >= 0 and start + len(heard) <= len(sound)
        ]
        assert max(matches) > 0.9
        here = np.corrcoef(heard, sound[(take[0] - 1) * 882 + 2205 :][: len(heard)])[0, 1]
        assert here == pytest.approx(max(matches))


def test_an_edited_cut_has_its_captions_and_clips(made, tmp_path):
    film, folder = made
    outcome = summarize_cut(film, folder / "cut.json", tmp_path / "out", config(clips=True))
    for name in ("summary.vtt", "summary.mp4"):
        assert (outcome.folder / name).read_bytes() == (folder / name).read_bytes()
    assert len(list((outcome.folder / "clips").iterdir())) == len(takes_of(folder))


def test_broken_captions_do_not_fail_the_summary(made, tmp_path):
    film = tmp_path / "film.mkv"
    film.write_bytes(made[0].read_bytes())
    (tmp_path / "film.srt").write_bytes(b"\xff\xfe\x00 no captions \x00\xd8")
    outcome = summarize_cut(film, made[1] / "cut.json", tmp_path / "out", config())
    assert not outcome.error
    assert re.search(r"; captions: film\.srt left out: it holds no captions; save it as SRT$", outcome.account)
    assert not (outcome.folder / "summary.vtt").exists()


def test_the_page_shows_captions(tmp_path, open_report):
    summary = make_summary(tmp_path, tmp_path / "film.mp4")
    with Mp4Writer(tmp_path / "summary.mp4") as movie:  # browsers play it with its text track
        track, text = movie.pictures((48, 64, 3), Fraction(10), crf=20), movie.captions([Cue(0, 1, "a <b> & c")])
        for picture in pictures(60):
            track.add(picture)
        text.write(Fraction(6))
    shown = report.Captions([Cue(5, 6, "a <b> & c"), Cue(7, 8, "d")], [Cue(0, 1, "a <b> & c")])
    report.write_report(summary, tmp_path, captions=shown)
    page = open_report(tmp_path)
    tracks = "[...document.querySelectorAll('video')].map(video => [...video.textTracks].map("
    tracks += "track => [track.mode, [...track.cues].map(cue => [cue.startTime, cue.getCueAsHTML().textContent])]))"
    said = [["showing", [[0, "a <b> & c"]]]], [["showing", [[5, "a <b> & c"], [7, "d"]]]]
    assert page.evaluate(tracks) == list(said)
    page.evaluate("document.getElementById('summary').currentTime = 0.5")
    until(page, "document.getElementById('summary').textTracks[0].activeCues.length === 1")
