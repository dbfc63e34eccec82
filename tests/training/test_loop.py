"""Training by the command on small films: its files, and how it resumes."""

import contextlib
import dataclasses
import io
import json
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx, traverse_util
from tensorboard.backend.event_processing import event_accumulator

import avmsnet_jax
from avmsnet_jax import config as config_lib
from avmsnet_jax.data.pipeline import Records, hold_out, open_split
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.errors import UserError
from avmsnet_jax.media.writer import write_movie
from avmsnet_jax.staging import locked
from avmsnet_jax.training import peak, validation
from avmsnet_jax.training.loop import train
from avmsnet_jax.training.step import bce
from avmsnet_jax.weights import checkpoint
from tests.conftest import ROOT, SMALL_TRAINING_FLOPS, one_line, wait_until
from tests.networks import filled, save_network

pytestmark = pytest.mark.usefixtures("compiled_before", "shared_steps", "undrawn")


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def steps_saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def weights(directory):
    return traverse_util.flatten_dict(checkpoint.restore(directory)[1], sep="/")


def losses(workdir):
    return [(line["step"], line["loss"]) for line in lines(workdir)]


def assert_same_weights(actual, expected):
    actual, expected = weights(actual), weights(expected)
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def copied(small_run, tmp_path):
    """A finished run that may be changed."""
    return shutil.copytree(small_run, tmp_path / "run")


@pytest.fixture
def config(small_config):
    return small_config


def fill_at(step, value):
    """Replaces a checkpoint's network by one whose weights are all `value`."""
    shutil.rmtree(step / "model")
    save_network(step.parent / "filled", filled(value))
    (step.parent / "filled" / "model").rename(step / "model")
    shutil.rmtree(step.parent / "filled")


# What a run leaves


def test_a_run_writes_the_documented_files(small_run, small_config):
    left = ["checkpoints", "config.json", "curve.png", "metrics.jsonl", "tensorboard"]
    assert sorted(path.name for path in small_run.iterdir()) == left
    assert steps_saved(small_run) == [4, 8, 12, 16]
    assert (small_run / "curve.png").stat().st_size > 1000
    resolved = json.loads((small_run / "config.json").read_text())
    assert config_lib.from_dict(config_lib.Config, resolved, "x") == small_config


def test_metrics_have_a_line_for_each_step(small_run):
    found = lines(small_run)
    assert [line["step"] for line in found] == list(range(1, 17))
    assert [line["epoch"] for line in found] == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    assert all(math.isfinite(line["loss"]) and line["loss"] > 0 for line in found)
    assert all(line["clips_per_second"] > 0 and 0 <= line["data_wait_share"] <= 1 for line in found)
    assert all(line["data_wait_seconds"] >= 0 for line in found)
    rates = [line["learning_rate"]["global"] for line in found]  # a tenth of the base rate without sound
    assert rates == pytest.approx([1e-4] * 8 + [1e-5] * 4 + [1e-6] * 4)


def test_load_takes_the_latest_checkpoint(small_run, small_config):
    model = avmsnet_jax.load(small_run)
    assert model.config == small_config.model
    assert_same_weights(small_run, small_run / "checkpoints" / "16")
    before, after = weights(small_run / "checkpoints" / "12"), weights(small_run)
    assert not np.array_equal(before["fc1/kernel"], after["fc1/kernel"])


def on_tensorboard(workdir):
    """The loss of each step as TensorBoard's own reader gives it."""
    events = event_accumulator.EventAccumulator(str(workdir / "tensorboard")).Reload()
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars("loss")]


def test_tensorboard_reads_what_a_run_wrote(small_run):
    events = event_accumulator.EventAccumulator(str(small_run / "tensorboard")).Reload()
    rates = {"clips_per_second", "model_flops_per_second", "mfu", "data_wait_share", "learning_rate/global"}
    assert {"loss", "gradient_norm"} | rates <= set(events.Tags()["scalars"])
    assert losses(small_run) == on_tensorboard(small_run)


