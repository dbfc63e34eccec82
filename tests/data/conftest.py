import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from avmsnet_jax.data.prepare import prepare
from tests.media.films import encode, numbered


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    """A folder of three films, a (25 fps, sound), b (29.97 fps, silent), c (10 fps, sound), with key shots."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    for name, fps, n_frames, shots in (
        ("a", 25, 110, "1.0,3.0"),
        ("b", 29.97, 90, ""),
        ("c", 10, 60, "0,2\n4.0,4.9"),
    ):
        sound = rng.uniform(-0.5, 0.5, (1, int(n_frames / fps * 22050))).astype(np.float32)
        pictures = [numbered(number) for number in range(1, n_frames + 1)]
        encode(folder / f"{name}.mkv", pictures, fps, sound=None if name == "b" else sound)
        (folder / f"{name}.keyshots.csv").write_text(f"start_s,end_s\n{shots}\n")
    return folder


@pytest.fixture(scope="session")
def directory(films, tmp_path_factory):
    """Records of these films: a and b to train on, 38 clips, c to test on."""
    output = tmp_path_factory.mktemp("prepared") / "records"
    prepare("movies", films, output, frames=8, frame_size=16, spacing=5)
    return output


@pytest.fixture(scope="session")
def scored(directory, tmp_path_factory):
    """The records of `train` as a collection in two folds that three users have scored, and again without labels."""
    output = tmp_path_factory.mktemp("scored") / "records"
    shutil.copytree(directory, output)
    folder = next(output.rglob("features.json")).parent
    builder = tfds.builder_from_directory(folder)
    scores = tfds.features.Tensor(shape=(3,), dtype=np.float32, encoding="bytes")
    features = tfds.features.FeaturesDict({**builder.info.features, "scores": scores})
    examples = list(builder.as_data_source("train"))
    features.save_config(folder)
    (name,) = (path.name for path in folder.glob("*train.array_record*"))
    for path in folder.glob("*.array_record*"):
        path.unlink()
    for split, labels in (("whole", [example["label"] for example in examples]), ("unlabelled", [-1] * len(examples))):
        writer = ArrayRecordWriter(str(folder / name.replace("train", split)), "group_size:1")
        for number, (example, label) in enumerate(zip(examples, labels, strict=True)):
            given = np.array([number, label, np.nan], np.float32)
            writer.write(features.serialize_example({**example, "label": label, "scores": given}))
        writer.close()
    info = json.loads((folder / "dataset_info.json").read_text())
    (kept,) = (split for split in info["splits"] if split["name"] == "train")
    info["splits"] = [{**kept, "name": split} for split in ("whole", "unlabelled")]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    manifest = json.loads((output / "manifest.json").read_text())
    manifest["folds"] = [
        {"train": [[0, 20]], "test": [[20, 38]]},
        {"train": [[0, 5], [30, 38]], "test": [[5, 30]]},
    ]
    (output / "manifest.json").write_text(json.dumps(manifest))
    return output
