"""Cuts that a person has looked through, as labels and as `inspect` counts them."""

import dataclasses
import json

import pytest

from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.errors import UserError
from avmsnet_jax.summarization import cutlist, reviewed
from tests.conftest import one_line
from tests.summarization.made import editing_of, make_summary

SIZES = {"frames": 8, "frame_size": 16, "spacing": 5, "test_fraction": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of two films and a folder of their summaries; nobody has looked through either."""
    root = tmp_path_factory.mktemp("reviewed")
    for name in ("one", "two"):
        folder = root / "summaries" / name
        folder.mkdir(parents=True)
        (root / "films").mkdir(exist_ok=True)
        summary = make_summary(folder, root / "films" / f"{name}.mp4")
        cutlist.write(editing_of(summary).cut, folder)
    return root


def look_through(root, name, **changes):
    folder, film = root / "summaries" / name, root / "films" / f"{name}.mp4"
    cut = cutlist.read(folder / "cut.json", film)
    cutlist.write(dataclasses.replace(cut, reviewed=True, **changes), folder)


@pytest.fixture
def root(made, tmp_path):
    for folder in ("films", "summaries"):
        (tmp_path / folder).symlink_to(made / folder)
    kept = {path: path.read_bytes() for path in made.glob("summaries/*/cut.json")}
    yield tmp_path
    for path, content in kept.items():
        path.write_bytes(content)


def prepared(root):
    return prepare(
        "movies",
        root / "films",
        root / "records",
        elsewhere=lambda film: reviewed.key_shots(root / "summaries", film),
        **SIZES,
    )


def test_a_reviewed_cut_labels_its_film(root):
    look_through(root, "one")
    path, spans = reviewed.key_shots(root / "summaries", root / "films" / "one.mp4")
    assert path == root / "summaries" / "one" / "cut.json"
    assert spans == ((4.95, 8.95), (14.95, 16.95))  # 5 to 9 s and 15 to 17 s, half a frame earlier
    manifest = prepared(root)
    one, two = manifest["videos"]
    # Labeled frames from 6 on, one every 5: 51 to 90 and 151 to 170 are in the cut.
    assert (one["clips"]["train"], one["positives"]["train"]) == (47, 8 + 4)
    assert two["clips"] == {"train": 0, "test": 0, "whole": 0, "unlabelled": 47}


def test_a_table_beside_the_film_wins_over_its_cut(root, made):
    look_through(root, "one")
    table = made / "films" / "one.keyshots.csv"
    table.write_text("start_s,end_s\n1,2\n")
    try:
        assert prepared(root)["videos"][0]["positives"]["train"] == 2
    finally:
        table.unlink()


def test_a_cut_of_which_nothing_is_shown_labels_every_clip_0(root):
    cut = cutlist.read(root / "summaries" / "one" / "cut.json", root / "films" / "one.mp4")
    look_through(root, "one", shots=tuple(dataclasses.replace(shot, state="dropped") for shot in cut.shots))
    look_through(root, "two")
    one, two = prepared(root)["videos"]
    assert (one["clips"]["train"], one["positives"]["train"]) == (47, 0)
    assert two["positives"]["train"] == 12


def test_a_cut_of_another_film_fails_only_that_film(root):
    look_through(root, "one")
    look_through(root, "two", film=cutlist.load(root / "summaries" / "two" / "cut.json").film | {"size": 5})
    manifest = prepared(root)
    assert [video["video"] for video in manifest["videos"]] == ["one"]
    assert "is the cut of" in manifest["skipped"][0]["reason"]


def test_inspect_counts_the_films_that_are_looked_through(root, forked):
    look_through(root, "two")
    damaged = root / "summaries" / "one" / "cut.json"
    told = reviewed.account(root / "summaries").splitlines()
    assert told[0] == f"{root / 'summaries'}: 1 of 2 films looked through"
    assert told[1:] == ["  one: not looked through, 2 of 5 shots", "  two: looked through, 2 of 5 shots"]
    damaged.write_text(json.dumps({"version": 1}))
    done = forked("-m", "avmsnet_jax", "inspect", root / "summaries")
    assert (done.returncode, done.stderr) == (0, "")
    first, one, two = done.stdout.splitlines()
    assert (first, two) == tuple(told[::2])
    assert one.startswith(f"  one: {damaged} is damaged or no cut list")


def test_the_command_takes_cuts(root, forked):
    sizes = [f"--{name}={value}" for name, value in SIZES.items()]
    command = ["prepare_data.py", "--dataset=movies", f"--source={root / 'films'}", f"--output={root / 'out'}", *sizes]
    nobody = one_line(forked(*command, f"--cuts={root / 'summaries'}"))
    assert "nobody has looked through a cut" in nobody
    assert not (root / "out").exists()
    assert "--cuts is for movies" in one_line(forked(*command, "--dataset=tvsum", f"--cuts={root / 'summaries'}"))
    look_through(root, "one")
    done = forked(*command, f"--cuts={root / 'summaries'}")
    assert done.returncode == 0, done.stderr
    assert "train: 47 clips of 1 film, 25.5% key; " in done.stdout.replace(", unlabelled", "; unlabelled")


def test_a_folder_without_summaries_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no summaries"):
        reviewed.account(tmp_path)
