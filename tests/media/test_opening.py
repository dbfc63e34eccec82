"""FFmpeg opens local files only and follows no references."""

import io
import os
import shutil
import socket
import struct
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.media.writer import write_movie
from tests.media.films import encode, number_of, numbered


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    tone = np.full((1, 8820), 0.25, np.float32)
    return encode(tmp_path_factory.mktemp("film") / "film.mkv", [numbered(n) for n in range(5)], sound=tone)


@pytest.fixture
def listener():
    """A port on loopback, and the connections that it got."""
    heard: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            try:
                while True:
                    heard.append(server.accept())
            except OSError:
                return

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1], heard
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


NAMES = (
    *("Alien: Covenant.mkv", "http:127.0.0.1:PORT?x.mkv", "tcp:127.0.0.1:PORT", "udp:127.0.0.1:PORT?x.mkv", "pipe:0"),
    *("rtmp:127.0.0.1:PORT", "concat:a|b.mkv", "data:x", "file:x.mkv", "subfile,,start,0,end,9,,:x.mkv", "%03d.mkv"),
    *("-y.mkv", "a b?c#d&e.mkv", "C:\\film.mkv", "crypto:x.mkv", "async:x", "*.mkv", "[0-9].mkv", "-", "lavfi"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_looks_like_a_url_is_a_local_file(film, tmp_path, listener, monkeypatch, name):
    port, heard = listener
    monkeypatch.chdir(tmp_path)  # so that the name is the whole path
    name = name.replace("PORT", str(port))
    shutil.copy(film, name)
    assert [number_of(frame.rgb()) for frame in Movie(name).frames()] == list(range(5))
    waveform = Movie(name).whole_waveform()
    assert waveform is not None
    assert waveform[2000] == pytest.approx(0.25, abs=0.01)
    write_movie(f"copy of {name}.mp4", (frame.rgb() for frame in Movie(name).frames()), 25, waveform)
    assert sum(1 for _ in Movie(f"copy of {name}.mp4").frames()) == 5
    assert not heard


def text_of(kind: str, film: Path, port: int) -> str:
    address = f"http://127.0.0.1:{port}/x.ts"
    return {
        "live.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film}\n#EXTINF:1,\n{address}\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile {film}\n",
        "film.mp4": f"ffconcat version 1.0\nfile '{address}'\n",
        "call.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "list.mpd": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT9S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet>'
        f'<Representation id="1" bandwidth="9"><BaseURL>{address}</BaseURL></Representation></AdaptationSet></Period>'
        "</MPD>",
        "list.asx": f'<asx version="3.0"><entry><ref href="{address}"/></entry></asx>',
        "list.pls": f"[playlist]\nFile1={address}\n",
        "song.imf": f'<?xml version="1.0"?><CompositionPlaylist><Id>urn:uuid:1</Id>{address}</CompositionPlaylist>',
        "film.idx": "# VobSub index file, v7 (do not modify this line!)\n",
        "meta.txt": ";FFMETADATA1\ntitle=x\n",
        "script.avs": f'DirectShowSource("{film}")\n',
        "art.txt": "just words\n" * 50,
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        *("live.m3u8", "list.ffconcat", "film.mp4", "call.sdp", "list.mpd", "list.asx", "list.pls"),
        *("song.imf", "film.idx", "meta.txt", "script.avs", "art.txt"),
    ],
)
def test_files_that_refer_to_other_files_are_refused(film, tmp_path, listener, kind):
    port, heard = listener
    path = tmp_path / kind
    path.write_text(text_of(kind, film, port))
    for read in (Movie.info, Movie.whole_waveform):
        with pytest.raises(UserError, match=r"no film|cannot read") as caught:
            read(Movie(path))
        assert str(path) in str(caught.value)
    assert not heard


def boxed(kind: bytes, content: bytes) -> bytes:
    return (len(content) + 8).to_bytes(4, "big") + kind + content


def with_reference(content: bytes, path: bytes) -> bytes:
    """A QuickTime file's boxes, changed to refer to the file `path` for the samples."""
    out, at = b"", 0
    while at < len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        inside = content[at + 8 : at + length]
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
            inside = with_reference(inside, path)
        if kind == b"dref":
            alias = bytes(4 + 10 + 1 + 27 + 12 + 1 + 63 + 16) + b"\x00\x01\x00\x01" + bytes(16)
            alias += b"\x00\x02" + len(path).to_bytes(2, "big") + path + bytes(len(path) % 2)
            inside = bytes(4) + b"\x00\x00\x00\x01" + boxed(b"alis", alias + b"\xff\xff\x00\x00")
        out += boxed(kind, inside)
        at += length
    return out


def test_an_external_reference_in_a_mov_is_not_followed(tmp_path):
    for path in (tmp_path / "whole.mov", tmp_path / "other.mov"):
        encode(path, [np.full((48, 64, 3), 100, np.uint8)] * 4, codec="png", pix_fmt="rgb24")
    (tmp_path / "whole.mov").write_bytes(with_reference((tmp_path / "whole.mov").read_bytes(), b"/other.mov"))
    with pytest.raises(UserError, match=r"whole\.mov"):
        Movie(tmp_path / "whole.mov").info()


def test_an_empty_file_is_told_as_such(tmp_path):
    (tmp_path / "film.mp4").touch()
    with pytest.raises(UserError, match=r"film\.mp4 is empty \(0 bytes\); copy it again"):
        Movie(tmp_path / "film.mp4").info()


def test_still_pictures_are_refused(tmp_path):
    pictures = [Image.new("RGB", (64, 48), (20 * n, 0, 0)) for n in range(4)]
    for suffix in ("jpg", "png", "tiff", "bmp", "webp"):
        path = tmp_path / f"picture.{suffix}"
        pictures[0].save(path)
        with pytest.raises(UserError, match=r"picture\.\w+ is no film.*convert"):
            Movie(path).info()
    moving = {"save_all": True, "append_images": pictures[1:], "duration": 100}
    pictures[0].save(tmp_path / "moving.webp", **moving)
    with pytest.raises(UserError, match="animated WebP, which FFmpeg cannot decode; convert it"):
        Movie(tmp_path / "moving.webp").info()
    pictures[0].save(tmp_path / "moving.gif", **moving)
    pictures[0].save(tmp_path / "moving.png", **moving)
    for name in ("moving.gif", "moving.png"):
        assert sum(1 for _ in Movie(tmp_path / name).frames()) == 4


def test_pipes_devices_and_folders_are_not_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.mp4")
    for path, words in {
        "pipe.mp4": "is a pipe; save it to a file first",
        "link.mp4": "is a pipe; save it to a file first",
        "socket.mp4": "is a socket",
        "folder.mp4": "Is a directory",
        "/dev/zero": "is a device; save it to a file first",
        "gone.mp4": "there is no film",
        "x" * 300 + ".mp4": "File name too long; rename it",
    }.items():
        for read in (Movie.info, Movie.whole_waveform):
            with pytest.raises(UserError, match=words):
                read(Movie(path))


def film_of_pictures(path: Path, sizes: list[tuple[int, int]]) -> Path:
    """Black PNG pictures of any sizes in a QuickTime file."""
    small = encode(path.with_name("small.mov"), [np.zeros((48, 64, 3), np.uint8)], codec="png", pix_fmt="gray")
    with av.open(str(small)) as container, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        for index, size in enumerate(sizes):
            file = io.BytesIO()
            Image.new("1", size).save(file, "PNG", compress_level=1)
            packet = av.Packet(file.getvalue())
            packet.stream, packet.pts, packet.dts = stream, index, index
            packet.time_base, packet.is_keyframe = Fraction(1, 25), True
            out.mux(packet)
    return path


@pytest.mark.parametrize("size", [(16400, 16), (16, 16400), (8208, 8208)])
def test_picture_size_is_bounded(tmp_path, size):
    film = film_of_pictures(tmp_path / "film.mov", [size] * 2)
    with pytest.raises(UserError, match=r"film\.mov (has pictures of .* pixels.*scale it down|has no frame)"):
        Movie(film).info()


def test_picture_size_is_bounded_in_the_stream_too(tmp_path):
    film = film_of_pictures(tmp_path / "film.mov", [(64, 48)] * 3 + [(8208, 8208)] + [(64, 48)] * 40)
    sizes = [frame.shown_size for frame in Movie(film).frames()]
    assert set(sizes) == {(64, 48)}
    assert len(sizes) > 20


def test_gaps_of_a_small_file_are_bounded(tmp_path):
    pictures = [numbered(n) for n in range(65)]
    for name, step_s, fine in (("hours", 3000, False), ("minutes", 300, True)):
        times = [*(n / 25 for n in range(60)), *(2.4 + step_s * n for n in range(1, 6))]
        film = encode(tmp_path / f"{name}.mkv", pictures, 25, codec="mpeg4", pix_fmt="yuv420p", times_s=times)
        assert film.stat().st_size < 50_000
        assert [number_of(frame.rgb()) for frame in Movie(film).frames()] == list(range(65))  # as they are decoded
        if fine:
            assert sum(1 for _ in Movie(film).frames(constant_rate=True)) == pytest.approx(60 + 5 * step_s * 25, abs=2)
        else:
            with pytest.raises(UserError, match=r"hours\.mkv has 4\.2 hours of gaps.*cut them out"):
                next(Movie(film).frames(constant_rate=True))


@pytest.mark.parametrize(("rate", "fine"), [(1, False), (2_000_000_000, False), (8000, True), (768_000, True)])
def test_sample_rates_are_bounded(tmp_path, rate, fine):
    samples = 4000
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + 2 * samples, b"WAVE", b"fmt ", 16, 1, 1, rate, rate, 2, 16)
    sound = tmp_path / "sound.wav"
    sound.write_bytes(head + struct.pack("<4sI", b"data", 2 * samples) + bytes(2 * samples))
    if fine:
        waveform = Movie(sound).whole_waveform()
        assert waveform is not None
        assert len(waveform) == pytest.approx(samples / rate * 22050, abs=1)
    else:
        with pytest.raises(UserError, match=rf"sound\.wav has sound of {rate} Hz.*convert it"):
            Movie(sound).whole_waveform()
