import numpy as np
import pytest

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
