"""Malicious or damaged records: nothing in them is executed, followed or trusted."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from avmsnet_jax.data import inspect
from avmsnet_jax.data.pipeline import hold_out, open_split
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import annotations
from tests.conftest import ROOT

MODULE = "avmsnet_planted_module"


@pytest.fixture
def records(directory, tmp_path):
    return shutil.copytree(directory, tmp_path / "records")


def file_of(records, name):
    return next(records.rglob(name))


def edit(path, change):
    """Rewrites a JSON file."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def rewrite(path, records, options="group_size:1,zstd:1"):
    """A shard of other records."""
    path.unlink()
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()


def contents(path):
    reader = ArrayRecordReader(str(path))
    return [reader.read([number])[0] for number in range(reader.num_records())]


# Code


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
def test_no_module_that_a_file_names_is_imported(records, directory, tmp_path, monkeypatch, file):
    (tmp_path / f"{MODULE}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = file_of(records, file)
    if file == "features.json":
        edit(path, lambda values: values.update(pythonClassName=f"{MODULE}.Features"))
    else:
        edit(path, lambda values: values.update(moduleName=MODULE))
    opened, original = open_split(records, "train"), open_split(directory, "train")
    assert all(np.array_equal(opened[3][name], original[3][name]) for name in original[3])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [None, "", "{", "[" * 100_000, '{"pythonClassName": 3}'])
def test_the_features_file_is_not_needed(records, content):
    path = file_of(records, "features.json")
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert open_split(records, "train")[0]["clip"].shape == (8, 16, 16, 3)


def test_modules_of_the_current_folder_are_not_run(records, tmp_path):
    folder = tmp_path / "download"
    shutil.copytree(records, folder)
    for name in (MODULE, "matplotlib", "grain", "array_record", "tensorflow_datasets"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    edit(file_of(folder, "features.json"), lambda values: values.update(pythonClassName=f"{MODULE}.Features"))
    done = subprocess.run(
        [sys.executable, "-m", "avmsnet_jax", "inspect", ".", "--output=../sheet.png"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert not (tmp_path / "ran").exists()


# Other places


def linked(path, target):
    shutil.move(path, target)
    path.symlink_to(target)


@pytest.mark.parametrize("how", ["..", "absolute", "folder link", "shard link", "info link", "manifest link"])
def test_nothing_outside_the_folder_is_read(records, tmp_path, how):
    manifest = json.loads((records / "manifest.json").read_text())
    folder = records / manifest["records"]
    elsewhere = tmp_path / "elsewhere"
    if how in ("..", "absolute"):
        shutil.copytree(folder, elsewhere)
        place = "../elsewhere" if how == ".." else str(elsewhere)
        edit(records / "manifest.json", lambda values: values.update(records=place))
    elif how == "folder link":
        linked(folder, elsewhere)
    else:
        name = {
            "shard link": "*train.array_record*",
            "info link": "dataset_info.json",
            "manifest link": "manifest.json",
        }
        linked(file_of(records, name[how]), elsewhere)
    with pytest.raises(UserError, match=r"lies outside this folder, and nothing else is read; put the file itself"):
        open_split(records, "train")


@pytest.mark.parametrize("name", ["../secret.npz", "/etc/passwd", "link.npz", "\0"])
def test_judgments_outside_the_folder_are_not_read(records, tmp_path, name):
    np.savez(tmp_path / "secret.npz", n_frames=10, fps=25.0, user_scores=np.ones((2, 10), np.uint8))
    (records / "link.npz").symlink_to(tmp_path / "secret.npz")
    edit(records / "manifest.json", lambda values: values.update(dataset="tvsum", annotations={"a": name}))
    with pytest.raises(UserError, match="lies outside this folder"):
        annotations.read_annotations([records])


# What is claimed


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("manifest.json", b""),
        ("manifest.json", b'{"dataset": "movies", "rec'),
        ("manifest.json", b"[" * 100_000),
        ("manifest.json", b'{"a":' * 100_000),
        ("manifest.json", b"[]"),
        ("manifest.json", b"3"),
        ("manifest.json", b"\xff\xfe{}"),
        ("dataset_info.json", b""),
        ("dataset_info.json", b'{"splits": [{"name": "tr'),
        ("dataset_info.json", b"[" * 100_000),
        ("dataset_info.json", b"null"),
        ("dataset_info.json", b'{"name": "movies", "splits": {}}'),
    ],
)
def test_files_that_are_cut_or_nested_deeply(records, file, content):
    path = file_of(records, file)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"the data again") as caught:
        open_split(records, "train")
    assert file in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("videos"),
        lambda values: values.pop("records"),
        lambda values: values.pop("settings"),
        lambda values: values.update(splits={}),
        lambda values: values.update(splits=["train"]),
        lambda values: values.update(videos={"a": 1}),
        lambda values: values["videos"][0].pop("clips"),
        lambda values: values["videos"][0].update(frames=999_999_999_999),
        lambda values: values["videos"][0].update(frames="110"),
        lambda values: values["videos"][0].update(fps=float("nan")),
        lambda values: values["videos"][0].update(fps=0),
        lambda values: values["videos"][0].update(clips={"train": 10**15}),
        lambda values: values["videos"][0].update(video=["a"]),
        lambda values: values["settings"].update(frames=10**9),
        lambda values: values["settings"].update(frame_size=-16),
        lambda values: values["splits"]["train"].update(clips=0),
        lambda values: values.update(folds=[{"train": [[0, 10**15]]}]),
        lambda values: values.update(folds=[{"train": [[5, 1]]}]),
        lambda values: values.update(folds=[["train"]]),
        lambda values: values.update(annotations={"a": 3}),
        lambda values: values.update(skipped=[3]),
    ],
)
def test_an_invalid_manifest_is_refused(records, change):
    edit(records / "manifest.json", change)
    for use in (lambda: open_split(records, "train"), lambda: inspect.account(records, 0)):
        with pytest.raises(
            UserError, match=r"manifest\.json is of another version or damaged .*; prepare the data again"
        ):
            use()


