"""Films with awkward names."""

import json
import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from avmsnet_jax.config import Config
from avmsnet_jax.summarization.run import summarize
from tests.media.films import encode, numbered


def test_a_name_that_is_not_utf8_fails_alone(random_weights, folder, tmp_path):
    film = encode(folder / "b.mp4", [numbered(n) for n in range(30)], codec="libx264", pix_fmt="yuv420p")
    shutil.copy(film, os.fsdecode(os.fsencode(folder / "a") + b"\xe9.mp4"))
    latin, good = summarize([folder], random_weights, tmp_path / "out", Config())
    assert "is not UTF-8" in latin.error
    str(latin.film).encode()  # it can be printed
    latin.error.encode()
    assert not good.error
    assert [path.name for path in Path(tmp_path / "out").iterdir()] == ["b"]


NAMES = (
    "Alien: Covenant",
    "two\nlines\n999  AX       V     C        00:00:00:00 00:00:01:00 00:00:00:00 00:00:01:00",
    "\x1b[31mred\x1b[0m \x9b2J",
    "<script>alert(1) \u2028 \u202e4pm.exe",
    "-y",
    "..b",
    "%03d",
    "long " * 49 + "12",  # 247 bytes, 251 with its suffix
)


@pytest.mark.parametrize("stem", NAMES)
def test_output_is_well_formed_for_any_film_name(random_weights, tmp_path, monkeypatch, stem):
    monkeypatch.chdir(tmp_path)  # so that the name is the whole path
    film = encode(Path("plain.mp4"), [numbered(n) for n in range(30)], codec="libx264", pix_fmt="yuv420p")
    film = film.rename(f"{stem}.mp4")
    (outcome,) = summarize([film], random_weights, "out", Config())
    assert not outcome.error
    assert [path.name for path in Path("out").iterdir()] == [stem]
    folder = Path("out", stem)
    edl = (folder / "summary.edl").read_text(encoding="utf-8")
    assert not [letter for letter in edl if letter != "\n" and unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp")]
    events = [line[:3] for line in edl.splitlines() if line[:3].isdecimal()]
    assert events == [f"{number:03d}" for number in range(1, edl.count("FROM CLIP NAME") + 1)]
    assert "<script>alert" not in (folder / "report.html").read_text(encoding="utf-8")
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["film"] == str(film)
    assert len((folder / "scores.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["..mp4", "...mp4", ". "])
def test_odd_film_names_do_not_overwrite_other_files(random_weights, folder, tmp_path, name):
    film = encode(folder / "a.mp4", [numbered(n) for n in range(30)], codec="libx264", pix_fmt="yuv420p")
    film = film.rename(folder / name)
    out = tmp_path / "out"
    out.mkdir()
    (out / "summary.json").write_text("{}")
    (out / "mine").write_text("mine")
    (outcome,) = summarize([film], random_weights, out, Config(), overwrite=True)
    if name == ". ":
        assert not outcome.error
    else:
        assert "rename it" in outcome.error
    assert (out / "mine").read_text() == "mine"
    assert (out / "summary.json").read_text() == "{}"


def test_other_files_in_a_folder_of_films_are_ignored(random_weights, folder, tmp_path):
    encode(folder / "film.mp4", [numbered(n) for n in range(30)], codec="libx264", pix_fmt="yuv420p")
    for name in ("film.description", "film.idx", "film.sub", "film.LRV", "film.THM", "notes.doc", "live.m3u8"):
        (folder / name).write_text("#EXTM3U")
    os.mkfifo(folder / "pipe.mp4")
    (outcome,) = summarize([folder], random_weights, tmp_path / "out", Config())
    assert not outcome.error
    (piped,) = summarize([folder / "pipe.mp4"], random_weights, tmp_path / "out", Config())
    assert "is a pipe; save it to a file first" in piped.error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["film"]
