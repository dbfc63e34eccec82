"""Films whose names are no text."""

import os
import shutil
from pathlib import Path

from avmsnet_jax.config import Config
from avmsnet_jax.summarize.run import summarize
from tests.media.films import encode, numbered


def test_a_name_in_no_encoding_costs_no_other_film(random_weights, folder, tmp_path):
    film = encode(folder / "b.mp4", [numbered(n) for n in range(30)], codec="libx264", pix_fmt="yuv420p")
    shutil.copy(film, os.fsdecode(os.fsencode(folder / "a") + b"\xe9.mp4"))
    latin, good = summarize([folder], random_weights, tmp_path / "out", Config())
    assert "is not UTF-8" in latin.error
    str(latin.film).encode()  # it can be printed
    latin.error.encode()
    assert not good.error
    assert [path.name for path in Path(tmp_path / "out").iterdir()] == ["b"]
