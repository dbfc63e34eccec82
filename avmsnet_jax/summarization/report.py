"""The report: one HTML file that shows a film's scores and summary, and edits the cut."""

import base64
import dataclasses
import hashlib
import html
import io
import json
import os
import re
import string
import urllib.parse
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from avmsnet_jax import json_file
from avmsnet_jax.errors import UserError
from avmsnet_jax.media import films
from avmsnet_jax.media.captions import Cue, markup
from avmsnet_jax.scoring.film import Watched
from avmsnet_jax.staging import staged
from avmsnet_jax.summarization import choose, explain
from avmsnet_jax.summarization.cutlist import CutList
from avmsnet_jax.summarization.result import Scores, Summary

REPORT = "report.html"
EMBEDDED_BYTES = 24_000_000  # larger summaries are not embedded, because browsers are slow with them
HIGH = 0.5  # the paper's evaluation calls clips with at least this score key moments
_THUMBNAILS = 160  # evenly over the film, besides one for each chosen shot; about 7 KB each
_STRIP_COLUMNS, _STRIP_ROWS = 1200, 32
_LOUDNESS_PARTS = 36_000  # 50 KB; 0.2 s each of a two-hour film
# Concatenated in this order, these are the body of the page's one function.
SCRIPTS = (
    "dom.js",
    "data.js",
    "overlay.js",
    "player.js",
    "captions.js",
    "curve.js",
    "chosen.js",
    "choose.js",
    "cut.js",
    "timeline.js",
    "editor.js",
    "keys.js",
    "save.js",
    "studio.js",
    "start.js",
)


@dataclasses.dataclass(frozen=True)
class Editing:
    """What the editor needs besides the report.

    Attributes:
      cut: the cut list.
      own_cuts: the film's own cuts, as frames from 0.
      loudness_db: (L,) loudness of L equal parts of the film, decibels of full scale; empty without sound.
    """

    cut: CutList
    own_cuts: Sequence[int] = ()
    loudness_db: Sequence[float] = ()

    @classmethod
    def of(cls, cut: CutList, watched: Watched) -> "Editing":
        """For a film that was watched."""
        own = choose.own_cuts(watched.change, float(watched.rate))
        if not len(watched.loudness):
            return cls(cut, own.tolist())
        duration_s = watched.scores.duration_s
        parts = max(min(round(duration_s * 20), _LOUDNESS_PARTS), 1)
        middles = (np.arange(parts) + 0.5) * duration_s / parts
        return cls(cut, own.tolist(), choose.loudness_db(watched.loudness, middles).tolist())


class Captions(NamedTuple):
    """The captions of the film and of the summary."""

    film: Sequence[Cue] = ()
    summary: Sequence[Cue] = ()


def write_report(
    summary: Summary,
    folder: Path,
    *,
    shown_in: Path | None = None,
    editing: Editing | None = None,
    captions: Captions | None = None,
) -> None:
    """Writes `report.html`: player, score curve, chosen shots, and where the network looked.

    Everything is embedded, except that a summary of more than `EMBEDDED_BYTES` is played from `summary.mp4` beside the
    page, and moments outside the summary from the film. The content security policy of the page allows only its own
    script and style, and no requests.

    Args:
      summary: at least one clip and one shot.
      folder: where to write it; must hold `summary.mp4`.
      shown_in: the final place of `folder` if it will be renamed; the page's link to the film is relative to it.
      editing: for the editor of the cut; None = no editor.
      captions: shown by the players.

    Raises:
      UserError: `folder` cannot be written.
    """
    embedded = (folder / "summary.mp4").stat().st_size <= EMBEDDED_BYTES
    data = _data(summary, shown_in or folder, embedded, editing)
    data["captions"] = {
        player: [[round(cue.start_s, 3), round(cue.end_s, 3), markup(cue)] for cue in cues]
        for player, cues in (captions or Captions())._asdict().items()
    }
    text = page(
        data,
        films.text(summary.scores.film.stem),
        _base64((folder / "summary.mp4").read_bytes()) if embedded else "",
    )
    with staged(folder / REPORT) as stage:
        stage.write_text(text, encoding="utf-8")


