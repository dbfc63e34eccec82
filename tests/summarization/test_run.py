"""Summaries from films: scores, choice, cuts, and what is left after errors."""

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

import avmsnet_jax
from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config, MeshConfig, SummarizeConfig
from avmsnet_jax.data import pipeline
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.errors import UserError
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.scoring.network import Network
from avmsnet_jax.scoring.records import score_records
from avmsnet_jax.summarization import choose, run
from avmsnet_jax.summarization.run import summarize
from tests.conftest import one_line, wait_until
from tests.media.films import encode, number_of, numbered
from tests.summarization.test_kinds import noise, pictures, stretches

CONFIG = Config(
    summarize=SummarizeConfig(
        budget="0.3", spacing_s=0.2, shortest_shot_s=0.4, longest_shot_s=0.8, move_cuts_s=0.2, batch_size=4
    )
)


def film(path: Path, count: int = 100) -> Path:
    return encode(path, pictures(count), 25, sound=noise(count / 25))


def facts_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def test_scores_equal_those_of_prepared_records(random_weights, folder, tmp_path):
    path = film(folder / "film.mkv", 150)
    prepare("movies", folder, tmp_path / "records", frames=8, frame_size=32, spacing=5)
    model, mesh = avmsnet_jax.load(random_weights), mesh_lib.make_mesh(MeshConfig())
    records = pipeline.open_split(str(tmp_path / "records"), "unlabelled", model.config, 0)
    wanted = list(score_records(Network(model, mesh, 8, fixed_groups=True), records, threads=1))
    summarize([path], random_weights, tmp_path / "out", CONFIG)
    rows = np.genfromtxt(tmp_path / "out" / "film" / "scores.csv", delimiter=",", names=True)
    assert rows["frame"].tolist() == [row["frame"] for row in wanted]
    assert rows["score"] == pytest.approx([row["score"] for row in wanted], abs=1e-6)
    assert np.ptp(rows["score"]) > 1e-5