def test_a_run_prints_devices_parameters_peak_and_memory(forked, small_config_file, tmp_path):
    arguments = ["--config", small_config_file, "--workdir", tmp_path / "run"]
    done = forked("train.py", *arguments, "--config.train.profile_from=2", "--config.train.profile_steps=1")
    assert done.returncode == 0, done.stderr
    for line in (
        r"devices: 1 x cpu, as 1 data x 1 fsdp; 4 clips per step, 4 per device",
        r"group +tensors +parameters +lr +decay",
        r"global +45 +20,189 +0.0001 +1e-05",
        r"frozen +34 +47,118 +frozen",
        r"attention_score_bias +3 +3 +2e-06 +0",
        r"total +91 +69,710",
        r"measured peak [\d.]+ [GT]FLOP/s \(MFU is reported relative to it\)",
        r"memory per device: parameters 279 kB, optimizer 90.4 kB, .* temporary buffers .*; compiled in \d+ s",
        r"traced steps 2 to 2: .*/profile",
    ):
        assert re.search(line, done.stdout), (line, done.stdout)
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    (told,) = re.findall(r"^measured peak ([\d.]+) ([GT])FLOP/s \(", done.stdout, re.MULTILINE)
    measured = float(told[0]) * {"G": 1e9, "T": 1e12}[told[1]]
    for line in lines(tmp_path / "run"):
        assert line["model_flops_per_second"] / line["mfu"] == pytest.approx(measured, rel=0.01)


# One run that the next tests share: initial weights, MFU, too few films to hold out


@dataclasses.dataclass(frozen=True)
class Watched:
    """What a run left.

    Attributes:
      workdir: its working directory.
      printed: what it printed.
      compiled: JAX's messages about what it compiled.
      ready: whether clips were being read when the step was compiled.
    """

    workdir: Path
    printed: str
    compiled: list[str]
    ready: bool


@pytest.fixture(scope="module")
def watched(small_run, small_config, tmp_path_factory):
    begun, ready, compiled, printed = threading.Event(), [], [], []
    one_record = Records.__getitem__

    def read(records, index):
        if threading.current_thread() is not threading.main_thread():
            begun.set()
        return one_record(records, index)

    class Terminal(io.StringIO):
        def write(self, text):
            printed.append(text)
            if "compiled in" in text:
                ready.append(begun.wait(60))
            return len(text)

    class Compiled(logging.Handler):
        def emit(self, record):
            compiled.append(record.getMessage())

    settings = {
        "data": {"validation_fraction": 0.3},
        "init": {"checkpoint": str(small_run)},
        "train": {"checkpoint_every_epochs": 4},
    }
    workdir, log = tmp_path_factory.mktemp("watched") / "run", Compiled()
    logging.getLogger("jax").addHandler(log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Records, "__getitem__", read)
        patch.setitem(peak.DATA_SHEETS, "cpu", {"float32": 2e9, "bfloat16": 7e9})
        with contextlib.redirect_stdout(Terminal()), jax.log_compiles():
            train(small_config.replace(**settings), workdir)
    logging.getLogger("jax").removeHandler(log)
    return Watched(workdir, "".join(printed), compiled, ready == [True])


def test_clips_are_read_while_the_step_is_compiled(watched):
    """The first batch is ready when the step is."""
    assert watched.ready


def test_utilization_is_useful_arithmetic_over_the_peak(watched):
    assert "data-sheet peak 2 GFLOP/s (MFU" in watched.printed
    found = lines(watched.workdir)
    assert len(found) == 16
    for line in found:
        flops = SMALL_TRAINING_FLOPS * line["clips_per_second"]
        assert line["model_flops_per_second"] == pytest.approx(flops)
        assert line["mfu"] == pytest.approx(flops / 2e9)
    assert f"  {found[-1]['clips_per_second']:.1f} clips/s  MFU {100 * found[-1]['mfu']:.1f}%\n" in watched.printed