def page(data: dict[str, Any], title: str, embedded: str = "", *, connects: bool = False) -> str:
    """The page as HTML.

    Args:
      data: what the page shows, as `read_data` gives it.
      title: of the film.
      embedded: the summary's mp4 in base64; empty = it lies beside the page.
      connects: whether the page may make requests to its server, as in the studio.
    """
    body = string.Template(_part("page.html")).substitute(title=html.escape(title), embedded=embedded)
    return document(f"{title} \N{EN DASH} summary", body, _part("page.css"), script(*SCRIPTS), data, connects=connects)


def style() -> str:
    """The style sheet of the page and of the studio."""
    return _part("page.css")


def script(*names: str) -> str:
    """Scripts of the page, concatenated."""
    return "".join(map(_part, names))


def document(title: str, body: str, style: str, script: str, data: Any, *, connects: bool) -> str:
    """An HTML document in one file; its content security policy allows only its own script and style.

    Args:
      title: as text.
      body: HTML.
      style: CSS.
      script: JavaScript, the body of a function.
      data: for the script, as JSON in the element `data`.
      connects: whether the script may make requests to the server that the document came from.
    """

    def own(text: str) -> str:
        return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"

    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    images, connections = ("'self' data:", "'self'") if connects else ("data:", "'none'")
    policy = (
        f"default-src 'none'; script-src {own(script)}; style-src {own(style)}; img-src {images}; "
        f"media-src blob: 'self' file:; connect-src {connections}; base-uri 'none'; form-action 'none'"
    )
    return string.Template(_part("document.html")).substitute(
        policy=policy,
        title=html.escape(title),
        style=style,
        body=body,
        data=json.dumps(data).replace("<", "\\u003c"),  # which could end the script element
        script=script,
    )


def _part(name: str) -> str:
    return (resources.files(__package__) / "page" / name).read_text("utf-8")


def read_data(path: Path) -> dict[str, Any]:
    """Reads the data of a report, without the embedded summary.

    Raises:
      UserError: the report is damaged.
    """
    remedy = "summarize the film again"
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"cannot read {path}; {remedy}") from None
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data = json_file.parse(found[1], str(path), remedy) if found else None
    if not isinstance(data, dict) or not {"film", "summary", "editing"} <= data.keys():
        raise UserError(f"{path} is damaged, or of an earlier version; {remedy}")
    return {"captions": {}} | data  # reports of earlier versions have none


def _data(summary: Summary, folder: Path, embedded: bool, editing: Editing | None) -> dict[str, Any]:
    """The data of the page's script; times in seconds, clips by index."""
    scores = summary.scores
    best = {
        index: _best_clip(scores, shot.start_s, shot.end_s) for index, shot in enumerate(summary.shots) if shot.chosen
    }
    spread = np.linspace(0, len(scores.times_s) - 1, min(len(scores.times_s), _THUMBNAILS)).round().astype(int)
    shown = sorted({*spread.tolist(), *best.values()})
    return {
        "film": {
            "name": films.text(scores.film.name),
            "href": _film_url(scores.film, folder),
            "duration": scores.duration_s,
            "fps": scores.fps,
            "frames": scores.n_frames,
            "width": scores.width,
            "height": scores.height,
            "sound": scores.has_sound,
        },
        "summary": {
            "href": None if embedded else "summary.mp4",
            "length": summary.length_s,
            "budget": summary.budget_s,
        },
        "clips": {
            "t": np.round(scores.times_s, 3).tolist(),
            "s": [float(f"{score:.4g}") for score in scores.scores.tolist()],
        },
        "decimals": summary.decimals,
        "high": HIGH,
        "shots": [
            {
                "start": round(shot.start_s, 4),
                "end": round(shot.end_s, 4),
                "score": float(f"{shot.score:.4g}"),
                "rank": 1 + sum(other.score > shot.score for other in summary.shots) if shot.chosen else None,
                "at": None if shot.summary_start_s is None else round(shot.summary_start_s, 4),
                "best": best.get(index),
            }
            for index, shot in enumerate(summary.shots)
        ],
        "thumbs": {"clips": shown, "jpeg": [_base64(scores.thumbnails[clip]) for clip in shown]},
        "maps": _maps(summary, shown),
        "strip": _base64(_strip(scores)),
        "signals": {name: np.round(levels.astype(float), 3).tolist() for name, levels in scores.signals.items()},
        "editing": None if editing is None else _editing(editing),
        "facts": [[films.text(name), films.text(value)] for name, value in summary.facts.items()],
    }