def test_films_with_more_records_than_there_are(records):
    edit(records / "manifest.json", lambda values: values["videos"][0].update(clips={"train": 10**8}))
    edit(records / "manifest.json", lambda values: values.update(videos=values["videos"] * 2))
    with pytest.raises(UserError, match="its counts of clips do not match the stored records"):
        hold_out(open_split(records, "train"), 0.1, 0)


@pytest.mark.parametrize("lengths", [[], ["0"], ["-1"], ["x"], [10**15], "38", [["38"]], None])
def test_invalid_shard_lengths_are_refused(records, lengths):
    def change(values):
        for split in values["splits"]:
            split["shardLengths"] = lengths

    edit(file_of(records, "dataset_info.json"), change)
    with pytest.raises(UserError, match=r"dataset_info\.json is of another version or damaged|are damaged"):
        open_split(records, "train")


@pytest.mark.parametrize("name", ["../movies", "/movies", "", 3])
def test_shard_names_that_are_paths_are_refused(records, name):
    edit(file_of(records, "dataset_info.json"), lambda values: values.update(name=name))
    with pytest.raises(UserError, match=r"dataset_info\.json is of another version or damaged"):
        open_split(records, "train")


# Records


@pytest.mark.parametrize("field", ["clip", "sound", "has_sound", "label", "video", "frame", "time_s", "fps"])
def test_records_that_lack_a_field_are_found_when_they_are_opened(records, field):
    path, changed = file_of(records, "*train.array_record*"), []
    for record in contents(path):
        example = tf_example_pb2.Example.FromString(record)
        del example.features.feature[field]
        changed.append(example.SerializeToString())
    rewrite(path, changed)
    with pytest.raises(UserError, match=f"are damaged .records have no {field}.; prepare them again"):
        open_split(records, "train")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clip", b"\0" * 100),
        ("clip", b"\0" * 50_000),
        ("sound", b""),
        ("label", 2),
        ("label", -(2**63)),
        ("frame", 2**40),
        ("frame", 0),
        ("fps", b"\0" * 8),
        ("fps", np.float64("nan").tobytes()),
        ("time_s", b"\0" * 16),
        ("video", b"\xff"),
        ("label", b"1"),
        ("clip", 1),
    ],
)
def test_records_with_invalid_values_are_refused(records, field, value):
    path = file_of(records, "*train.array_record*")
    first, *rest = contents(path)
    example = tf_example_pb2.Example.FromString(first)
    del example.features.feature[field]
    if isinstance(value, bytes):
        example.features.feature[field].bytes_list.value.append(value)
    else:
        example.features.feature[field].int64_list.value.append(value)
    rewrite(path, [example.SerializeToString(), *rest])
    with pytest.raises(UserError, match=r"are damaged .*; prepare them again"):
        open_split(records, "train")


@pytest.mark.parametrize("place", [0, 20, 37])
def test_a_record_that_would_unpack_to_far_more_is_not_unpacked(records, place):
    path = file_of(records, "*train.array_record*")
    stored = contents(path)
    stored[place] = bytes(64_000_000)
    rewrite(path, stored)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(UserError, match=r"a record of .* would have 64,000,\d+ bytes, more than the .* allowed"):
        open_split(records, "train")


def test_changed_bytes_give_the_same_records_or_one_line(records):
    """However a shard is damaged, each record is read unchanged, or there is an error of one line."""
    path = file_of(records, "*train.array_record*")
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for number in range(40):
        content = bytearray(whole)
        for place in rng.integers(0, len(content) if number % 2 else 200_000, 1 + number % 30):
            content[place] = rng.integers(256)
        if number % 5 == 0:
            del content[rng.integers(len(content)) :]
        path.write_bytes(content)
        try:
            shapes = {record["clip"].shape for record in open_split(records, "train")}
        except UserError:
            refused += 1
        else:
            assert shapes == {(8, 16, 16, 3)}
    assert refused > 10
