"""Malicious or damaged files of scores and annotations: read as arrays of numbers, or an error of one line."""

import contextlib
import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avmsnet_jax import array_file, mat_file
from avmsnet_jax.data.sources import summe
from avmsnet_jax.data.sources.movies import read_key_shots
from avmsnet_jax.data.sources.tables import read_labels
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation.annotations import Judged, read_annotations
from avmsnet_jax.evaluation.score_files import read_scores
from tests.data.sources.downloads import chosen, votes, write_summe_mat, write_tvsum_mat
from tests.evaluation.conftest import field_video, write_hdf5

VIDEOS = [
    Judged(f"clip {number}", f"video_{number}", 60, np.arange(0, 60, 15), user_summaries=np.ones((2, 60), bool))
    for number in (1, 2)
]
GOOD = [0.1, 0.2, 0.3, 0.4]


def refused(path: Path, *parts: str) -> str:
    """The error message for scores that cannot be read; it names the file."""
    with pytest.raises(UserError) as caught:
        read_scores(path, VIDEOS)
    message = str(caught.value)
    assert str(path) in message
    for part in parts:
        assert part in message
    return message


# JSON


@pytest.mark.parametrize(
    "values",
    [
        [[0.1], [0.2, 0.3], [0.4]],
        ["0.1", "0.2", "0.3", "0.4"],
        [0.1, None, 0.3, 0.4],
        {"score": GOOD},
        None,
        "0.1 0.2 0.3 0.4",
        3,
        [],
        [GOOD, GOOD],
        [0.1, {}, 0.3, 0.4],
        [10**400, 1, 1, 1],
        [float("nan"), 1, 1, 1],
        [1, 1, 1, float("-inf")],
        [0.1] * 5,
    ],
)
def test_json_without_an_array_of_numbers(tmp_path, values):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"video_1": GOOD, "video_2": values}))
    refused(path, "video_2")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "3",
        "null",
        '"video_1"',
        "[[0.1]]",
        "[3]",
        "[" * 100_000,
        '{"video_1":' * 100_000,
        '{"video_1": 1' + "0" * 5000,
    ],
)
def test_json_with_another_structure(tmp_path, content):
    path = tmp_path / "s.json"
    path.write_text(content)
    refused(path)


def test_json_nested_beyond_the_axes_of_an_array(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"video_1": ' + "[" * 200 + "0.1" + "]" * 200 + "}")
    refused(path, "video_1")


def test_duplicate_names(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"video_1": [1, 2, 3, 4], "video_1": [4, 3, 2, 1]}')
    refused(path, "twice")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["video_1", "clip 2", "x"]), VALUES | st.just(GOOD), max_size=3) | VALUES)
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_json_gives_scores_or_an_error_of_one_line(tmp_path, values):
    path = tmp_path / "s.json"
    path.write_text(json.dumps(values))
    with contextlib.suppress(UserError):
        for table in read_scores(path, VIDEOS):
            assert all(np.isfinite(scored.scores).all() for scored in table.values())