def _editing(editing: Editing) -> dict[str, Any]:
    cut = editing.cut.as_json()
    levels = np.clip(np.round((np.array(editing.loudness_db) + 60) * 4), 0, 255).astype(np.uint8)
    return {
        "cut": cut,
        # Edits are stored in the browser under this name: they belong to the film and its scores, not to one choice.
        "key": hashlib.sha256(json.dumps([cut["film"], cut["clips"]]).encode()).hexdigest()[:16],
        "cuts": list(editing.own_cuts),
        "loudness": _base64(levels.tobytes()),
    }


def _best_clip(scores: Scores, start_s: float, end_s: float) -> int:
    """The clip with the highest score in a shot; if it has no clip, the one nearest to its middle."""
    within = np.flatnonzero((scores.times_s >= start_s) & (scores.times_s < end_s))
    if len(within):
        return int(within[np.argmax(scores.scores[within])])
    return int(np.argmin(np.abs(scores.times_s - (start_s + end_s) / 2)))


def _maps(summary: Summary, shown: list[int]) -> dict[str, Any]:
    """The maps, as bytes, of clips in the summary or with a thumbnail."""
    scores = summary.scores
    played = {
        int(clip)
        for shot in summary.shots
        if shot.chosen
        for clip in np.flatnonzero((scores.times_s >= shot.start_s - 2) & (scores.times_s < shot.end_s + 2))
    }
    kept = sorted(played | set(shown))
    looked, times_even = explain.attention_levels(scores)
    maps: dict[str, Any] = {"clips": kept, "times_even": round(times_even, 1)}
    for name, levels in (("look", looked), ("hear", explain.sound_levels(scores))):
        bytes_ = np.round(255 * levels[kept]).astype(np.uint8)
        _, rows, columns = bytes_.shape
        known = bool(levels.any())  # visual-only networks have no sound maps; cuts from cut.json have no maps
        maps[name] = {"rows": rows, "columns": columns, "levels": _base64(bytes_.tobytes())} if known else None
    return maps


def _strip(scores: Scores) -> bytes:
    """The film as a JPEG strip; each column is a thumbnail averaged over its width."""
    columns = min(len(scores.times_s), _STRIP_COLUMNS)
    times = (np.arange(columns) + 0.5) / columns * scores.duration_s
    clips = np.abs(np.searchsorted(scores.times_s, times)).clip(max=len(scores.times_s) - 1)
    strip = Image.new("RGB", (columns, _STRIP_ROWS))
    for column, clip in enumerate(clips.tolist()):
        with Image.open(io.BytesIO(scores.thumbnails[clip]), formats=("JPEG",)) as thumbnail:
            thumbnail.draft("RGB", (_STRIP_ROWS, _STRIP_ROWS))  # decode at a quarter of the size
            pressed = thumbnail.convert("RGB").resize((1, _STRIP_ROWS), Image.Resampling.BOX)
        strip.paste(pressed, (column, 0))
    file = io.BytesIO()
    strip.save(file, "JPEG", quality=88, subsampling=0)
    return file.getvalue()


def _film_url(film: Path, folder: Path) -> str | None:
    """The film's URL relative to the page; None if there is no such file."""
    if not film.is_file():
        return None
    return urllib.parse.quote(os.fsencode(os.path.relpath(film.absolute(), folder.absolute())))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
