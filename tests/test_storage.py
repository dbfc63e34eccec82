"""Commands whose records, runs, checkpoints and results lie on emulated stores, and stores that fail."""

import dataclasses
import json
import re
import shutil
import signal
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest

import avmsnet_jax
from avmsnet_jax import storage
from avmsnet_jax.data import cache
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import movie50
from avmsnet_jax.training.loop import train
from avmsnet_jax.weights.convert import convert
from avmsnet_jax.weights.export import write_pth
from tests import stores
from tests.conftest import ROOT, one_line, wait_until
from tests.training import test_hosts as hosts
from tests.training.conftest import shared_steps  # noqa: F401 (a fixture)
from tests.training.test_hosts import reference  # noqa: F401 (a fixture)
from tests.training.test_loop import assert_same_weights, losses
from tests.weights.conftest import state


@pytest.fixture(scope="module", params=["gs", "s3"])
def emulator(request):
    store = stores.serve(request.param, "place")
    yield store
    store.close()


@pytest.fixture
def store(emulator, request, monkeypatch, tmp_path):
    """An empty place on a store, which this process and those it starts can reach."""
    emulator.url = f"{emulator.url.split('://')[0]}://{stores.BUCKET}/{tmp_path.name}"
    emulator.fails, emulator.gone = lambda number: False, False
    emulator.environment["XDG_CACHE_HOME"] = str(tmp_path / "caches")
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    storage._filesystem.cache_clear()
    for library in fsspec.registry.values():
        library.clear_instance_cache()
    cache._copied.cache_clear()
    yield emulator
    emulator.fails, emulator.gone = lambda number: False, False


@pytest.fixture
def remote(store, small_config, small_records):
    """The small run's configuration, with its records on the store."""
    storage.upload(small_records, f"{store.url}/records")
    return dataclasses.replace(small_config, data=dataclasses.replace(small_config.data, dir=f"{store.url}/records"))


@pytest.mark.soak
def test_a_run_killed_after_a_checkpoint_resumes_exactly(
    store, remote, small_run, small_config_file, started, forked, tmp_path
):
    run = f"{store.url}/run"
    arguments = [f"--config={small_config_file}", f"--config.data.dir={remote.data.dir}", f"--workdir={run}"]
    process = started("train.py", *arguments, **store.environment)
    seen = threading.Event()

    def kill_after_a_checkpoint(_):
        method, path = store.requests[-1]
        if method == "DELETE" and re.search(r"checkpoints(%2F|/)8(%2F|/)\.unfinished", path):
            seen.set()
            process.kill()
        return False

    store.fails = kill_after_a_checkpoint
    assert process.wait(200) == -9
    assert seen.is_set()
    kept = store.names(f"{run}/checkpoints")
    assert {name.split("/")[0] for name in kept} == {"4", "8"}
    assert "8/.unfinished" in kept or "8/model/manifest.ocdbt" in kept
    store.fails = lambda number: False

    done = forked("train.py", *arguments, **store.environment)
    assert done.returncode == 0, done.stderr
    assert re.search("resuming at step [48] of 16", done.stdout)  # the checkpoint was whole, or not yet
    assert_left_as(small_run, run, store, tmp_path)


def assert_left_as(small_run, run, store, tmp_path):
    """The run on the store has ended as the one in a folder."""
    assert not [name for name in store.names(run) if ".unfinished" in name or "orbax" in name]
    copy = tmp_path / "copy"
    storage.download(run, storage.listed(run), copy)
    assert {"config.json", "metrics.jsonl", "curve.png", "checkpoints"} <= {path.name for path in copy.iterdir()}
    assert losses(copy) == losses(small_run)
    assert_same_weights(copy, small_run)


