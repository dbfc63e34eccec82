"""prepare_data.py --dataset=gaze: films with gaze beside them become labeled records."""

import csv
import json
import re
import shutil

import numpy as np
import pytest

from avmsnet_jax.data.pipeline import open_split
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.data.sources.gaze import Setting
from avmsnet_jax.errors import UserError
from avmsnet_jax.gaze.concentration import split_half
from tests.gaze import writers
from tests.media.films import encode, numbered

OBSERVERS = {f"viewer{number}": writers.simulated(seed=number) for number in range(6)}


def write_film(path, frames):
    return encode(path, [numbered(number, height=36) for number in range(1, frames + 1)])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    film = write_film(tmp_path_factory.mktemp("film") / "film.mkv", frames=1000)
    for name, form in (("a", "plain"), ("b", "eyelink"), ("c", "diem")):
        shutil.copy(film, folder / f"{name}.mkv")
        (folder / f"{name}.gaze").mkdir()
        writers.WRITERS[form](folder / f"{name}.gaze", OBSERVERS)
    return folder


def test_clips_are_key_where_viewers_agree(source, tmp_path):
    setting = Setting(screen=writers.SCREEN, key_share=0.5)
    sizes = {"frames": 8, "frame_size": 32}
    manifest = prepare("gaze", source, tmp_path / "records", **sizes, gaze=setting, labels_out=tmp_path / "out")
    assert [video["video"] for video in manifest["videos"]] == ["a", "b", "c"]
    for split, films in (("train", 2), ("test", 1)):
        records = open_split(tmp_path / "records", split)
        truth = np.array([records[index]["time_s"] // 4 % 2 == 1 for index in range(len(records))])
        labels = np.array([records[index]["label"] for index in range(len(records))])
        assert manifest["splits"][split]["videos"] == films
        assert (labels == truth).mean() > 0.85
        assert set(labels) == {0, 1}
    kept = np.load(tmp_path / "records" / manifest["annotations"]["a"])
    assert kept["concentration"].shape == kept["observers"].shape == (1000,)
    assert kept["validity"].shape == (6,)
    assert kept["gaze"].shape == (6, 1000, 2)
    assert split_half(kept["halves"]) > 0.7
    with open(tmp_path / "out" / "a.labels.csv") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["frame", "label"]
    assert [int(label) for _, label in rows[1:]].count(1) == round((len(rows) - 1) / 2) > 450
    assert (tmp_path / "out" / "a.gaze.png").read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "out" / "a.concentration.csv") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["time_s", "value", "observers"]
    assert float(rows[-1][0]) == pytest.approx(999 / 25)


def test_clips_of_moments_with_too_few_observers_are_unlabelled(source, tmp_path):
    (tmp_path / "films" / "a.gaze").mkdir(parents=True)
    (tmp_path / "films" / "a.mkv").symlink_to(source / "a.mkv")
    early = {name: rows[rows[:, 1] < 20] for name, rows in list(OBSERVERS.items())[:4]}
    writers.eyelink(tmp_path / "films" / "a.gaze", early | {"late": OBSERVERS["viewer5"]})
    manifest = prepare("gaze", tmp_path / "films", tmp_path / "records", frame_size=32)
    assert 15 <= manifest["splits"]["train"]["clips"] <= 20
    assert 19 <= manifest["splits"]["unlabelled"]["clips"] <= 24
    records = open_split(tmp_path / "records", "unlabelled")
    assert all(np.isnan(records[index]["label"]) for index in range(len(records)))


def test_films_without_enough_gaze_do_not_affect_the_others(source, tmp_path):
    for path in source.glob("a.*"):
        (tmp_path / path.name).symlink_to(path)
    write_film(tmp_path / "d.mkv", frames=100)
    write_film(tmp_path / "e.mkv", frames=100)
    (tmp_path / "e.gaze").mkdir()
    (tmp_path / "e.gaze" / "x.csv").write_text(
        "observer,time_s,x,y\n" + "".join(f"a,{n / 50},.5,.5\n" for n in range(99))
    )
    manifest = prepare("gaze", tmp_path, tmp_path / "records", frame_size=32, gaze=Setting(screen=writers.SCREEN))
    reasons = {item["video"]: item["reason"] for item in manifest["skipped"]}
    assert reasons.keys() == {"d.mkv", "e.mkv"}
    assert "no folder d.gaze" in reasons["d.mkv"]
    assert "1 observers, and key frames need at least 3" in reasons["e.mkv"]
    assert json.loads((tmp_path / "records" / "manifest.json").read_text())["dataset"] == "gaze"


def test_settings_of_gaze_are_refused_for_other_data_sets(source, tmp_path):
    with pytest.raises(UserError, match="are for gaze; leave them out for movies"):
        prepare("movies", source, tmp_path / "records", gaze=Setting())


def test_the_command(source, tmp_path, forked):
    (tmp_path / "films").mkdir()
    for path in [*source.glob("a.*"), *source.glob("c.*")]:
        (tmp_path / "films" / path.name).symlink_to(path)
    arguments = ["prepare_data.py", "--dataset=gaze", f"--source={tmp_path / 'films'}"]
    arguments += [f"--output={tmp_path / 'records'}", "--workers=1", "--frames=8"]
    arguments += ["--frame_size=32", "--gaze_screen=1280x960", "--key_share=0.5", f"--labels_out={tmp_path / 'out'}"]
    done = forked(*arguments)
    assert done.returncode == 0, done.stderr
    assert "train: 38 clips of 1 film, " in done.stdout
    assert "unlabelled: 2 clips of 2 films" in done.stdout
    assert (tmp_path / "out" / "c.labels.csv").exists()
    told = forked("-m", "avmsnet_jax", "inspect", tmp_path / "records")
    assert re.search(r"^  a: +6 observers, split-half 0\.[7-9]\d$", told.stdout, re.MULTILINE), (
        told.stdout + told.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--dataset=gaze", "--gaze_screen=1280"], "--gaze_screen is '1280'; give WIDTHxHEIGHT in pixels"),
        (["--dataset=gaze", "--gaze_film=0,0,wide,high"], "give LEFT,TOP,WIDTH,HEIGHT in pixels"),
        (["--dataset=gaze", "--gaze_format=video"], "--gaze_format is 'video'; choose plain, diem, bids"),
        (
            ["--dataset=movies", "--key_share=0.2"],
            "--key_share and --labels_out are for gaze; leave them out for movies",
        ),
    ],
)
def test_mistakes_of_the_command(source, tmp_path, forked, arguments, complaint):
    done = forked("prepare_data.py", *arguments, f"--source={source}", f"--output={tmp_path / 'records'}")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not (tmp_path / "records").exists()
