"""cut.json: written, read back, rendered frame for frame, chosen anew, and damaged."""

import csv
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.summarization import cutlist
from avmsnet_jax.summarization.choose import Budget
from avmsnet_jax.summarization.run import summarize, summarize_cut
from tests.conftest import one_line
from tests.media.films import number_of
from tests.summarization.test_run import CONFIG, film


@pytest.fixture(scope="module")
def made(random_weights, tmp_path_factory) -> tuple[Path, Path]:
    """A film of 100 frames at 25 a second, and the folder of its summary."""
    root = tmp_path_factory.mktemp("cut")
    path = film(root / "film.mkv")
    (outcome,) = summarize([path], random_weights, root / "out", CONFIG)
    assert not outcome.error
    return path, outcome.folder


def frames_shown(folder: Path) -> list[int]:
    return [number_of(frame.scaled(64, 48)) for frame in Movie(folder / "summary.mp4").frames()]


def frames_of(cut: dict) -> list[int]:
    shown = [shot for shot in cut["shots"] if shot["state"] in ("chosen", "kept")]
    return [frame for shot in shown for frame in range(shot["first_frame"], shot["last_frame"] + 1)]


def test_the_cut_list_holds_the_shots_of_the_summary(made):
    path, folder = made
    cut = json.loads((folder / "cut.json").read_text(encoding="utf-8"))
    assert cut["film"]["size"] == path.stat().st_size
    assert (cut["version"], cut["film"]["rate"], cut["film"]["n_frames"]) == (1, "25/1", 100)
    assert cut["budget"] == {"share": 0.3}
    assert frames_shown(folder) == frames_of(cut)
    assert [shot["start_s"] for shot in cut["shots"]] == [(shot["first_frame"] - 1) / 25 for shot in cut["shots"]]
    rows = list(csv.reader((folder / "segments.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[0] == ["start", "end", "name"]
    seconds = sum(float(end) - float(start) for start, end, _ in rows[1:])
    assert seconds == pytest.approx(len(frames_of(cut)) / 25)
    schema = json.loads(Path(cutlist.__file__).with_name("cut.schema.json").read_text(encoding="utf-8"))
    assert cut.keys() == schema["properties"].keys()
    for name in ("film", "scorer"):
        assert cut[name].keys() == schema["properties"][name]["properties"].keys()
    assert cut["shots"][0].keys() == schema["properties"]["shots"]["items"]["properties"].keys()


def test_a_changed_cut_is_cut_frame_for_frame_without_a_scorer(made, tmp_path):
    path, folder = made
    cut = json.loads((folder / "cut.json").read_text(encoding="utf-8"))
    score = cut["shots"][0]["score"]
    spans = [
        (1, 9, "kept"),
        (10, 40, "left"),
        (41, 47, "chosen"),
        (48, 52, "dropped"),
        (53, 99, "left"),
        (100, 100, "kept"),
    ]
    cut["shots"] = [
        {"first_frame": first, "last_frame": last, "start_s": 0, "end_s": 0, "score": score, "state": state}
        for first, last, state in spans
    ]
    (tmp_path / "cut.json").write_text(json.dumps(cut), encoding="utf-8")
    outcome = summarize_cut(path, tmp_path / "cut.json", tmp_path / "out", CONFIG)
    assert not outcome.error
    assert frames_shown(outcome.folder) == [*range(1, 10), *range(41, 48), 100]
    written = cutlist.read(outcome.folder / "cut.json", path)
    assert [shot.state for shot in written.shots] == [state for _, _, state in spans]
    old, new = ((place / "scores.csv").read_text() for place in (folder, outcome.folder))
    assert old == new

    outcome = summarize_cut(path, tmp_path / "cut.json", tmp_path / "out", CONFIG, budget="100%", overwrite=True)
    assert frames_shown(outcome.folder) == [*range(1, 48), *range(53, 101)]


def test_choosing_anew_keeps_kept_and_dropped_shots():
    rng = np.random.default_rng(0)
    shots = tuple(
        cutlist.CutShot(10 * index + 1, 10 * index + 10, float(score), state)
        for index, (score, state) in enumerate(zip(rng.random(30), ["left", "kept", "dropped"] * 10, strict=True))
    )
    whole = {"duration_s": 12.0, "rate": "25/1", "n_frames": 300}
    cut = cutlist.CutList(whole, {}, Budget(share=0.5), (), shots)
    new = cutlist.choose_again(cut, Budget(seconds=6))
    assert [shot.state for shot in new.shots][1::3] == ["kept"] * 10
    assert [shot.state for shot in new.shots][2::3] == ["dropped"] * 10
    best = sorted(shots[::3], key=lambda shot: -shot.score)[:5]  # 10 kept shots leave room for 5 of one length
    assert [shot.first_frame for shot in new.shots if shot.state == "chosen"] == sorted(s.first_frame for s in best)
    assert new.rate == Fraction(25)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "has version 2, and this program reads up to 1; update"),
        ({"version": None}, "no version"),
        ({"film": {}}, "has no 'size'"),
        ({"shots": []}, "do not cover the film"),
        ({"clips": []}, "no clips"),
        ({"budget": {"share": -1}}, "budget.share is -1"),
        ({"budget": {"share": 1, "shots": 2}}, "none of share, seconds and shots"),
        ({"budget": 3}, "damaged"),
        ({"shots": [{"first_frame": 1, "last_frame": 100, "score": 0.5, "state": "maybe"}]}, "the state of a shot"),
        ({"shots": [{"first_frame": 2, "last_frame": 100, "score": 0.5, "state": "kept"}]}, "leave a gap"),
        ({"shots": [{"first_frame": 1, "last_frame": 100, "score": float("nan"), "state": "kept"}]}, "is no number"),
    ],
)
def test_damaged_files_get_one_clear_line(made, tmp_path, change, said):
    path, folder = made
    cut = json.loads((folder / "cut.json").read_text(encoding="utf-8")) | change
    (tmp_path / "cut.json").write_text(json.dumps(cut), encoding="utf-8")
    with pytest.raises(UserError) as error:
        cutlist.read(tmp_path / "cut.json", path)
    assert said in str(error.value)
    assert str(tmp_path / "cut.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_cuts_by_a_file_and_says_what_does_not_go_together(forked, made, tmp_path):
    path, folder = made
    options = [f"--cut={folder / 'cut.json'}", f"--output={tmp_path / 'out'}"]
    done = forked("summarize.py", path, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'out'}/film/summary.mp4: 0:0")
    assert frames_shown(tmp_path / "out" / "film") == frames_shown(folder)
    exists = f"{tmp_path / 'out'}/film has a summary already; add --overwrite, or choose another --output"
    assert exists in one_line(forked("summarize.py", path.parent, *options))
    assert "--cut takes one film" in one_line(forked("summarize.py", path, folder / "summary.mp4", *options))
    assert "--cut takes one film, and neither --check" in one_line(
        forked("summarize.py", path, *options, "--checkpoint=/none")
    )
    assert f"{folder} is a folder; give the cut.json in it" in one_line(
        forked("summarize.py", path, f"--cut={folder}", *options[1:])
    )
    assert f"{folder}/summary.json is summary.json; give cut.json" in one_line(
        forked("summarize.py", path, f"--cut={folder / 'summary.json'}", *options[1:])
    )


def test_the_cut_of_another_film_is_refused(made, tmp_path):
    path, folder = made
    other = tmp_path / "other.mkv"
    other.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"is the cut of .*film\.mkv .* give the film that it was made from"):
        cutlist.read(folder / "cut.json", other)
    with pytest.raises(UserError, match=r"no cut at /none"):
        cutlist.read(Path("/none"), path)
    (tmp_path / "cut.json").write_text((folder / "cut.json").read_text(encoding="utf-8")[:-100], encoding="utf-8")
    with pytest.raises(UserError, match="not valid JSON"):
        cutlist.read(tmp_path / "cut.json", path)