def test_with_too_few_films_none_is_held_out(watched):
    assert "fewer than 4 films to train on, so none is held out" in watched.printed
    assert not [line for line in lines(watched.workdir) if "validation" in line]


def test_initial_weights_from_a_checkpoint_do_not_compile_the_step_twice(watched):
    assert sum(message.startswith("Compiling jit(step)") for message in watched.compiled) == 1


# Validation


@pytest.fixture(scope="module")
def five_films(tmp_path_factory):
    """Records of five short films to train on: without two of them as many steps an epoch as `small_config`."""
    folder = tmp_path_factory.mktemp("five")
    rng = np.random.default_rng(0)
    for number in range(5):
        frames = rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8).repeat(7, 0).repeat(8, 1).repeat(8, 2)
        (folder / "films" / "train").mkdir(parents=True, exist_ok=True)
        path = folder / "films" / "train" / f"film{number}.mp4"
        write_movie(path, frames, 10, rng.uniform(-0.5, 0.5, 77175).astype(np.float32))
        path.with_name(f"{path.stem}.keyshots.csv").write_text("start_s,end_s\n1.0,1.6\n")
    prepare("movies", folder / "films", folder / "records", frames=8, frame_size=32, spacing=5)
    return folder / "records"


def test_the_best_on_held_out_films_is_kept_and_loaded(five_films, config, tmp_path, monkeypatch, capsys):
    config = config.replace(data={"dir": str(five_films), "validation_fraction": 0.3}, train={"keep_checkpoints": 1})
    # It would take many epochs until the network gets better and worse again, so the metric is replaced.
    figures = iter([0.3, 0.9, 0.5, 0.7])
    monkeypatch.setattr(validation, "average_precision", lambda scores, labels: next(figures))
    train(config, tmp_path / "run")
    said = capsys.readouterr().out
    whole = open_split(five_films, "train")
    rest, held_out = hold_out(whole, 0.3, seed=0)
    assert len({str(record["video"]) for record in held_out}) == 2
    assert not {str(record["video"]) for record in held_out} & {str(record["video"]) for record in rest}
    assert f"held out for validation: {len(held_out)} clips" in said
    steps = len(rest) // 4
    assert steps_saved(tmp_path / "run") == [2 * steps, 4 * steps]
    assert checkpoint.find(tmp_path / "run").name == str(2 * steps)
    validated = [line for line in lines(tmp_path / "run") if "validation" in line]
    assert [line["validation"]["average_precision"] for line in validated] == [0.3, 0.9, 0.5, 0.7]
    # The validation loss is that of the checkpoint's network.
    model = avmsnet_jax.load(tmp_path / "run" / "checkpoints" / str(4 * steps))
    clips = [held_out[number] for number in range(len(held_out))]
    forward = nnx.jit(lambda model, clips: model(clips, None).logits)
    logits = forward(model, np.stack([record["clip"] for record in clips]))
    expected = bce(logits, np.array([c["label"] for c in clips]))
    assert validated[-1]["validation"]["loss"] == pytest.approx(float(expected), rel=1e-3)


def test_the_latest_checkpoint_counts_as_best_without_held_out_key_clips(
    five_films, config, tmp_path, monkeypatch, capsys
):
    read = Records.__getitem__
    monkeypatch.setattr(Records, "__getitem__", lambda self, index: read(self, index) | {"label": np.float32(0)})
    config = config.replace(data={"dir": str(five_films), "validation_fraction": 0.3})
    train(config, tmp_path / "run")
    validated = [line["validation"] for line in lines(tmp_path / "run") if "validation" in line]
    for found in validated:
        assert found["loss"] > 0
        assert (found["average_precision"], found["fscore"], found["best_threshold"]) == (None, None, None)
    assert len(validated) == 4
    said = capsys.readouterr().out
    assert "average precision -  F -  (no held-out clip is a key moment, so there is no average precision; " in said
    assert checkpoint.find(tmp_path / "run").name == str(steps_saved(tmp_path / "run")[-1])