@pytest.mark.usefixtures("shared_steps")
@pytest.mark.parametrize("emulator", ["gs", pytest.param("s3", marks=pytest.mark.soak)], indirect=True)
def test_a_run_resumes_on_a_store_and_is_evaluated(store, remote, small_run, undrawn, tmp_path, capsys):
    run = f"{store.url}/run"
    storage.upload(small_run, run)
    # As if it had been killed while it sent its last checkpoint.
    store.files().pipe_file(f"{run.split('://')[1]}/checkpoints/16/.unfinished", b"")
    train(remote, run)
    assert "resuming at step 12 of 16" in capsys.readouterr().out
    assert_left_as(small_run, run, store, tmp_path)

    results = f"{store.url}/results"
    metrics = movie50.evaluate(remote, run, "test", results)
    local = movie50.evaluate(remote, str(small_run), "test", tmp_path / "results")
    assert metrics["checkpoint"] == f"{run}/checkpoints/16"
    assert metrics["fscore"] == local["fscore"]
    assert store.names(results) == names_in(tmp_path / "results")
    with pytest.raises(UserError, match="exists and is not an empty directory"):
        movie50.evaluate(remote, run, "test", results)

    model = avmsnet_jax.load(run)
    avmsnet_jax.save(model, f"{store.url}/saved")
    again = avmsnet_jax.load(f"{store.url}/saved")
    np.testing.assert_array_equal(again.fc1.kernel[...], model.fc1.kernel[...])


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def files_in(folder, **contents):
    for name, content in contents.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_a_store_that_answers_503_every_third_time(store, tmp_path):
    store.fails = lambda number: number % 3 == 2
    source = files_in(tmp_path / "source", a__b=b"x" * 1000, empty=b"", c=b"c")
    storage.upload(source, store.url)
    found = storage.whole(storage.listed(store.url))
    assert found == {"a/b": 1000, "empty": 0, "c": 1}
    storage.download(store.url, found, tmp_path / "copy")
    assert (tmp_path / "copy" / "a" / "b").read_bytes() == b"x" * 1000


@pytest.mark.soak
def test_a_run_on_a_store_that_answers_503_every_third_time_trains_as_in_a_folder(store, remote, small_run, tmp_path):
    run, refused = f"{store.url}/run", []

    def every_third(number):
        if number % 3 == 2:
            refused.append(number)
            return True
        return False

    store.fails = every_third
    train(remote, run)
    store.fails = lambda number: False
    assert len(refused) > 20
    assert not [name for name in store.names(run) if ".unfinished" in name]
    storage.download(run, storage.listed(run), tmp_path / "copy")
    assert losses(tmp_path / "copy") == losses(small_run)
    assert_same_weights(tmp_path / "copy", small_run)


def test_published_weights_are_converted_to_a_checkpoint_on_a_store(store, forked, tmp_path):
    source, output = str(tmp_path / "published.pth"), f"{store.url}/weights"
    write_pth(Path(source), state())
    done = forked("convert_weights.py", f"--source={source}", f"--output={output}", **store.environment)
    assert done.returncode == 0, done.stderr
    assert f"wrote {output}" in done.stdout
    convert([source], str(tmp_path / "weights"))
    assert not [name for name in store.names(output) if ".unfinished" in name]
    assert (
        store.files().cat_file(f"{output.split('://')[1]}/report.json")
        == (tmp_path / "weights/report.json").read_bytes()
    )
    assert_same_weights(output, tmp_path / "weights")
    with pytest.raises(UserError, match=f"--output {output} exists and is not empty"):
        convert([source], output)


def test_a_folder_that_was_left_half_written_or_half_removed_is_ignored_and_replaced(store, tmp_path):
    put = store.files().pipe_file
    root = store.url.split("://")[1]
    put(f"{root}/checkpoints/4/model/a", b"a")
    put(f"{root}/checkpoints/8/model/a", b"a")
    put(f"{root}/checkpoints/8/.unfinished", b"")
    assert storage.whole(storage.listed(store.url)) == {"checkpoints/4/model/a": 1}
    with storage.run_in(store.url, tidy=True) as run:
        assert not (run.folder / "checkpoints" / "8").exists()
        files_in(run.folder, checkpoints__12__model__b=b"b", metrics=b"m")
        shutil.rmtree(run.folder / "checkpoints" / "4")
        run.push()
        assert store.names(store.url) == ["checkpoints/12/model/b", "metrics"]
        count = len(store.requests)
        run.push()
        assert len(store.requests) == count, "nothing has changed"
    put(f"{root}/results/.unfinished", b"")
    put(f"{root}/results/old", b"")
    assert not storage.taken(f"{store.url}/results")
    with storage.staged(f"{store.url}/results") as stage:
        files_in(stage, new=b"n")
    assert store.names(f"{store.url}/results") == ["new"]


