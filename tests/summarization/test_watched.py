"""A film is analyzed once: another budget, an edited cut or a second run reuses the analysis."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from avmsnet_jax.config import Config, SummarizeConfig
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.summarization import run, watched
from avmsnet_jax.summarization.run import summarize, summarize_cut
from tests.media.films import encode
from tests.scoring.stub import Stub
from tests.summarization.test_kinds import noise, pictures


def config(budget: str = "0.3", spacing_s: float = 0.2, **options) -> Config:
    times = {"shortest_shot_s": 0.4, "longest_shot_s": 0.8, "move_cuts_s": 0.2}
    return Config(summarize=SummarizeConfig(budget=budget, spacing_s=spacing_s, **times, **options))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """A film with sound, and a folder with its summary by attention."""
    root = tmp_path_factory.mktemp("watched")
    film = encode(root / "film.mkv", pictures(100), 25, sound=noise(4))
    (outcome,) = summarize([film], "", root / "out", config())
    assert not outcome.error
    return film, root / "out"


@pytest.fixture
def films_watched(monkeypatch) -> list[Path]:
    """The films whose frames were decoded in order to watch them."""
    found: list[Path] = []
    frames = Movie.frames

    def told(self, **options):
        if Path(self.path).suffix == ".mkv":
            found.append(Path(self.path))
        return frames(self, **options)

    monkeypatch.setattr(Movie, "frames", told)
    return found


@pytest.fixture
def again(made, tmp_path) -> tuple[Path, Path]:
    """The film, and a copy of the summary that a test may replace."""
    shutil.copytree(made[1], tmp_path / "out")
    return made[0], tmp_path / "out"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def summarized(film: Path, output: Path, how: Config) -> Path:
    (outcome,) = summarize([film], "", output, how, overwrite=True)
    assert not outcome.error
    return outcome.folder


@pytest.mark.parametrize("budget", ["0.3", "0.6"])
def test_the_same_film_again_is_not_watched_and_gives_the_same_files(made, again, tmp_path, films_watched, budget):
    film, output = again
    kept = summarized(film, output, config(budget, overlay=True))
    assert films_watched == []
    # A folder of the same place in the tree: the report links the film relative to itself.
    fresh = summarized(film, output.with_name("new"), config(budget, overlay=True))
    assert films_watched == [film]
    assert contents(kept) == contents(fresh)
    assert "overlay.mp4" in contents(kept)


def test_an_edited_cut_is_not_watched_and_keeps_the_maps(again, tmp_path, films_watched):
    film, output = again
    found = output / "film" / "cut.json"
    facts = json.loads(found.read_text(encoding="utf-8"))
    for shot in facts["shots"]:
        shot["state"] = {"chosen": "left", "left": "kept"}[shot["state"]]
    found.write_text(json.dumps(facts), encoding="utf-8")
    before = contents(output / "film")["watched.npz"]
    for budget in ("", "0.5"):
        outcome = summarize_cut(film, found, output, config(overlay=True), budget=budget, overwrite=True)
        assert not outcome.error
        assert films_watched == []
    assert contents(outcome.folder)["watched.npz"] == before
    assert "overlay.mp4" in contents(outcome.folder)
    # The scores are those of the cut list, also where another scorer watched the film.
    facts["clips"] = [clip | {"score": 0.25} for clip in facts["clips"]]
    found.write_text(json.dumps(facts), encoding="utf-8")
    outcome = summarize_cut(film, found, output, config(), overwrite=True)
    rows = (outcome.folder / "scores.csv").read_text().splitlines()[1:]
    assert {row.split(",")[2] for row in rows} == {"0.25"}
    # Away from the summary the film is watched once more, without a scorer, and then no more.
    (tmp_path / "cut.json").write_text(json.dumps(facts), encoding="utf-8")
    outcome = summarize_cut(film, tmp_path / "cut.json", tmp_path / "away", config(overlay=True))
    assert "put cut.json into the summary's folder (beside watched.npz)" in outcome.error
    assert films_watched == []
    for _ in range(2):
        outcome = summarize_cut(film, tmp_path / "cut.json", tmp_path / "away", config(), overwrite=True)
        assert not outcome.error
        assert films_watched == [film]
    outcome = summarize_cut(film, tmp_path / "cut.json", tmp_path / "away", config(overlay=True), overwrite=True)
    assert "put cut.json into the summary's folder" in outcome.error


def test_another_film_spacing_or_version_is_watched_again(again, films_watched, monkeypatch, tmp_path):
    film, output = again
    summarized(film, output, config(spacing_s=0.4))
    summarized(film, output, config())
    assert len(films_watched) == 2
    monkeypatch.setattr(watched, "FORMAT", 0)
    summarized(film, output, config())
    assert len(films_watched) == 3
    monkeypatch.undo()
    other = tmp_path / "film.mkv"
    content = bytearray(film.read_bytes())
    content[len(content) // 2] ^= 1
    other.write_bytes(content)
    assert watched.film_key(other) != watched.film_key(film)
    os.utime(other, (1, 1))
    other.write_bytes(film.read_bytes())
    assert watched.film_key(other) == watched.film_key(film)


def test_a_copied_checkpoint_is_the_same_scorer_and_a_changed_one_is_not(again, films_watched, monkeypatch, tmp_path):
    film, output = again
    monkeypatch.setattr(run, "_network", lambda *_: Stub(lambda clip: clip.frame % 7 / 7))
    for item in ("model", "config"):
        (tmp_path / "weights" / item).mkdir(parents=True)
    (tmp_path / "weights" / "model" / "array").write_bytes(b"1")

    def watched_by(weights: str) -> int:
        (outcome,) = summarize([film], str(tmp_path / weights), output, config(), overwrite=True)
        assert not outcome.error
        return len(films_watched)

    assert watched_by("weights") == watched_by("weights") == 1
    shutil.copytree(tmp_path / "weights", tmp_path / "copied")
    assert watched_by("copied") == 1
    (tmp_path / "copied" / "model" / "array").write_bytes(b"2")
    assert watched_by("copied") == 2


def damaged(content: bytes) -> dict[str, bytes]:
    """Damaged files by the kind of damage."""
    middle = len(content) // 2
    return {
        "cut short": content[:-100],
        "empty": b"",
        "text": b"none",
        "a changed byte": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "beginning only": content[:middle],
    }


@pytest.mark.parametrize("kind", damaged(b"0" * 1000))
def test_damaged_files_are_not_used(made, tmp_path, kind):
    film, output = made
    path = tmp_path / "watched.npz"
    path.write_bytes(damaged((output / "film" / "watched.npz").read_bytes())[kind])
    assert watched.read(path, film, watched.film_key(film)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"clip_frames": np.array([1, 2])},
        {"clip_scores": np.array([[object()]])},
        {"film_times_s": np.zeros(0)},
        {"attention_0": np.zeros((3, 1, 1), np.float16)},
        {"facts": np.frombuffer(b"[]", np.uint8)},
        {"facts": np.frombuffer(b"[" * 10000, np.uint8)},
    ],
)
def test_forged_files_are_not_used(made, tmp_path, change):
    film, output = made
    arrays = dict(np.load(output / "film" / "watched.npz"))
    np.savez(tmp_path / "watched.npz", **arrays)
    assert watched.read(tmp_path / "watched.npz", film, watched.film_key(film)) is not None
    np.savez(tmp_path / "watched.npz", **arrays | change)
    assert watched.read(tmp_path / "watched.npz", film, watched.film_key(film)) is None


def test_a_film_too_long_for_the_file_is_watched_each_time(made, again, monkeypatch, films_watched):
    film, output = again
    monkeypatch.setattr(watched.array_file, "MOST_BYTES", 1000)
    folder = summarized(film, output, config())
    assert films_watched == [film]
    assert "watched.npz" not in contents(folder)
    assert not run._check_replaceable(folder)
