"""Captions of films: files of every kind, whole and broken, and text tracks."""

from fractions import Fraction
from pathlib import Path

import av
import pysubs2
import pytest

from avmsnet_jax.media import captions
from avmsnet_jax.media.captions import Cue
from avmsnet_jax.media.writer import Mp4Writer
from tests.media.films import encode, numbered

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Grüß</i> <font color="red">Gott</font>
zwei & drei

2
00:00:03,000 --> 00:00:04,000
a < b
"""
VTT = """WEBVTT

NOTE not shown

intro
00:01.000 --> 00:02.500 align:start
<v Ann><i>Grüß</i> Gott
zwei &amp; drei

second cue
00:00:03.000 --> 00:00:04.000
a &lt; b
"""
CUES = (Cue(1, 2.5, r"{\i1}Grüß{\i0} Gott\Nzwei & drei"), Cue(3, 4, "a < b"))


def beside(folder: Path, suffix: str, content: bytes) -> Path:
    """Writes captions beside a film that need not exist."""
    (folder / f"film.x{suffix}").write_bytes(content)
    return folder / "film.x.mkv"


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".srt", SRT.encode()),
        (".srt", SRT.replace("\n", "\r\n").encode("utf-8-sig")),
        (".srt", SRT.encode("utf-16")),
        (".srt", SRT.encode("latin-1")),
        (".vtt", VTT.encode()),
        (".ass", pysubs2.SSAFile.from_string(SRT).to_string("ass").encode()),
    ],
)
def test_files_of_every_kind_hold_the_same_captions(tmp_path, suffix, content):
    found = captions.read(beside(tmp_path, suffix, content))
    assert (found.cues, found.source, found.problem) == (CUES, f"film.x{suffix}", "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it holds no captions"),
        (bytes(range(256)) * 10, "it holds no captions"),
        (b"1\n00:00:01,000 --> 00:00:02,000\n" * 21, "more than 20 captions"),
        (b"x" * 20_000_001, "more than 20 MB"),
    ],
)
def test_broken_files_are_left_out_with_a_reason(tmp_path, monkeypatch, content, said):
    monkeypatch.setattr(captions, "_MOST_CUES", 20)
    found = captions.read(beside(tmp_path, ".srt", content.replace(b"02,000\n", b"02,000\nx\n")))
    assert not found.cues
    assert found.problem.startswith("film.x.srt left out: ")
    assert said in found.problem


def test_unordered_and_invalid_times_are_corrected(tmp_path):
    rows = ["5,000 --> 00:00:06,000\nlast", "1,000 --> 00:00:03,000\none", "2,000 --> 00:00:04,000\ntwo"]
    rows += ["9,000 --> 00:00:08,000\nbackwards", "3,000 --> 99:59:59,000\nfor ever", "4,000 --> 00:00:05,000\n "]
    text = "\n\n".join(f"00:00:0{row}" for row in rows)
    found = captions.read(beside(tmp_path, ".srt", text.encode()))
    assert [cue.text for cue in found.cues] == ["one", "two", "for ever", "last"]
    alone = captions.one_at_a_time(found.cues[:2])
    assert alone == [Cue(1, 2, "one"), Cue(2, 3, r"one\Ntwo"), Cue(3, 4, "two")]


def test_damaged_lines_do_not_affect_the_others(tmp_path):
    ass = pysubs2.SSAFile.from_string(SRT).to_string("ass")
    film = beside(tmp_path, ".ass", ass.replace("Dialogue: 0,0:00:03", "Dialogue: x\nDialogue: 0,0:00:03").encode())
    assert captions.read(film).cues == CUES
    assert "no captions" in captions.read(beside(tmp_path, ".srt", b"1\n0:0:1 -> 0:0:2\nnone")).problem
    assert "no captions" in captions.read(beside(tmp_path, ".srt", ass.encode())).problem


def test_written_files_are_read_back(tmp_path):
    cues = [*CUES, Cue(5, 6, "an arrow --> & </i> <b>")]
    captions.write(cues, tmp_path / "film.x.vtt")
    found = captions.read(tmp_path / "film.x.mkv")
    assert found.cues == (*CUES, Cue(5, 6, "an arrow → & </i> <b>"))
    assert captions.markup(cues[2]) == "an arrow → &amp; &lt;/i&gt; &lt;b&gt;"


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "srt"), ("mkv", "ass"), ("mp4", "mov_text")])
def test_text_tracks_are_read_with_times_from_the_first_frame(tmp_path, suffix, codec):
    path = tmp_path / f"film.{suffix}"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        text = container.add_stream(codec)
        text.codec_context.subtitle_header = pysubs2.SSAFile().to_string("ass").encode()
        for index in range(125):
            frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index + 25, Fraction(1, 25)  # the film begins at 1 s of its clock
            container.mux(video.encode(frame))
        for cue in CUES:
            line = f"0,0,Default,,0,0,0,,{cue.text}".encode()
            lasts = round(1000 * (cue.end_s - cue.start_s))
            packet = text.codec_context.encode_subtitle(av.subtitles.subtitle.SubtitleSet.create(line, 0, lasts))
            packet.stream, packet.time_base, packet.duration = text, Fraction(1, 1000), lasts
            packet.pts = packet.dts = round(1000 * cue.start_s) + 1000
            container.mux(packet)
        container.mux(video.encode(None))
    found = captions.read(path)
    assert found.source == "a text track of the film"
    assert [(round(cue.start_s, 3), round(cue.end_s, 3)) for cue in found.cues] == [(1, 2.5), (3, 4)]
    plain = [pysubs2.SSAEvent(text=cue.text).plaintext for cue in found.cues]
    assert plain == ["Grüß Gott\nzwei & drei", "a < b"]
    silent = captions.read(encode(tmp_path / "silent.mkv", [numbered(1)] * 5, 25))
    assert (silent.cues, silent.problem) == ((), "")


def test_the_written_text_track_is_read_back(tmp_path):
    with Mp4Writer(tmp_path / "film.mp4") as movie:
        track = movie.pictures((48, 64, 3), Fraction(25), crf=20)
        text = movie.captions([*CUES, Cue(3.5, 4.5, "over it")])
        for index in range(125):
            track.add(numbered(index))
            text.write(Fraction(index, 25))
    found = captions.read(tmp_path / "film.mp4").cues
    assert [(cue.start_s, cue.end_s) for cue in found] == [(1, 2.5), (3, 3.5), (3.5, 4), (4, 4.5)]
    assert [pysubs2.SSAEvent(text=cue.text).plaintext for cue in found][1:] == ["a < b", "a < b\nover it", "over it"]