# Resuming


def test_the_same_command_after_the_end_does_nothing(copied, forked, small_config_file):
    before = contents(copied)
    # The first weights are not needed to resume: they may be gone.
    arguments = ["--config", small_config_file, "--workdir", copied, "--config.init.checkpoint=/gone"]
    done = forked("train.py", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "already trained to step 16, nothing to do" in done.stdout
    assert contents(copied) == before


def test_a_killed_run_resumes_exactly(small_run, small_config_file, started, forked, tmp_path):
    """Killed in the middle and resumed, it ends bit for bit like an uninterrupted run."""
    workdir = tmp_path / "killed"
    command = ["train.py", "--config", small_config_file, "--workdir", workdir]
    process = started(*command)
    wait_until((workdir / "checkpoints" / "4").is_dir, process)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    saved = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    assert 4 <= saved < 16
    with open(workdir / "metrics.jsonl", "a") as file:  # as if it had been killed later, in the middle of a line
        file.write('{"step": 15, "loss": 0.5}\n{"step": 16, "lo')
    done = forked(*command)
    assert done.returncode == 0, done.stderr
    assert f"resuming at step {saved} of 16" in done.stdout
    assert_same_weights(workdir, small_run)
    assert losses(workdir) == losses(small_run)
    assert losses(workdir) == on_tensorboard(workdir)
    assert max(steps_saved(workdir)) == 16
    last_epoch = np.mean([line["loss"] for line in lines(small_run)[-4:]])
    assert f"epoch 4/4  step 16/16  mean loss {last_epoch:.4f}" in done.stdout


@pytest.mark.parametrize(
    ("number", "start"),
    [
        (signal.SIGINT, "started"),
        *(pytest.param(number, "launched", marks=pytest.mark.soak) for number in (signal.SIGINT, signal.SIGTERM)),
    ],
)
def test_a_signal_saves_and_the_run_goes_on(
    small_run, config, small_config_file, request, tmp_path, capsys, number, start
):
    """In the middle of an epoch, where no checkpoint was due."""
    workdir = tmp_path / "run"
    process = request.getfixturevalue(start)("train.py", "--config", small_config_file, "--workdir", workdir)
    wait_until(
        lambda: (workdir / "metrics.jsonl").exists() and "\n" in (workdir / "metrics.jsonl").read_text(), process
    )
    process.send_signal(number)
    out, err = process.communicate(timeout=100)
    found = re.search(r"step (\d+) of 16 is saved, and the same command resumes there", out + err)
    assert found, (out, err)
    step = found[1]
    if number == signal.SIGTERM:
        assert (process.returncode, err) == (0, "")
        assert "asked to stop (SIGTERM)" in out
    else:
        assert process.returncode == 130
        assert err.startswith(f"train.py: interrupted: step {step} ")
    assert 1 <= int(step) < 16
    assert int(step) in steps_saved(workdir)
    train(config, workdir)
    epoch = int(step) // 4 + 1  # the epoch in which it resumes; its mean loss is of all its steps
    mean = np.mean([loss for _, loss in losses(small_run)[4 * epoch - 4 : 4 * epoch]])
    assert f"epoch {epoch}/4  step {4 * epoch}/16  mean loss {mean:.4f}" in capsys.readouterr().out
    assert_same_weights(workdir, small_run)
    assert losses(workdir) == losses(small_run)


def test_a_full_disk_keeps_the_checkpoints_before(small_run, config, tmp_path):
    """With room made, the run ends like an uninterrupted one."""
    place = tmp_path / "disk"
    place.mkdir()
    saved = sum(path.stat().st_size for path in (small_run / "checkpoints" / "4").rglob("*") if path.is_file())
    size = round(2.6 * saved + 200_000)  # two checkpoints, the other files, and a part of a third checkpoint
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        with pytest.raises(
            UserError, match=r"cannot write .*: No space left on device; make room, and the same command"
        ):
            train(config, place / "run")
        steps = steps_saved(place / "run")
        assert steps[:1] == [4]
        subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)
        train(config, place / "run")
        assert_same_weights(place / "run", small_run)
        assert losses(place / "run") == losses(small_run)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_run_resumes_on_four_devices_that_train_as_one_and_back(
    small_run, copied, forked, config, small_config_file, capsys
):
    """Two pairs of devices: the pairs share the batch, the devices of a pair the first layer.

    An epoch on them moves the weights as on one device. That holds only if BN statistics and gradients are of the
    whole batch. BN over four clips amplifies rounding errors; test_layouts.py has a tighter bound for batches of 16.
    """
    for step in (8, 12, 16):
        shutil.rmtree(copied / "checkpoints" / str(step))
    layout = ["--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.train.keep_checkpoints=8"]
    command = ["train.py", "--config", small_config_file, "--workdir", copied, *layout]
    done = forked("-m", "tests.virtual_devices", 4, *command)
    assert done.returncode == 0, done.stderr
    assert "devices: 4 x cpu, as 2 data x 2 fsdp; 4 clips per step, 1 per device" in done.stdout
    assert "resuming at step 4 of 16" in done.stdout
    assert "changed since the run began: train.keep_checkpoints from 9 to 8" in done.stdout
    # Half of the first layer, 1 kB, and of its momentum less than on one device.
    assert "memory per device: parameters 278 kB, optimizer 89.4 kB, " in done.stdout
    runs = (small_run, "4"), (small_run, "8"), (copied, "8")
    before, alone, together = (weights(run / "checkpoints" / step) for run, step in runs)
    for name in before:
        if name.endswith("kernel"):
            moved, error = np.abs(alone[name] - before[name]).max(), np.abs(together[name] - alone[name]).max()
            assert error <= 0.01 * moved, name
    for step in (12, 16):
        shutil.rmtree(copied / "checkpoints" / str(step))
    train(config, copied)
    assert "resuming at step 8 of 16" in capsys.readouterr().out
    ours, reference = ([loss for _, loss in losses(run)] for run in (copied, small_run))
    np.testing.assert_allclose(ours, reference, rtol=2e-3)


