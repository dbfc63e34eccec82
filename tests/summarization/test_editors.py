"""Files for editing programs, read back by OpenTimelineIO's readers and compared edit by edit."""

import dataclasses
import re
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
import pytest

from avmsnet_jax.media import timecode
from avmsnet_jax.scoring.film import Watched, watch
from avmsnet_jax.summarization import cut, editors
from tests.media.films import encode, numbered
from tests.scoring.stub import Stub

otio = pytest.importorskip("opentimelineio")

NTSC = Fraction(30000, 1001)
GAPS = [0.02] * 10 + [0.1] * 4  # s, between the frames of a film with a varying rate
SPANS = [(10, 30), (50, 75)]
H264 = {"codec": "libx264", "pix_fmt": "yuv420p"}


def film(path: Path, fps: Fraction | None, text: str, *, sound: bool = True) -> Path:
    """A film of 100 frames with a timecode; of a varying rate where `fps` is None."""
    times = None if fps else [0.0, *np.cumsum(np.tile(GAPS, 8))[:99].tolist()]
    noise = np.random.default_rng(0).integers(-9000, 9000, (2, 4 * 48000), np.int16)
    options = {"sound": noise, "sound_codec": "pcm_s16le", "sound_format": "s16", "layout": "stereo"}
    options["sample_rate"] = 48000
    plain = path.with_name(f"plain{path.suffix}")
    pictures = [numbered(number) for number in range(1, 101)]
    encode(plain, pictures, fps or 25, times_s=times, **H264, **(options if sound else {}))
    with av.open(str(plain)) as source, av.open(str(path), "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
        streams[0].metadata["timecode"] = text
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return path


def watched(path: Path) -> Watched:
    return watch(path, Stub(lambda clip: clip.frame % 7 / 7), spacing_s=0.4)


FILMS = {  # frames a second of film and timeline, timecode of the first frame, number of the first frame
    "23.976": (Fraction(24000, 1001), Fraction(24000, 1001), "01:00:00:00", 86400),
    "25": (Fraction(25), Fraction(25), "01:00:00:00", 90000),
    "29.97 non-drop": (NTSC, NTSC, "01:00:00:00", 108000),
    "29.97 drop": (NTSC, NTSC, "01:00:00;00", 107892),
    "29.97 drop, over a minute": (NTSC, NTSC, "00:08:59;20", 16174),
    "50": (Fraction(50), Fraction(50), "01:00:00:00", 180000),
    "59.94": (Fraction(60000, 1001), Fraction(60000, 1001), "01:00:00:00", 216000),
    "59.94 drop": (Fraction(60000, 1001), Fraction(60000, 1001), "01:00:00;00", 215784),
    "almost 30": (Fraction(30029, 1001), Fraction(30), "01:00:00:00", 108000),
    "12, which is no usual rate": (Fraction(12), Fraction(12), "", 0),
    "varying": (None, Fraction(50), "01:00:00:00", 180000),
}


@pytest.mark.parametrize("kind", FILMS)
def test_every_file_has_the_same_edits(tmp_path, kind):
    fps, rate, text, start = FILMS[kind]
    path = film(tmp_path / f"fi lm ü#%41.{'mov' if fps else 'mkv'}", fps, text)
    seen = watched(path)
    takes = cut.takes(seen, SPANS)
    editors.write(seen, takes, tmp_path)
    if fps is None:
        edits = [(round(take.start_s * 50), round(take.end_s * 50)) for take in takes]
        for take, edit in zip(takes, edits, strict=True):
            assert np.abs(np.array(edit) / 50 - (take.start_s, take.end_s)).max() <= 0.5 * min(GAPS)
    else:
        edits = SPANS
    wanted = [(start + first, stop - first) for first, stop in edits]

    for name, options in (
        ("summary.otio", {}),
        ("summary.xml", {}),
        ("summary.edl", {"rate": float(rate) if ";" in text else round(rate)}),
    ):
        if name == "summary.edl" and rate not in timecode.STANDARD_RATES:
            continue  # its reader knows no others
        timeline = otio.adapters.read_from_file(str(tmp_path / name), **options)
        (timeline,) = [timeline] if isinstance(timeline, otio.schema.Timeline) else timeline
        tracks = [track for track in timeline.tracks if len(track)]
        kinds = {"summary.otio": ["Video", "Audio"], "summary.xml": ["Video", "Audio", "Audio"]}
        assert [track.kind for track in tracks] == kinds.get(name, ["Video", "Audio", "Audio"]), name
        for track in tracks:
            assert [read(clip.source_range) for clip in track] == wanted, name
            at = [track.range_of_child(clip).start_time.value for clip in track]
            assert at == [0, wanted[0][1]], name
            assert track[0].name.startswith("fi lm ü#%41.m"), name
            if name != "summary.edl":
                assert {clip.media_reference.target_url for clip in track} == {path.as_uri()}
                assert track[0].media_reference.available_range.start_time.value == start
                assert track[0].source_range.start_time.rate == pytest.approx(float(rate), abs=1e-3)
    assert fcpxml_edits(tmp_path / "summary.fcpxml", rate) == wanted
    if rate.denominator == 1:  # OpenTimelineIO's reader takes 23.976 for 23
        (timeline,) = otio.adapters.read_from_file(str(tmp_path / "summary.fcpxml"))
        assert [read(clip.source_range) for clip in timeline.tracks[0]] == wanted
    drop = ";" in text
    assert ("FCM: DROP FRAME" in (tmp_path / "summary.edl").read_text()) == drop
    assert f"<displayformat>{'DF' if drop else 'NDF'}<" in (tmp_path / "summary.xml").read_text()
    shown = re.search(r"C +(\S+)", (tmp_path / "summary.edl").read_text())[1]
    if rate in timecode.STANDARD_RATES:
        first = otio.opentime.RationalTime(wanted[0][0], float(rate))
        assert otio.opentime.to_timecode(first, float(rate), drop) == shown
    else:
        assert shown == "00:00:00:10"


def read(span) -> tuple[int, int]:
    return span.start_time.value, span.duration.value


def fcpxml_edits(path: Path, rate: Fraction) -> list[tuple[int, int]]:
    """First frame, by timecode, and length of each edit, from exact fractions."""

    def frames(text: str) -> int:
        found = Fraction(text.removesuffix("s")) * rate
        assert found.denominator == 1, f"{text} is no whole frame at {rate} a second"
        return int(found)

    root = ElementTree.parse(path).getroot()
    assert frames(root.find("resources/format").get("frameDuration")) == 1
    clips = root.findall(".//asset-clip")
    assert [frames(clip.get("offset")) for clip in clips] == [0, frames(clips[0].get("duration"))]
    assert frames(root.find(".//sequence").get("duration")) == sum(frames(clip.get("duration")) for clip in clips)
    return [(frames(clip.get("start")), frames(clip.get("duration"))) for clip in clips]


def test_films_without_sound_have_tracks_of_picture_alone(tmp_path):
    seen = watched(film(tmp_path / "film.mov", Fraction(25), "", sound=False))
    editors.write(seen, cut.takes(seen, SPANS), tmp_path)
    for name, options in (("summary.otio", {}), ("summary.xml", {}), ("summary.edl", {"rate": 25})):
        timeline = otio.adapters.read_from_file(str(tmp_path / name), **options)
        (timeline,) = [timeline] if isinstance(timeline, otio.schema.Timeline) else timeline
        assert [track.kind for track in timeline.tracks if len(track)] == ["Video"], name
    assert "hasAudio" not in (tmp_path / "summary.fcpxml").read_text()


def test_names_cannot_break_the_files(tmp_path):
    path = film(tmp_path / "film.mov", Fraction(25), "", sound=False)
    odd = path.rename(tmp_path / "a <b> & 'c'\n\"d\"\x1b\uffff.mov")
    seen = watched(odd)
    editors.write(seen, cut.takes(seen, SPANS), tmp_path)
    for name in ("summary.fcpxml", "summary.xml"):
        urls = [element for element in ElementTree.parse(tmp_path / name).iter() if "file:" in str(element.attrib)]
        assert name == "summary.xml" or urls[0].get("src") == odd.as_uri()
    assert len((tmp_path / "summary.edl").read_text().splitlines()) == 3 + 2 * len(SPANS)


def test_links_join_the_items_of_an_edit(tmp_path):
    seen = watched(film(tmp_path / "film.mov", Fraction(25), ""))
    editors.write(seen, cut.takes(seen, SPANS), tmp_path)
    root = ElementTree.parse(tmp_path / "summary.xml").getroot()
    items = {item.get("id"): item for item in root.iter("clipitem")}
    assert sorted(items) == ["audio1-1", "audio1-2", "audio2-1", "audio2-2", "video-1", "video-2"]
    for name, item in items.items():
        links = [link.findtext("linkclipref") for link in item.iter("link")]
        assert links == [f"{track}-{name[-1]}" for track in ("video", "audio1", "audio2")]
        spans = [int(item.findtext(end)) for end in ("in", "out")]
        assert spans == list(SPANS[int(name[-1]) - 1])


def test_edits_are_exact_to_the_frame_for_hours_at_a_nonstandard_rate(tmp_path):
    seen = watched(film(tmp_path / "film.mov", Fraction(25), "", sound=False))
    rate, count = Fraction(2990, 100), 200_000
    times = np.arange(count) / float(rate)
    scores = dataclasses.replace(seen.scores, n_frames=count, duration_s=float(count / rate), fps=float(rate))
    seen = dataclasses.replace(seen, scores=scores, rate=rate, times_s=times, stamps_s=times)
    timeline = editors.Timeline.of(seen, cut.takes(seen, [(150_001, 150_021), (199_990, count)]))
    assert (timeline.rate, timeline.frames) == (NTSC, count)
    assert [(edit.first, edit.stop, edit.at) for edit in timeline.edits] == [
        (150_001, 150_021, 0),
        (199_990, count, 20),
    ]