def test_what_fails_leaves_nothing_on_the_store(store):
    def write():
        with storage.staged(f"{store.url}/results") as stage:
            files_in(stage, half=b"h")
            raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        write()
    assert store.names(store.url) == []


def test_records_are_copied_once_and_checked(store, remote, tmp_path, capsys):
    place = cache.local_records(remote.data)
    assert "copying" in capsys.readouterr().err
    assert json.loads((tmp_path / place / "manifest.json").read_text())["files"]
    cache._copied.cache_clear()
    count = len(store.requests)
    assert cache.local_records(remote.data) == place
    assert len(store.requests) - count < 6, "a look at the manifest"
    (shard, *_) = (path for path in Path(place).rglob("*.array_record*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    cache._copied.cache_clear()
    with pytest.raises(UserError, match=r"is no copy of .*; remove .*, and it is copied again"):
        cache.local_records(remote.data)

    shutil.rmtree(place)
    name = str(shard.relative_to(place))
    store.files().pipe_file(f"{remote.data.dir.split('://')[1]}/{name}", b"x" + whole[1:])
    cache._copied.cache_clear()
    with pytest.raises(UserError, match="is damaged: its checksum is not that of"):
        cache.local_records(remote.data)
    assert not Path(place).exists()
    store.files().rm_file(f"{remote.data.dir.split('://')[1]}/{name}")
    with pytest.raises(UserError, match=r"has nothing, and manifest.json says .*; copy the records there again"):
        cache.local_records(remote.data)


def test_processes_of_a_machine_copy_records_once(store, remote, started, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from avmsnet_jax.data import cache; from avmsnet_jax.config import DataConfig; "
        f"print(cache.local_records(DataConfig(dir={remote.data.dir!r})))"
    )
    both = [started(script, **store.environment) for _ in range(2)]
    (one, first), (two, second) = (process.communicate() for process in both)
    assert [process.returncode for process in both] == [0, 0], (first, second)
    assert one == two
    assert ("copying" in first) + ("copying" in second) == 1


@pytest.mark.soak
@pytest.mark.parametrize("emulator", ["gs"], indirect=True)
def test_two_hosts_share_nothing_but_the_store(store, remote, reference, small_config_file, started, tmp_path):  # noqa: F811
    """Their losses are those of one process; when one is killed, the other ends with a line within a minute."""
    run = f"{store.url}/run"

    def own(index):
        for name in ("tmp", "caches"):
            (tmp_path / f"host{index}" / name).mkdir(parents=True, exist_ok=True)
        place = tmp_path / f"host{index}"
        return store.environment | {"TMPDIR": str(place / "tmp"), "XDG_CACHE_HOME": str(place / "caches")}

    def start():
        return hosts.together(2, small_config_file, run, started, f"--config.data.dir={remote.data.dir}", own=own)

    def saved():
        found = (re.match(r"checkpoints/(\d+)/", name) for name in storage.whole(storage.listed(run)))
        return max((int(match[1]) for match in found if match), default=0)

    for lose in (hosts.lose_the_last, hosts.lose_the_first):
        with start() as processes:
            before = saved()
            wait_until(lambda: saved() > before, *processes, seconds=300)  # noqa: B023
            lose(processes)
    with start() as processes:
        before = saved()
        wait_until(lambda: saved() > before, *processes, seconds=300)
        processes[1].send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=60) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], outputs
        assert f"resuming at step {before} of" in outputs[0][0]
    storage.download(run, storage.listed(run), tmp_path / "copy")
    hosts.assert_same_losses(tmp_path / "copy", reference, 8)