def test_flashes_and_beeps_stay_in_sync_in_every_shot(random_weights, folder, tmp_path):
    frames = [np.full((48, 64, 3), 230 if index % 15 == 7 else 40, np.uint8) for index in range(300)]
    sound = np.zeros((1, 300 * 22050 // 25), np.float32)
    for index in range(7, 300, 15):
        sound[0, index * 882 : (index + 1) * 882] = 0.5 * np.sin(np.arange(882) * 0.3)
    path = encode(folder / "flash.mkv", frames, 25, sound=sound)
    summarize([path], random_weights, tmp_path / "out", CONFIG)
    out = tmp_path / "out" / "flash"
    seen = [frame.time_s for frame in Movie(out / "summary.mp4").frames() if frame.rgb().mean() > 128]
    heard = Movie(out / "summary.mp4").whole_waveform()
    loud = np.flatnonzero(np.abs(heard) > 0.2)
    onsets = loud[np.diff(loud, prepend=-1000) > 300] / 22050
    shots = stretches(facts_of(out))
    assert len(shots) >= 3
    expected = sum(sum(start - 1e-6 <= index / 25 < end - 1e-6 for index in range(7, 300, 15)) for start, end in shots)
    assert len(seen) == expected >= 4
    assert onsets == pytest.approx(seen, abs=0.02)  # half a frame


@pytest.mark.parametrize("suffix", ["mp4", "ts", "avi"])
def test_shots_reached_by_seeking_are_exact_to_the_frame(folder, tmp_path, suffix):
    codec = {"codec": "libx264" if suffix != "avi" else "mpeg4", "pix_fmt": "yuv420p"}
    path = encode(folder / f"far.{suffix}", pictures(1000), 10, **codec)
    config = Config(summarize=SummarizeConfig(budget="4shots", shortest_shot_s=1, longest_shot_s=2, move_cuts_s=0))
    config = config.replace(summarize={"keep_opening_s": 1.0, "spacing_s": 3.0})
    summarize([path], "", tmp_path / "out", config)
    shots = facts_of(tmp_path / "out" / "far")["shots"]
    assert len(shots) == 4
    assert shots[0]["start"] == 0
    wanted = [n for shot in shots for n in range(shot["first_frame"], shot["last_frame"] + 1)]
    assert [number_of(frame.rgb()) for frame in Movie(tmp_path / "out" / "far" / "summary.mp4").frames()] == wanted


def test_durations_are_parsed_as_budgets():
    for text, seconds in (("90s", 90), ("2min", 120), ("1:30", 90), ("0:01:05.5", 65.5), ("1h 30m", 5400)):
        assert choose.parse_budget(text) == choose.Budget(seconds=seconds)


def test_summaries_keep_within_their_budget(random_weights, folder, tmp_path):
    path = film(folder / "film.mkv")
    for budget, most in [("25%", 1.0), ("0.9s", 0.9), ("0.1s", 0.1), ("1", 4.0)]:
        config = Config(
            summarize=SummarizeConfig(budget=budget, spacing_s=0.2, shortest_shot_s=0.4, longest_shot_s=0.8)
        )
        summarize([path], random_weights, tmp_path / "out", config, overwrite=True)
        facts = facts_of(tmp_path / "out" / "film")
        assert 0.5 * most < facts["length_s"] <= most + 1e-9
    forms = r"give a share of the film \(0.15 or 15%\)"
    wrongs = dict.fromkeys(("x", "-1s", "0.5shots", "", "5 parsecs", "1:75", "nan"), f"the budget is '.*'; {forms}")
    wrongs |= {text: f"^the budget {text} must be more than 0; {forms}" for text in ("0", "0%", "0:00", "0shots")}
    wrongs |= {"15": "^the budget 15 has no unit; 15% or 15s", "1.5": "^the budget 1.5 has no unit; 1.5% or 1.5s"}
    wrongs |= {"150%": "^the budget 150% is more than the film; give at most 100%$"}
    for wrong, message in wrongs.items():
        with pytest.raises(UserError, match=message):
            summarize([path], random_weights, tmp_path / "wrong", Config(summarize=SummarizeConfig(budget=wrong)))
    config = Config(summarize=SummarizeConfig(budget="1s", keep_opening_s=2, spacing_s=0.2))
    (outcome,) = summarize([path], random_weights, tmp_path / "wrong", config)
    assert "the opening of 2 s alone is longer" in outcome.error
    assert not (tmp_path / "wrong").exists()


def test_cuts_move_to_quiet_places_nearby(random_weights, folder, tmp_path):
    loud = np.tile(np.repeat([0.3, 0.001], [round(0.36 * 22050), round(0.04 * 22050)]), 20)[: 8 * 22050]
    sound = (loud * np.random.default_rng(0).normal(size=len(loud)))[None].astype(np.float32)
    path = encode(folder / "film.mkv", [numbered(1)] * 200, 25, sound=sound)
    config = CONFIG.replace(summarize={"longest_shot_s": 1.0})
    summarize([path], random_weights, tmp_path / "out", config)
    edges = [edge for span in stretches(facts_of(tmp_path / "out" / "film")) for edge in span if 0 < edge < 8]
    phases = [(edge + 0.02) % 0.4 - 0.02 for edge in edges]
    assert all(abs(phase - 0.38) <= 0.041 or abs(phase + 0.02) <= 0.041 for phase in phases), phases
    assert phases


def test_shots_may_come_from_pyscenedetect(random_weights, folder, tmp_path):
    pytest.importorskip("scenedetect")
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 256, (4, 6, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    path = encode(folder / "film.mkv", [scenes[index // 30] for index in range(120)], 25)
    config = Config(summarize=SummarizeConfig(budget="2shots", shots="scenes", spacing_s=0.2, shortest_shot_s=0.8))
    (outcome,) = summarize([path], random_weights, tmp_path / "out", config)
    assert not outcome.error
    shots = facts_of(tmp_path / "out" / "film")["shots"]
    assert {shot["start"] for shot in shots} <= {0.0, 1.2, 2.4, 3.6}
    assert len(shots) == 2


def test_a_film_that_fails_does_not_stop_the_rest(random_weights, folder, tmp_path):
    for name in ("a", "c"):
        film(folder / f"{name}.mkv", 50)
    (folder / "b.mkv").write_bytes(b"no film at all")
    (folder / "notes.txt").write_text("not meant")
    outcomes = summarize([folder, tmp_path / "none.mp4"], random_weights, tmp_path / "out", CONFIG)
    assert [bool(outcome.error) for outcome in outcomes] == [False, True, False, True]
    assert "b.mkv" in outcomes[1].error
    assert "none.mp4; check the path" in outcomes[3].error
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "c"]
    before = (tmp_path / "out" / "a" / "summary.mp4").stat().st_mtime_ns
    (again, *_) = summarize([folder / "a.mkv"], random_weights, tmp_path / "out", CONFIG)
    assert again.skipped
    assert not again.error
    assert (tmp_path / "out" / "a" / "summary.mp4").stat().st_mtime_ns == before
    (again, *_) = summarize([folder / "a.mkv"], random_weights, tmp_path / "out", CONFIG, overwrite=True)
    assert not again.error
    assert (tmp_path / "out" / "a" / "summary.mp4").stat().st_mtime_ns != before
    (tmp_path / "out" / "mine").mkdir()
    (tmp_path / "out" / "mine" / "diary").touch()
    film(folder / "mine.mkv", 50)
    (spared, *_) = summarize([folder / "mine.mkv"], random_weights, tmp_path / "out", CONFIG, overwrite=True)
    assert "is not a summary; choose another place" in spared.error
    assert (tmp_path / "out" / "mine" / "diary").exists()
    with pytest.raises(UserError, match="would both be summarized in a"):
        summarize([folder / "a.mkv", folder / "a.mp4"], random_weights, tmp_path / "out", CONFIG)


def test_beam_gives_the_same_summaries(random_weights, folder, tmp_path):
    pytest.importorskip("apache_beam")
    film(folder / "a.mkv", 50)
    (folder / "b.mkv").write_bytes(b"no film at all")
    summarize([folder], random_weights, tmp_path / "plain", CONFIG)
    outcomes = summarize([folder], random_weights, tmp_path / "beam", CONFIG, beam_options=[])
    assert [bool(outcome.error) for outcome in outcomes] == [False, True]
    assert [path.name for path in (tmp_path / "beam").iterdir()] == ["a"]
    for name in ("scores.csv", "summary.mp4"):
        both = [(tmp_path / way / "a" / name).read_bytes() for way in ("plain", "beam")]
        assert both[0] == both[1]


def test_the_command_s_output(forked, random_weights, folder, tmp_path):
    path = film(folder / "film.mkv", 50)
    options = [f"--checkpoint={random_weights}", f"--output={tmp_path / 'out'}", "--budget=50%"]
    done = forked("summarize.py", path, *options, "--config.summarize.spacing_s=0.2", "--clips", "--overlay")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'out'}/film/summary.mp4: 0:0")
    named = {"summary.mp4", "scores.csv", "summary.json", "report.html", "clips", "overlay.mp4"}
    assert named <= set(os.listdir(tmp_path / "out" / "film"))
    done = forked("summarize.py", path, *options)
    assert done.stdout == ""
    exists = f"{tmp_path / 'out'}/film has a summary already; add --overwrite, or choose another --output"
    assert one_line(done) == f"summarize.py: {exists}"
    done = forked("summarize.py", folder, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "1 film skipped: a summary exists (--overwrite replaces): film.mkv\n"
    (folder / "broken.mp4").write_bytes(b"\0" * 1000)
    assert "broken.mp4" in one_line(forked("summarize.py", folder / "broken.mp4", *options))
    done = forked("summarize.py", folder, *options)
    assert done.stderr.splitlines()[0].startswith(f"[1/2] cannot read {folder}/broken.mp4: ")
    assert f"{path} is a file; give a folder" in one_line(forked("summarize.py", path, f"--output={path}"))
    assert "no checkpoint at /none" in one_line(forked("summarize.py", path, *options, "--checkpoint=/none"))


@pytest.fixture(scope="module")
def long_film(tmp_path_factory) -> Path:
    """A film of two minutes."""
    path = tmp_path_factory.mktemp("long") / "film.mp4"
    return encode(path, pictures(500) * 6, 25, codec="libx264", pix_fmt="yuv420p")


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.soak), signal.SIGKILL])
def test_an_ended_run_leaves_no_summary_folder(started, long_film, tmp_path, how):
    out = tmp_path / "out"
    options = [f"--output={out}", "--budget=90%", "--config.summarize.spacing_s=10"]
    process = started("summarize.py", long_film, *options)
    wait_until(lambda: list(out.glob(".film.*/**/*.mp4")), process)  # of the summary, which takes a while to write
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert not (out / "film").exists()
    if how == signal.SIGKILL:
        assert list(out.glob(".film.*"))
        (outcome,) = summarize([long_film], "", out, Config(summarize=SummarizeConfig(budget="1s", spacing_s=10)))
        assert not outcome.error
        assert [each.name for each in out.iterdir()] == ["film"]
    else:
        assert process.returncode == 130
        assert errors.splitlines() == ["summarize.py: interrupted"]
        assert not out.exists()


@pytest.mark.parametrize("error", [KeyError(8), MemoryError(), ZeroDivisionError("float division by zero")])
def test_an_unexpected_error_fails_its_film_alone(random_weights, folder, tmp_path, monkeypatch, error):
    for name in ("a", "b", "c"):
        film(folder / f"{name}.mkv", 50)
    real = run.choose.choose

    def choose(watched, *options):
        if watched.scores.film.stem == "b":
            raise error
        return real(watched, *options)

    monkeypatch.setattr(run.choose, "choose", choose)
    outcomes = summarize([folder], random_weights, tmp_path / "out", CONFIG)
    assert [bool(outcome.error) for outcome in outcomes] == [False, True, False]
    (log,) = (tmp_path / "out").glob("b.error.*.log")
    assert outcomes[1].error.startswith(f"unexpected error: {type(error).__name__}")
    assert outcomes[1].error.endswith(f"the traceback is in {log}")
    assert "in choose" in log.read_text()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", log.name, "c"]


def test_the_log_is_in_the_temporary_folder_where_the_output_cannot_be_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "taken", lambda _: 1 / 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    for item in ("model", "config"):
        (tmp_path / "weights" / item).mkdir(parents=True)
    (outcome,) = summarize([film(folder / "a.mkv", 50)], str(tmp_path / "weights"), tmp_path / "file", CONFIG)
    (log,) = tmp_path.glob("a.error.*.log")
    assert outcome.error.endswith(f"ZeroDivisionError: division by zero; the traceback is in {log}")


@pytest.mark.parametrize("kept", ["notes.txt", ".hidden", "pictures/one.png", "clips/mine.mp4"])
def test_overwrite_keeps_the_user_s_files(random_weights, folder, tmp_path, kept):
    out = tmp_path / "out" / "a"
    arguments = [folder / "a.mkv"], random_weights, tmp_path / "out", CONFIG
    film(folder / "a.mkv", 50)
    out.mkdir(parents=True)
    (out / "summary.json").write_text('{"film": "a", "shots": [], "facts": {}}')
    (out / kept).parent.mkdir(exist_ok=True)
    (out / kept).write_text("mine")
    (outcome,) = summarize(*arguments, overwrite=True)
    assert re.search(rf"holds {kept.split('/')[0]}\S* beside the summary", outcome.error)
    assert (out / kept).read_text() == "mine"
    (out / "summary.json").write_text('{"mine": true}')
    (outcome,) = summarize(*arguments, overwrite=True)
    assert "is not a summary" in outcome.error
    assert (out / kept).read_text() == "mine"


def test_a_changed_checkpoint_is_loaded_again(random_weights, folder, tmp_path):
    path = film(folder / "film.mkv", 50)
    found, model = [], avmsnet_jax.load(random_weights)
    for factor in (1, 2, 1):
        model.fc3.kernel[...] = factor * model.fc3.kernel[...]
        avmsnet_jax.save(model, tmp_path / "weights")
        (outcome,) = summarize([path], str(tmp_path / "weights"), tmp_path / "out", CONFIG, overwrite=True)
        assert not outcome.error
        found.append((tmp_path / "out" / "film" / "scores.csv").read_text())
    assert found[0] != found[1] == found[2]
