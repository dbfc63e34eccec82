"""Saving, converting and exporting leave nothing behind when the disk is full or when they are killed."""

import os
import re
import signal
import stat
from pathlib import Path

import pytest
from flax import nnx

import avmsnet_jax
from avmsnet_jax.errors import UserError
from avmsnet_jax.weights import checkpoint
from avmsnet_jax.weights.export import export
from tests.conftest import small_disk, wait_until
from tests.weights.conftest import TINY, state
from tests.weights.test_checkpoint import tree_of

SAVING = """
import sys
from pathlib import Path
import numpy as np
from avmsnet_jax import command_line

def main(arguments):
    from avmsnet_jax.config import ModelConfig
    from avmsnet_jax.weights import checkpoint
    size = int(arguments[1])
    tree = {"a": {str(i): np.random.default_rng(i).random((size, 1000), np.float32) for i in range(30)}}
    checkpoint.write(Path(arguments[0]), ModelConfig(), tree)

command_line.run(main, positional="TARGET SIZE")
"""


@pytest.fixture
def saving(tmp_path: Path) -> Path:
    """A command that saves 30 arrays of random numbers."""
    path = tmp_path / "saving.py"
    path.write_text(SAVING)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A checkpoint of a tiny network."""
    place = tmp_path_factory.mktemp("saved") / "tiny"
    checkpoint.write(place, TINY, tree_of(state()))
    return place


def test_a_full_disk_gives_one_line_and_leaves_nothing(forked, saving, tmp_path):
    with small_disk(tmp_path / "disk", "3m"):
        for target in ("new", "deep/er/new"):
            done = forked(saving, tmp_path / "disk" / target, 200)
            assert done.returncode == 2
            assert re.fullmatch(r"saving.py: cannot write .*/new: No space left on device; .*\n", done.stderr)
            assert not list((tmp_path / "disk").iterdir())


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_full_disk_leaves_no_half_export(saved, tmp_path, suffix):
    with small_disk(tmp_path / "disk", "100k"):
        with pytest.raises(UserError, match=r"cannot write .*: .*No space left on device.*; choose another place"):
            export(str(saved), str(tmp_path / "disk" / f"new{suffix}"))
        assert not list((tmp_path / "disk").iterdir())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_save_is_cleaned_up(started, saving, tmp_path, how):
    out = tmp_path / "out"
    process = started(saving, out / "new", 1600)  # 192 MB: not yet saved when the signal comes
    wait_until(lambda: list(out.glob(".new.*/new/*/*")), process)
    process.send_signal(how)
    _, said = process.communicate()
    if how == signal.SIGINT:
        assert (process.returncode, said) == (130, "saving.py: interrupted\n")
        assert not out.exists()
    else:
        assert [path.name for path in out.iterdir()] == [".new.stage"]
        avmsnet_jax.save(avmsnet_jax.AVMSNet(TINY, rngs=nnx.Rngs(0)), out / "new")
        assert [path.name for path in out.iterdir()] == ["new"]


def test_exports_follow_the_umask(saved, tmp_path):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            for suffix in (".pth", ".pt", ".safetensors"):
                path = tmp_path / f"{mask}{suffix}"
                export(str(saved), str(path))
                assert stat.S_IMODE(path.stat().st_mode) == mode
        finally:
            os.umask(before)


def test_an_export_does_not_follow_a_link(saved, tmp_path):
    for number, target in enumerate(("victim", "nowhere")):
        (tmp_path / "victim").write_text("mine")
        link = tmp_path / f"{number}.safetensors"
        link.symlink_to(tmp_path / target)
        with pytest.raises(UserError, match="exists"):
            export(str(saved), str(link))
        assert sorted(path.name for path in tmp_path.iterdir() if not path.is_symlink()) == ["victim"]
        assert (tmp_path / "victim").read_text() == "mine"