@pytest.mark.soak
def test_four_devices_train_as_one(small_run, small_config_file, forked, tmp_path):
    """The same global batch with one clip per device: losses agree only if BN statistics and gradients are global.

    BN over four clips amplifies rounding errors; test_layouts.py has a tighter bound for batches of 16.
    """
    command = ["train.py", "--config", small_config_file, "--workdir", tmp_path / "run"]
    done = forked("-m", "tests.virtual_devices", 4, *command)
    assert done.returncode == 0, done.stderr
    assert "devices: 4 x cpu, as 4 data x 1 fsdp; 4 clips per step, 1 per device" in done.stdout
    ours, reference = ([line["loss"] for line in lines(run)] for run in (tmp_path / "run", small_run))
    np.testing.assert_allclose(ours, reference, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "value", "held"),
    [("model.depth", 18, 10), ("optimizer.name", "adamw", "sgd"), ("train.batch_size", 2, 4), ("train.seed", 1, 0)],
)
def test_another_run_in_the_same_place_is_refused(small_run, config, name, value, held):
    section, field = name.split(".")
    config = config.replace(**{section: {field: value}})
    before = contents(small_run)
    with pytest.raises(UserError, match=rf"holds a run with {name}={held}, not {value}; give another --workdir"):
        train(config, small_run)
    assert contents(small_run) == before


def test_a_run_without_a_checkpoint_does_not_fix_the_configuration(small_run, config, tmp_path):
    """The error names the missing checkpoint; the differing config.json does not matter, because no run began."""
    shutil.copy(small_run / "config.json", tmp_path / "config.json")
    config = config.replace(train={"batch_size": 2}, init={"checkpoint": str(tmp_path / "none")})
    with pytest.raises(UserError, match="no checkpoint at"):
        train(config, tmp_path)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


