"""Films are found in folders by their suffix."""

from pathlib import Path

import pytest

from avmsnet_jax.errors import UserError
from avmsnet_jax.media import films


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


def names_in(folder: Path) -> list[str]:
    return [path.name for path in films.in_folder(folder)]


def test_films_are_recognized_by_their_suffix(tmp_path):
    beside = "film.idx film.sub film.description film.THM film.srt film.ass film.info.json film.en.vtt film.wav"
    stray = "notes.doc budget.xlsx poster.jpg README Thumbs.db film.mp4.part cut.prproj film.keyshots.csv film.mp4.xmp"
    touch(tmp_path, "film.mp4", "OTHER.MKV", "third.m2ts", ".hidden.mp4", *beside.split(), *stray.split())
    (tmp_path / "folder.mp4").mkdir()
    assert names_in(tmp_path) == ["OTHER.MKV", "film.mp4", "third.m2ts"]


@pytest.mark.parametrize(
    ("film", "copy"),
    [
        ("GOPR0001.MP4", "GOPR0001.LRV"),
        ("GX010001.MP4", "GL010001.LRV"),
        ("DJI_0001.MP4", "DJI_0001.LRF"),
        ("VID_20230101_00_001.insv", "LRV_20230101_01_001.lrv"),
        ("C0001.MP4", "C0001S03.MP4"),
        ("A001_C002.mov", "A001_C002_Proxy.mov"),
        ("clip.mp4", "clip.gif"),
    ],
)
def test_a_low_resolution_copy_is_left_out_beside_its_film(tmp_path, film, copy):
    assert names_in(touch(tmp_path, film, copy)) == [film]
    (tmp_path / film).unlink()
    assert names_in(tmp_path) == [copy]


def test_a_folder_without_films_and_two_films_of_one_name_are_refused(tmp_path):
    touch(tmp_path, "notes.doc")
    with pytest.raises(UserError, match=r"no film in .*name the films themselves"):
        films.listed([tmp_path])
    assert films.listed([tmp_path / "notes.doc"]) == [tmp_path / "notes.doc"]
    touch(tmp_path, "a.mp4", "a.mov")
    with pytest.raises(UserError, match="would both be summarized in a"):
        films.listed([tmp_path])
