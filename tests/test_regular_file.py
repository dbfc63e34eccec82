"""Pipes, sockets and devices are refused without being opened."""

import os
import socket

import pytest

from avmsnet_jax import regular_file
from avmsnet_jax.data.sources.published import FrameFile, find_videos
from avmsnet_jax.errors import UserError


def test_pipes_sockets_and_devices_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
    os.symlink("loop", "loop")
    (tmp_path / "file").touch()
    os.symlink("file", "link")
    for name, words in {
        "pipe": "pipe is a pipe; save it to a file first",
        "socket": "is a socket",
        "/dev/null": "/dev/null is a device",
        "loop": "symbolic links",
        "x" * 300: "too long; rename it",
    }.items():
        with pytest.raises(UserError, match=words):
            regular_file.check(name)
    for name in ("none", "file/below"):
        with pytest.raises(FileNotFoundError):
            regular_file.check(name)
    for name in ("link", "file", "."):  # a folder cannot be opened, and the caller says so
        regular_file.check(name)


def test_pipes_in_the_published_layout_are_refused(tmp_path):
    (tmp_path / "fold_lists").mkdir()
    os.mkfifo(tmp_path / "fold_lists" / "Movie50_list_train_fps.txt")
    with pytest.raises(UserError, match="is a pipe"):
        find_videos(tmp_path, "Movie50")
    os.mkfifo(tmp_path / "1.jpg")
    with pytest.raises(UserError, match="is a pipe"):
        FrameFile(1, tmp_path / "1.jpg").scaled(32, 24)
