import json
import shutil

import numpy as np
import pytest

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.data.pipeline import eval_batches, open_split, steps_per_epoch, train_batches
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.errors import UserError


@pytest.fixture(scope="module")
def directory(films, tmp_path_factory):
    output = tmp_path_factory.mktemp("prepared") / "records"
    prepare("movies", films, output, frames=8, frame_size=16, spacing=5)
    return output


@pytest.fixture(scope="module")
def train(directory):
    return open_split(directory, "train")


def names(batch):
    """Which clips a batch holds."""
    return [f"{video}{frame}" for video, frame in zip(batch["video"], batch["frame"], strict=True)]


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[field], b[field]) for field in a)


def test_a_batch_is_what_the_network_takes(train):
    batch = next(train_batches(train, batch_size=4, seed=0))
    assert {name: (batch[name].shape, batch[name].dtype) for name in ("clip", "sound", "label")} == {
        "clip": ((4, 8, 16, 16, 3), np.uint8),
        "sound": ((4, 17640), np.float32),
        "label": ((4,), np.float32),
    }
    assert batch["time_s"].dtype == np.float64


def test_an_epoch_holds_every_clip_once_in_a_new_order(train):
    everything = sorted(names({name: [r[name] for r in train] for name in ("video", "frame")}))
    assert len(everything) == len(set(everything)) == 38
    batches = [names(batch) for batch in train_batches(train, batch_size=1, seed=3, epochs=3)]
    epochs = [[name for batch in batches[38 * e : 38 * (e + 1)] for name in batch] for e in range(3)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert all(epoch != everything for epoch in epochs)


def test_the_seed_alone_decides(train):
    def run(**settings):
        return list(train_batches(train, batch_size=5, epochs=2, **settings))

    first = run(seed=0, threads=1)
    assert len(first) == 2 * 7 == 2 * steps_per_epoch(train, batch_size=5)  # 38 clips: three are left out of each epoch
    assert all(equal(a, b) for a, b in zip(first, run(seed=0, threads=4), strict=True))
    assert names(first[0]) != names(run(seed=1)[0])


# 38 clips: among four processes two have ten and two have nine, which would be two batches of five, or one.
@pytest.mark.parametrize(("batch_size", "process_count"), [(3, 2), (19, 2), (5, 4)])
def test_processes_share_an_epoch(train, batch_size, process_count):
    settings = {"batch_size": batch_size, "process_count": process_count}
    streams = [
        [names(batch) for batch in train_batches(train, seed=0, epochs=2, process_index=index, **settings)]
        for index in range(process_count)
    ]
    steps = steps_per_epoch(train, **settings)
    assert [len(stream) for stream in streams] == [2 * steps] * process_count
    for epoch in range(2):
        seen = [name for stream in streams for batch in stream[epoch * steps :][:steps] for name in batch]
        assert len(seen) == len(set(seen)) == process_count * batch_size * steps


def test_a_restored_iterator_gives_exactly_the_next_batch(train):
    for consumed in (0, 1, 6, 7, 9):  # within the first epoch, at its end, and in the second
        iterator = train_batches(train, batch_size=5, seed=2)
        for _ in range(consumed):
            next(iterator)
        state = json.loads(json.dumps(iterator.get_state()))
        expected = [next(iterator) for _ in range(3)]
        restored = train_batches(train, batch_size=5, seed=2)
        restored.set_state(state)
        assert all(equal(next(restored), batch) for batch in expected)


def test_flipping_mirrors_whole_clips_half_of_the_time(train):
    originals = {f"{r['video']}{r['frame']}": r for r in train}
    flipped = total = 0
    for batch in train_batches(train, batch_size=1, seed=0, epochs=8):
        original = originals[names(batch)[0]]
        mirrored = np.array_equal(batch["clip"][0], original["clip"][:, :, ::-1])
        assert mirrored or np.array_equal(batch["clip"][0], original["clip"])
        np.testing.assert_array_equal(batch["sound"][0], original["sound"])
        flipped, total = flipped + mirrored, total + 1
    assert 0.4 < flipped / total < 0.6
    for batch in train_batches(train, batch_size=1, seed=0, epochs=1, flip=False):
        np.testing.assert_array_equal(batch["clip"][0], originals[names(batch)[0]]["clip"])


@pytest.mark.parametrize("batch_size", [1, 8, 38, 50])
def test_evaluation_sees_every_clip_once_in_order(train, batch_size):
    everything = [f"{r['video']}{r['frame']}" for r in train]
    seen = []
    for batch in eval_batches(train, batch_size=batch_size):
        assert batch["clip"].shape == (batch_size, 8, 16, 16, 3)
        assert batch["mask"].dtype == bool
        seen += [name for name, real in zip(names(batch), batch["mask"], strict=True) if real]
        assert not batch["clip"][~batch["mask"]].any()
    assert seen == everything


@pytest.mark.parametrize(("batch_size", "process_count"), [(5, 2), (4, 3), (19, 2)])
def test_processes_share_an_evaluation(train, batch_size, process_count):
    streams = [
        list(eval_batches(train, batch_size=batch_size, process_index=p, process_count=process_count))
        for p in range(process_count)
    ]
    assert len({len(stream) for stream in streams}) == 1
    seen = [np.array(names(batch))[batch["mask"]] for stream in streams for batch in stream]
    assert sorted(np.concatenate(seen)) == sorted(f"{r['video']}{r['frame']}" for r in train)


def test_a_split_smaller_than_a_batch(train):
    with pytest.raises(UserError, match=r"has 38 clips, fewer than one batch of 39; lower --config\.train\.batch_size"):
        train_batches(train, batch_size=39, seed=0)
    with pytest.raises(UserError, match="fewer than one batch of 40"):
        train_batches(train, batch_size=20, seed=0, process_count=2)


def test_what_cannot_be_opened(directory, tmp_path):
    for path, reason in (
        ("", "no records given; set --config.data.dir"),
        (tmp_path / "nowhere", r"there is no folder of records .*nowhere; prepare one with prepare_data\.py --output"),
        (tmp_path, "holds no prepared records"),
    ):
        with pytest.raises(UserError, match=reason):
            open_split(path, "train")
    with pytest.raises(UserError, match="no split 'validation'; it has test, train"):
        open_split(directory, "validation")
    (tmp_path / "manifest.json").write_text('{"dataset": ')
    with pytest.raises(UserError, match="damaged"):
        open_split(tmp_path, "train")


def test_clips_must_be_what_the_network_takes(directory):
    assert open_split(directory, "test", ModelConfig(frames=8, frame_size=16)).frame_size == 16
    remedy = r"prepare the data again with --frames=16, or train a network with --config.model.frames=8"
    with pytest.raises(UserError, match=rf"have frames=8, the network takes frames=16; {remedy}"):
        open_split(directory, "test", ModelConfig(frame_size=16))
    with pytest.raises(UserError, match=r"have frame_size=16, the network takes frame_size=112"):
        open_split(directory, "test", ModelConfig(frames=8))


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_damaged_records_are_found_before_a_run(directory, tmp_path, harm):
    copy = tmp_path / "records"
    shutil.copytree(directory, copy)
    shard = next(copy.rglob("*test.array_record*"))
    if harm == "cut":
        shard.write_bytes(shard.read_bytes()[:20000])
    else:
        shard.unlink()
    with pytest.raises(UserError, match=r"the records in .* are damaged .*; prepare them again"):
        open_split(copy, "test")
