"""The command inspect: the text and the picture that describe records."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from avmsnet_jax.data import inspect
from avmsnet_jax.data.pipeline import open_split
from avmsnet_jax.data.prepare import prepare
from tests.conftest import one_line
from tests.media.films import encode, numbered


def pixels(path, color):
    """How many pixels of a picture have this color."""
    wanted = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    with Image.open(path) as image:
        assert image.format == "PNG"
        return int((np.asarray(image.convert("RGB")) == wanted).all(-1).sum())


@pytest.fixture(scope="module")
def awkward(tmp_path_factory):
    """Records of two films whose names no formula or font survives, and of one broken file; the second is silent."""
    folder = tmp_path_factory.mktemp("awkward")
    (folder / "films").mkdir()
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 60 * 882)).astype(np.float32)
    for name in ("Das $Boot$ 日本 \\frac{", "ein sehr langer Name, der nicht aufhören will, $ bis zuletzt nicht"):
        pictures = [numbered(number) for number in range(1, 61)]
        encode(folder / "films" / f"{name}.mkv", pictures, 25, sound=sound if "Boot" in name else None)
        (folder / "films" / f"{name}.keyshots.csv").write_text("start_s,end_s\n1,1.5\n")
    (folder / "films" / "broken.mp4").write_bytes(b"no film")
    (folder / "films" / "broken.keyshots.csv").write_text("start_s,end_s\n")
    prepare("movies", folder / "films", folder / "records", frames=8, frame_size=16, spacing=5, test_fraction=0)
    return folder / "records"


def test_inspect_describes_the_records(awkward, forked, tmp_path):
    done = forked("-m", "avmsnet_jax", "inspect", awkward, f"--output={tmp_path / 'a' / 'sheet.png'}")
    assert (done.returncode, done.stderr) == (0, "")
    first, train, films, skipped, disk, written = done.stdout.splitlines()
    assert first == f"{awkward}: movies, clips of 8 frames of 16x16, one every 5 frames"
    # Centers 5 to 55 of 60 frames; labeled are frames 6, 10, 16, ...; those from 26 to 38 lie in the key shot.
    told = "train: 22 clips of 2 films, 27.3% key, 0:00:07 in the clips"
    assert train.split() == told.split()
    assert films.split() == ["films:", "2,", "0:00:05", "of", "running", "time,", "1", "with", "sound"]
    assert skipped.split(":")[:3] == ["  skipped", "    1, of which the first", " broken.mp4"]
    megabytes = sum(path.stat().st_size for path in awkward.rglob("*") if path.is_file()) / 1e6
    assert disk.split() == f"on disk: {megabytes:,.1f} MB".split()
    assert written == f"written to {tmp_path / 'a' / 'sheet.png'}"
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "sheet.png"]
    assert pixels(tmp_path / "a" / "sheet.png", inspect.COLORS["key"]) > 1000
    assert pixels(tmp_path / "a" / "sheet.png", inspect.COLORS["other"]) > 1000


def test_users_and_folds(scored):
    told = inspect.account(scored, users=3)
    assert "  users:      3 at most gave a film's scores" in told
    assert "  folds:      2, train 13 to 20 clips, test 18 to 25 clips" in told


def test_clips_are_chosen_from_all_over_and_of_both_kinds(directory):
    records = open_split(directory, "train")
    everything = [inspect.kind_of(record) for record in records]
    keys = everything.count("key")
    chosen = inspect.choose(records, 12)
    numbers = [number for number, _ in chosen]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 12
    assert [inspect.kind_of(record) for _, record in chosen].count("key") == min(keys, 6) == 6
    assert {str(record["video"]) for _, record in chosen} == {"a", "b"}
    others = [number for number, record in chosen if inspect.kind_of(record) == "other"]
    gaps = np.diff([-1, *others, len(records)])
    assert gaps.max() <= len(records) // 2
    assert [number for number, _ in inspect.choose(records, 12)] == numbers
    assert [number for number, _ in inspect.choose(records, 99)] == list(range(len(records)))


def test_a_sheet_without_labels_or_sound(scored, awkward, tmp_path):
    inspect.draw_sheet(open_split(scored, "unlabelled"), tmp_path / "unlabelled.png")
    assert pixels(tmp_path / "unlabelled.png", inspect.COLORS["no label"]) > 1000
    assert not any(pixels(tmp_path / "unlabelled.png", inspect.COLORS[kind]) for kind in ("key", "other"))
    for name in ("one", "two"):  # a single fold's test clips, with users' scores; the same picture again
        inspect.draw_sheet(open_split(scored, "test", fold=1), tmp_path / f"{name}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_mistakes_are_one_line(awkward, forked, tmp_path):
    for arguments, message in (
        ([], "give one folder: the --output of python -m avmsnet_jax prepare or python -m avmsnet_jax summarize"),
        ([awkward, "--split=dev"], "has no split 'dev'; it has train"),
        ([tmp_path], f"{tmp_path} holds neither records nor summaries; give the --output of python -m avmsnet_jax pre"),
        ([tmp_path / "none"], f"{tmp_path}/none is no folder; give the --output of python -m avmsnet_jax prepare"),
        ([awkward / "manifest.json"], "manifest.json is a file; give the folder that holds it"),
        ([awkward, f"--output={tmp_path}"], f"{tmp_path} is a folder; give the picture to write"),
    ):
        assert message in one_line(forked("-m", "avmsnet_jax", "inspect", *arguments))
    damaged = shutil.copytree(awkward, tmp_path / "damaged")
    manifest = json.loads((damaged / "manifest.json").read_text())
    del manifest["videos"]
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    message = "manifest.json is of another version or damaged (KeyError('videos')); prepare the data again"
    assert message in one_line(forked("-m", "avmsnet_jax", "inspect", damaged))