DAMAGE = {
    "an item is gone": lambda step: shutil.rmtree(step / "training"),
    "the network is gone": lambda step: shutil.rmtree(step / "model"),
    "half of the files are gone": lambda step: [
        path.unlink() for path in sorted(step.rglob("*/*"))[::2] if path.is_file()
    ],
    "a file is cut": lambda step: os.truncate(largest_file(step), 100),
    "a bit of the network": lambda step: flip_a_bit(largest_file(step / "model")),
    "a bit of the optimizer": lambda step: flip_a_bit(largest_file(step / "training")),
    "another number": lambda step: fill_at(step, 0.5),
    "no position": lambda step: (step / "position" / "metadata").write_text('{"next": 16}'),
    "a position that is none": lambda step: (step / "position" / "metadata").write_text("{"),
    "another position": lambda step: (step / "position" / "metadata").write_text('{"next_index": 15}'),
}


FOR_SOAK = {
    "the network is gone",
    "an item is gone",
    "half of the files are gone",
    "a bit of the network",
    "no position",
    "a position that is none",
}


@pytest.mark.parametrize(
    "damage", [pytest.param(name, marks=pytest.mark.soak) if name in FOR_SOAK else name for name in DAMAGE]
)
def test_the_checkpoint_before_a_damaged_one_is_used(copied, small_run, config, capsys, damage):
    """The run ends bit for bit like an uninterrupted one."""
    DAMAGE[damage](copied / "checkpoints" / "16")
    train(config, copied)
    said = capsys.readouterr()
    assert re.search(r"^warning: the checkpoint of step 16 is damaged \(.*\); it is now .*/damaged/16, ", said.err)
    assert "resuming at step 12 of 16" in said.out
    assert (copied / "damaged" / "16").is_dir()
    assert_same_weights(copied, small_run)
    assert losses(copied) == losses(small_run)


def test_a_run_does_not_resume_on_other_records(copied, config, small_records, tmp_path):
    """The same films, but one has a clip more."""
    shutil.copytree(small_records, tmp_path / "records")
    manifest = json.loads((tmp_path / "records" / "manifest.json").read_text())
    config = config.replace(data={"dir": str(tmp_path / "records")}, train={"epochs": 5})
    manifest["videos"][0]["frames"] += 5
    (tmp_path / "records" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"records does not hold the records that .* began with, but 18 clips cut"):
        train(config, copied)
    assert steps_saved(copied) == [4, 8, 12, 16]