# Folders


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("video_1.npy", b""),
        ("video_1.npy", b"\x93NUMPY\x01\x00"),
        ("video_1.npy", b"no array"),
        ("video_1.csv", b""),
        ("video_1.csv", b"frame,score\n1\n"),
        ("video_1.csv", b"frame,score\n1,x\n"),
        ("video_1.csv", b"frame,score\n" + b"1" * 5000 + b",0.5\n"),
        ("video_1.csv", b"frame,score\n1," + b"5" * 200_000 + b"\n"),
        ("video_1.csv", b"frame,value\n1,0.5\n"),
        ("video_1.csv", b"\xff\xfe\x00"),
        ("video_1.json", b"{"),
        ("video_1.h5", b"no hdf5"),
    ],
)
def test_unreadable_files_in_a_folder(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert name in refused(tmp_path)


@pytest.mark.parametrize("name", ["video_1.npy", "video_1.csv", "s.json", "s.h5"])
@pytest.mark.parametrize("kind", ["dangling link", "folder", "loop", "pipe"])
def test_paths_that_are_not_regular_files(tmp_path, name, kind):
    path = tmp_path / name
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere" if kind == "dangling link" else name)
    refused(tmp_path)


def test_links_in_a_folder_of_scores_are_refused(tmp_path):
    """A link may lead to any file on this machine."""
    outside, inside = tmp_path / "outside.csv", tmp_path / "scores"
    outside.write_text("frame,score\n1,0.5\n")
    (inside / "split0").mkdir(parents=True)
    (inside / "split0" / "video_1.csv").symlink_to(outside)
    refused(inside, "video_1.csv is a link")
    shutil.rmtree(inside / "split0")
    (inside / "split0").symlink_to(tmp_path)
    refused(inside, "split0 is a link")


def test_nested_and_duplicate_splits(tmp_path):
    (tmp_path / "split0").mkdir()
    (tmp_path / "split0" / "split0").mkdir()
    refused(tmp_path / "split0")
    (tmp_path / "fold_0").mkdir()
    refused(tmp_path, "fold_0 and split0; keep one")


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_not_loaded(tmp_path):
    folder = tmp_path / "scores"
    folder.mkdir()
    np.save(folder / "video_1.npy", np.array([Evil(tmp_path / "ran")]), allow_pickle=True)
    refused(folder, "video_1.npy", "no numbers")
    (folder / "video_1.npy").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    refused(folder, "video_1.npy")
    np.savez(tmp_path / "a.npz", x=np.array([Evil(tmp_path / "ran")]), y=np.ones(3))
    assert list(array_file.read_npz(tmp_path / "a.npz", "x")) == ["y"]
    assert not (tmp_path / "ran").exists()


# False sizes


def npy_header(shape, dtype="<f8"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize("shape", [(10**13,), (2**62, 8), (-4,), (-1, -4), (5,)])
def test_npy_headers_that_promise_more_than_the_file_holds(tmp_path, shape):
    (tmp_path / "video_1.npy").write_bytes(npy_header(shape) + bytes(32))
    refused(tmp_path, "video_1.npy", "promises")


def test_npz_that_expands_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(array_file, "MOST_BYTES", 5_000_000)
    path = tmp_path / "a.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        file.write(npy_header((6_000_000,), "|u1"))
        for _ in range(6):
            file.write(bytes(1_000_000))
    with pytest.raises(UserError, match="more than 5 MB"):
        array_file.read_npz(path, "write it again")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", npy_header((10**12,), "|u1") + bytes(10))
    with pytest.raises(UserError, match="promises an array"):
        array_file.read_npz(path, "write it again")


def huge(file):
    file.create_dataset("video_1", (10**13,), "f8", chunks=(1000,))


def huge_chunk(file):
    file.create_dataset("video_1", (4,), "u1", chunks=(10**8,), maxshape=(None,), compression="gzip")


def never_written(file):
    file.create_dataset("video_1", (40_000_000,), "f8")


def bomb(file):
    file.create_dataset("video_1", data=np.zeros(60_000_000, np.uint8), compression="gzip", compression_opts=1)


def external(file):
    file.create_dataset("video_1", (60,), "u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def virtual(file):
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource("secret.h5", "video_1", (4,))
    file.create_virtual_dataset("video_1", layout)


def soft(file):
    file["other"] = GOOD
    file["video_1"] = h5py.SoftLink("/other")
    del file["other"]


def in_another_file(file):
    file["video_1"] = h5py.ExternalLink("secret.h5", "video_1")


def in_a_group(file):
    file.create_group("video_1")["score"] = h5py.ExternalLink("secret.h5", "video_1")


def loop(file):
    file["video_1"] = h5py.SoftLink("/video_1")


def plugin(file):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((4,))
    properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    h5py.h5d.create(file.id, b"video_1", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((4,)), properties)


def scores_are_a_group(file):
    file.create_group("video_1/scores")


def texts(file):
    file["video_1"] = ["a", "b", "c", "d"]


def compound(file):
    file["video_1"] = np.zeros(4, [("a", "f8")])


def ragged(file):
    data = file.create_dataset("video_1", (4,), h5py.vlen_dtype(np.float64))
    data[:] = [np.ones(number) for number in range(4)]


def empty(file):
    file["video_1"] = h5py.Empty("f8")


def references(file):
    file["x"] = 1.0
    file.create_dataset("video_1", (4,), h5py.ref_dtype)[:] = [file["x"].ref] * 4
    del file["x"]


WRITERS = {
    huge: "values are read",
    huge_chunk: "values are read",
    never_written: "the file is too small for it",
    bomb: "values are read",
    external: "lies in another file",
    virtual: "lies in another file",
    soft: "is a link",
    in_another_file: "is a link",
    in_a_group: "is a link",
    loop: "is a link",
    plugin: "stored by a filter other than",
    scores_are_a_group: "is no data set",
    texts: "is of type",
    compound: "is of type",
    ragged: "is of type",
    empty: "has the shape None",
    references: "is of type",
}


@pytest.mark.parametrize(("write", "reason"), WRITERS.items(), ids=[write.__name__ for write in WRITERS])
def test_hdf5_with_external_data_or_without_scores(tmp_path, write, reason):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["video_1"] = [0.123456, 0.2, 0.3, 0.4]
    with h5py.File(tmp_path / "s.h5", "w") as file:
        write(file)
    message = refused(tmp_path / "s.h5", "video_1", reason)
    assert "root:" not in message
    assert "0.123" not in message


# Annotations


@pytest.mark.parametrize(
    "changes",
    [
        {"user_summary": h5py.SoftLink("/nowhere")},
        {"user_summary": h5py.ExternalLink("other.h5", "x")},
        {"n_frames": 999_999_999_999},
        {"n_frames": np.inf},
        {"n_frames": [300, 300]},
        {"n_frames": "300"},
        {"user_summary": np.zeros((0, 300))},
        {"user_summary": np.zeros((3, 300, 2))},
        {"picks": np.arange(20)[::-1]},
        {"picks": np.full(20, 1e300)},
        {"picks": [0, 400]},
        {"change_points": np.ones((3, 5))},
        {"change_points": None, "features": np.ones(20)},
        {"change_points": None, "features": np.ones((20, 2), [("a", "f8")])},
        {"video_name": h5py.SoftLink("/nowhere")},
        {"video_name": np.arange(3)},
    ],
)
def test_inconsistent_annotations(tmp_path, changes):
    fields = field_video(np.random.default_rng(0), users=20) | changes
    fields = {name: value for name, value in fields.items() if value is not None}
    path = write_hdf5(tmp_path / "a.h5", {"video_1": fields})
    with pytest.raises(UserError, match=r"a\.h5"):
        read_annotations([path])


def test_mat_files_that_expand_beyond_the_limit_or_claim_to(tmp_path, monkeypatch):
    monkeypatch.setattr(mat_file, "MOST_BYTES", 5_000_000)
    path = tmp_path / "GT" / "car.mat"
    path.parent.mkdir()
    scipy.io.savemat(path, {"user_score": np.zeros((6_000_000, 1), np.uint8)}, do_compression=True)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"car\.mat .unpacked, it has more than 5 MB"):
        summe.read_annotation(path)
    nested = np.zeros(1)
    for _ in range(100):
        outer = np.empty(1, object)
        outer[0], nested = nested, outer
    write_summe_mat(path, chosen(80), segments=nested)
    with pytest.raises(UserError, match=r"car\.mat .*cells in cells"):
        summe.read_annotation(path)
    write_summe_mat(path, chosen(80), nFrames=999_999_999_999)
    with pytest.raises(UserError, match=r"car\.mat"):
        summe.read_annotation(path)


# Changed bytes


def mutated(whole: bytes, number: int) -> bytes:
    rng = np.random.default_rng(number)
    content = bytearray(whole)
    for place in rng.integers(0, len(content), 1 + number % 20):
        content[place] = rng.integers(256)
    if number % 4 == 0:
        del content[rng.integers(len(content)) :]
    if number % 7 == 0:  # move a part of the file
        start, at = sorted(rng.integers(0, len(content) + 1, 2))
        content[start:start] = content[at : at + 50]
    return bytes(content)


def whole_file(kind: str, folder: Path) -> Path:
    rng = np.random.default_rng(0)
    if kind == "json":
        (folder / "s.json").write_text(json.dumps({"video_1": GOOD, "clip 2": rng.random(60).tolist()}))
        return folder / "s.json"
    if kind == "scores.h5":
        return write_hdf5(folder / "s.h5", {f"video_{n}": {"score": rng.random(60)} for n in (1, 2)})
    if kind == "field.h5":
        videos = {f"video_{n}": field_video(rng, users=20, video_name=f"v{n}") for n in (1, 2)}
        return write_hdf5(folder / "a.h5", videos)
    if kind == "tvsum.mat":
        write_tvsum_mat(folder / "ydata-tvsum50.mat", {"a": votes(60), "b": votes(90)})
        return folder / "ydata-tvsum50.mat"
    if kind == "summe.mat":
        write_summe_mat(folder / "GT" / "a.mat", chosen(80))
        return folder / "GT" / "a.mat"
    if kind == "npy":
        np.save(folder / "video_1.npy", rng.random(60))
        return folder / "video_1.npy"
    if kind == "npz":
        np.savez_compressed(folder / "a.npz", user_scores=votes(60), n_frames=60, title="x")
        return folder / "a.npz"
    name, rows = {
        "scores.csv": ("video_1.csv", "frame,score\n" + "".join(f"{frame},0.{frame}\n" for frame in range(1, 60))),
        "labels.csv": ("a.labels.csv", "frame,label\n" + "".join(f"{frame},{frame % 2}\n" for frame in range(1, 60))),
        "keyshots.csv": ("a.keyshots.csv", "start_s,end_s\n" + "".join(f"{at},{at + 0.5}\n" for at in range(40))),
    }[kind]
    (folder / name).write_text(rows)
    return folder / name


READERS = {
    "json": lambda path: read_scores(path, VIDEOS),
    "scores.h5": lambda path: read_scores(path, VIDEOS),
    "field.h5": lambda path: read_annotations([path], "tvsum"),
    "tvsum.mat": lambda path: read_annotations([path]),
    "summe.mat": lambda path: read_annotations([path]),
    "npy": lambda path: read_scores(path.parent, VIDEOS),
    "npz": lambda path: array_file.read_npz(path, "write it again"),
    "scores.csv": lambda path: read_scores(path.parent, VIDEOS),
    "labels.csv": lambda path: read_labels(path, 60),
    "keyshots.csv": lambda path: read_key_shots(path, 60.0),
}


@pytest.mark.parametrize("kind", READERS)
def test_changed_bytes(tmp_path, kind):
    path = whole_file(kind, tmp_path)
    READERS[kind](path)
    whole, refusals = path.read_bytes(), 0
    for number in range(60):
        path.write_bytes(mutated(whole, number))
        try:
            READERS[kind](path)
        except UserError:
            refusals += 1
    assert refusals > 5