@pytest.mark.parametrize("emulator", ["s3"], indirect=True)  # GCS's client takes half a minute to give up
def test_a_store_that_vanishes_is_named(store, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store.gone = True
    for attempt in (
        lambda: storage.upload(files_in(tmp_path / "source", a=b"a"), store.url),
        lambda: storage.listed(store.url),
    ):
        with pytest.raises(
            UserError, match=rf"cannot (read|write) {store.url}: .*check the address, the credentials and"
        ):
            attempt()


@pytest.mark.soak
def test_a_run_whose_store_vanishes_ends_with_a_line_and_resumes_later(
    store, remote, small_run, small_config_file, python, tmp_path
):
    run = f"{store.url}/run"

    def vanish_after_a_checkpoint(_):
        method, path = store.requests[-1]
        store.gone |= method == "DELETE" and bool(re.search(r"checkpoints(%2F|/)4(%2F|/)\.unfinished", path))
        return False

    store.fails = vanish_after_a_checkpoint
    arguments = [f"--config={small_config_file}", f"--config.data.dir={remote.data.dir}", f"--workdir={run}"]
    done = python("train.py", *arguments, **store.environment)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]  # after the line about copied records
    assert re.match(rf"train.py: cannot write {run}.*; the same command resumes from the checkpoint before", said)
    store.gone, store.fails = False, lambda number: False
    train(remote, run)
    storage.download(run, storage.listed(run), tmp_path / "copy")
    assert_same_weights(tmp_path / "copy", small_run)


def test_options_that_need_a_folder_refuse_a_store(forked, tmp_path):
    for arguments, said in (
        (["prepare_data.py", "--dataset=movies", "--source=gs://b/films", "--output=x"], "--source gs://b/films is on"),
        (["convert_weights.py", "--checkpoint=x", "--export=s3://b/x.pth"], "--export s3://b/x.pth is on a store"),
        (["train.py", "--config=demo", "--workdir=hdfs://b/x"], "hdfs://b/x is no place to read or write; give a"),
    ):
        assert said in one_line(forked(*arguments))


@pytest.mark.parametrize(("scheme", "library", "extra"), [("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3")])
def test_a_missing_extra_is_named(scheme, library, extra, python):
    code = f"import sys; sys.modules[{library!r}] = None; from avmsnet_jax import storage; storage.listed('{scheme}://b/x')"
    said = python("-c", code).stderr.splitlines()[-1]
    assert said.endswith(f"{scheme}:// needs an extra: pip install 'avmsnet_jax[{extra}]'")


def commands() -> list[list[str]]:
    """The commands of the documents that name a store, each once."""
    found = []
    for name in ("README.md", "docs/scaling.md"):
        text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
        found += [tuple(line.split()) for line in re.findall(r"python (\w+\.py [^\"\n]*gs://[^\"\n]*)", text)]
    return list(map(list, dict.fromkeys(found)))


@pytest.mark.soak
@pytest.mark.parametrize("emulator", ["gs"], indirect=True)
def test_commands_of_the_documents(store, small_config_file, small_records, python, tmp_path):
    docs = pytest.importorskip("tests.test_docs", reason="the documentation converts .pth files")
    storage.upload(small_records, f"{store.url}/records")
    write_pth(tmp_path / "audiovisual_save_60.pth", docs.published_weights(audio=True))
    assert {command[0] for command in commands()} == {"train.py", "eval.py", "convert_weights.py"}
    for script, *words in commands():
        options = " ".join(words).replace("gs://BUCKET", store.url).replace("configs/films.py", str(small_config_file))
        options = options.replace("--source=", f"--source={tmp_path}/")
        smaller = ["--config.train.batch_size=4", "--config.train.epochs=1"] if script == "train.py" else []
        done = python(script, *options.split(), *smaller, **store.environment)
        assert done.returncode == 0, f"{options}\n{done.stdout}\n{done.stderr}"
    names = set(store.names(store.url))
    assert {"run/curve.png", "results/metrics.json", "weights/report.json"} <= names