def test_a_run_without_a_readable_checkpoint_is_left_alone(copied, config):
    for step in (4, 8, 12, 16):
        shutil.rmtree(copied / "checkpoints" / str(step) / "position")
    before = contents(copied)
    with pytest.raises(UserError, match=r"cannot resume from .*/checkpoints/16, nor from 3 before it: "):
        train(config, copied)
    assert contents(copied) == before
    (copied / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        train(config, copied)


# Initial weights


@pytest.mark.soak
def test_a_visual_only_checkpoint_starts_an_audio_visual_run(config, tmp_path):
    """Its weights overflow, which shows that they are used."""
    save_network(tmp_path / "first", filled(1e30), audiovisual=False)  # finite, but sums of products are not
    config = config.replace(model={"audiovisual": True}, init={"checkpoint": str(tmp_path / "first")})
    blame = r"nan at step 1: the activations of \w+ are the first that are not finite; lower .* \(none was saved\)"
    with pytest.raises(UserError, match=blame):
        train(config, tmp_path / "run")
    assert steps_saved(tmp_path / "run") == []
    assert lines(tmp_path / "run") == []


# Non-finite values


@pytest.fixture
def bad_records(monkeypatch):
    """Makes a sound sample of record 5 infinite when it is read for the second epoch."""
    read, reads = Records.__getitem__, Counter()

    def spoilt(self, index):
        record = read(self, index)
        reads[index] += 1
        if index == 5 and reads[index] > 1:
            record = {**record, "sound": record["sound"].copy()}
            record["sound"][1000] = np.inf
        return record

    monkeypatch.setattr(Records, "__getitem__", spoilt)


@pytest.mark.usefixtures("bad_records")
def test_a_clip_that_is_not_finite_is_named_and_the_checkpoints_before_are_kept(config, tmp_path):
    workdir = tmp_path / "run"
    # Of several steps at once, the losses are fetched after the last.
    config = config.replace(model={"audiovisual": True}, train={"log_every_steps": 3})
    blame = r"the (loss|gradient) is (nan|not finite) at step [5-8]: the sound of the clip at frame \d+ of "
    kept = r"(one|two) .*; prepare the data again \(the checkpoint of step 4 is kept\)"
    with pytest.raises(UserError, match=blame + kept):
        train(config, workdir)
    assert steps_saved(workdir) == [4]
    assert all(np.isfinite(array).all() for array in weights(workdir).values())
    assert [step for step, _ in losses(workdir)][:2] == [3, 4]
    assert all(math.isfinite(loss) for _, loss in losses(workdir))


def test_the_first_layer_to_overflow_is_named(config, tmp_path):
    save_network(tmp_path / "first", filled(1e25))
    config = config.replace(init={"checkpoint": str(tmp_path / "first")})
    with pytest.raises(
        UserError, match=r"at step 1: the activations of layer1 are the first .*; lower --config.optimizer"
    ):
        train(config, tmp_path / "run")


# Errors


def mistakes(tmp_path, records):
    """What is set, what the message says."""
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    save_network(tmp_path / "wide", filled(0.1), head_width=32)
    total = len(open_split(records, "train"))
    return [
        ({"data.dir": ""}, "no records given; set --config.data.dir"),
        ({"data.dir": str(tmp_path / "none")}, f"there is no folder of records {tmp_path}/none"),
        ({"data.dir": str(tmp_path / "empty")}, f"{tmp_path}/empty holds no prepared records"),
        ({"data.train_split": "dev"}, f"{records} has no split 'dev'; it has test, train"),
        ({"train.batch_size": 64}, f"has {total} clips, fewer than one batch of 64; lower --config.train.batch_size"),
        ({"model.frame_size": 48}, "have frame_size=32, the network takes frame_size=48"),
        ({"model.frames": 16}, "have frames=8, the network takes frames=16"),
        ({"mesh.data": 64}, "mesh.data is 64, but there are"),
        ({"init.checkpoint": str(tmp_path / "none")}, f"no checkpoint at {tmp_path}/none"),
        ({"init.checkpoint": str(tmp_path / "empty")}, f"no checkpoint in {tmp_path}/empty"),
        ({"init.checkpoint": str(tmp_path / "wide")}, f"{tmp_path}/wide: not the weights of this network"),
    ]


def test_an_impossible_configuration_is_refused_and_leaves_nothing(config, small_records, tmp_path):
    for settings, message in mistakes(tmp_path, small_records):
        wrong = config
        for name, value in settings.items():
            section, field = name.split(".")
            wrong = wrong.replace(**{section: {field: value}})
        with pytest.raises(UserError) as caught:
            train(wrong, tmp_path / "run")
        assert message in str(caught.value)
        assert not (tmp_path / "run").exists(), settings
    with pytest.raises(UserError, match=r"cannot create .*/file.*: .*; choose another --workdir"):
        train(config, tmp_path / "file")


def test_a_mistake_is_one_line_and_leaves_nothing(forked, small_config_file, tmp_path):
    arguments = ["--config", small_config_file, "--workdir", tmp_path / "run", f"--config.data.dir={tmp_path / 'none'}"]
    line = one_line(forked("train.py", *arguments))
    assert line.startswith(f"train.py: there is no folder of records {tmp_path / 'none'}; ")
    assert list(tmp_path.iterdir()) == []


# The working directory


def test_the_second_run_in_a_place_is_refused_and_the_first_is_named(copied, config):
    before = contents(copied)
    config = config.replace(train={"epochs": 5})
    refused = rf"/run is in use by .* \(process {os.getpid()} on .*\); wait until"
    with locked(copied), pytest.raises(UserError, match=refused):
        train(config, copied)
    assert contents(copied) == before


def test_the_lock_of_a_killed_run_does_not_block(copied, config):
    program = "import os, pathlib, sys; from avmsnet_jax.staging import locked\n"
    program += "with locked(pathlib.Path(sys.argv[1])): os._exit(9)"
    subprocess.run([sys.executable, "-c", program, copied], cwd=ROOT, check=False)
    assert (copied / ".lock").exists()
    before = steps_saved(copied)
    train(config, copied)
    assert steps_saved(copied) == before
    assert not (copied / ".lock").exists()


@pytest.mark.parametrize("link", ["checkpoints", "checkpoints/4", "checkpoints/20.orbax-checkpoint-tmp", "damaged"])
def test_links_to_elsewhere_are_refused(copied, config, tmp_path, link):
    victim = tmp_path / "victim"
    if link == "damaged":  # used only if a checkpoint is damaged
        victim.mkdir()
        (copied / "checkpoints" / "16" / "fingerprint" / "metadata").write_text("[]")
    elif (copied / link).exists():
        (copied / link).rename(victim)
    else:
        shutil.copytree(copied / "checkpoints" / "16", victim)
    (victim / "mine").write_text("mine")
    (copied / link).symlink_to(victim)
    before = contents(victim)
    config = config.replace(train={"epochs": 5, "keep_checkpoints": 1})
    with pytest.raises(UserError, match=rf"{link} is a link"):
        train(config, copied)
    assert contents(victim) == before


def test_only_what_orbax_left_unfinished_is_removed(copied, config):
    unfinished = copied / "checkpoints" / "20.orbax-checkpoint-tmp"
    shutil.copytree(copied / "checkpoints" / "16", unfinished)
    train(config, copied)
    assert not unfinished.exists()
    for name in ("20.orbax-checkpoint-tmp", "notes.orbax-checkpoint-tmp"):
        mine = copied / "checkpoints" / name / "mine"
        mine.parent.mkdir()
        mine.write_text("mine")
        with pytest.raises(UserError, match=rf"{name} is no unfinished checkpoint.*; move it away"):
            train(config, copied)
        assert mine.read_text() == "mine"
        shutil.rmtree(mine.parent)


@pytest.mark.parametrize("damage", [b"{", b"\xff\x00", b"[" * 100_000, b'{"model": 3}', b'{"train": {"seed": "x"}}'])
def test_a_damaged_config_is_one_line(copied, config, damage):
    (copied / "config.json").write_bytes(damage)
    with pytest.raises(UserError, match=r"config\.json"):
        train(config, copied)


def test_a_run_goes_on_with_damaged_metrics(small_run, copied, config, capsys):
    """A line torn in the middle, one without a step, and a binary tail."""
    shutil.rmtree(copied / "checkpoints" / "16")
    whole = (copied / "metrics.jsonl").read_bytes().splitlines()
    whole[5] = whole[5][:20]
    (copied / "metrics.jsonl").write_bytes(b"\n".join([*whole[:12], b'{"loss": 1.0}', b"\xff\x00\x9f"]))
    train(config, copied)
    assert f"warning: dropped 3 damaged lines from {copied / 'metrics.jsonl'}" in capsys.readouterr().err
    expected = losses(small_run)
    assert losses(copied) == [*expected[:5], *expected[6:]]


def test_a_folder_in_the_place_of_the_metrics_is_one_line(copied, config):
    shutil.rmtree(copied / "checkpoints" / "16")
    (copied / "metrics.jsonl").unlink()
    (copied / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl is not a file; remove it, or give another --workdir"):
        train(config, copied)
