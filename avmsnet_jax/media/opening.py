"""Opens films and sound files safely: as one local file, without following references, with bounded memory.

FFmpeg takes `Alien: Covenant.mp4` for a URL, follows playlists to other files and machines, and allocates as much
memory as a header asks for. Therefore all files are opened by `open_film`, and written under a name from `local_url`.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import av
from av.stream import Disposition

from avmsnet_jax import regular_file
from avmsnet_jax.errors import UserError

# The largest picture, above 8K. Cutting takes 110 bytes a pixel, most of them in x264, which allows sides up to 16384.
MOST_PIXELS, MOST_SIDE = 8192 * 4608, 16384

# Demuxers that read the given file only. Left out: playlists and scripts (hls, dash, concat, imf, sdp, ...), patterns
# of file names (image2), single pictures (*_pipe), text drawn as a film (tty), formats split over several files (mlv,
# vobsub), devices, and raw data without a signature.
_FILM_FORMATS = (
    *("mov", "matroska", "avi", "flv", "kux", "asf", "asf_o", "rm", "ivr", "ogg", "mxf", "gxf", "lxf", "nut", "nuv"),
    *("mpegts", "mpeg", "mpegvideo", "m4v", "h261", "h263", "h264", "hevc", "vvc", "evc", "av1", "obu", "ivf", "apv"),
    *("vc1", "vc1test", "cavsvideo", "avs2", "avs3", "dirac", "dnxhd", "mjpeg", "mjpeg_2000", "dv", "nsv", "wtv"),
    *("pva", "ty", "dhav", "mtv", "swf", "yuv4mpegpipe", "gif", "apng", "jpegxl_anim", "r3d", "cine", "ser", "flic"),
    *("4xm", "anm", "bethsoftvid", "bfi", "bink", "cdxl", "dxa", "ea", "film_cpk", "idcin", "ipu", "mm", "mv", "rl2"),
    *("roq", "rpl", "siff", "smjpeg", "smk", "sga", "thp", "vivo", "vmd", "wc3movie", "xmv", "dcstr", "iff", "moflex"),
)
_SOUND_FORMATS = (
    *("wav", "w64", "aiff", "caf", "au", "flac", "mp3", "aac", "ac3", "ac4", "eac3", "dts", "dtshd", "truehd", "mlp"),
    *("ape", "wv", "tta", "tak", "mpc", "mpc8", "amr", "amrnb", "amrwb", "dsf", "voc", "shn", "gsm", "spdif"),
    *("loas", "sox", "wsd", "oma", "qcp", "rso", "avr", "ircam", "nistsphere", "sds", "pvf", "iamf", "xwma", "osq"),
)
_CONTAINER_OPTIONS = {
    "format_whitelist": ",".join(_FILM_FORMATS + _SOUND_FORMATS),
    "protocol_whitelist": "file",
}
_DECODER_OPTIONS = {"max_pixels": str(MOST_PIXELS)}  # a frame in the stream may be larger than the header says

# Accept titles that are not UTF-8. PyAV 19 dropped the option.
_OPEN: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}


def local_url(path: str | os.PathLike[str]) -> str:
    """The URL by which FFmpeg opens the local file `path`, even if its name looks like a URL."""
    return f"file:{os.fspath(path)}"


@contextlib.contextmanager
def open_film(path: str | os.PathLike[str]) -> Iterator[av.container.InputContainer]:
    """Opens a film, or a sound file, for reading.

    Raises:
      UserError: it is missing or no regular file, no film, in a format that refers to other files, or has too large a
        picture; also for errors of FFmpeg within the block.
    """
    try:
        regular_file.check(path)
        if os.path.isfile(path) and not os.path.getsize(path):
            raise UserError(f"{os.fspath(path)} is empty (0 bytes); copy it again")
        with _opened(path) as container:
            _check_pictures(container, path)
            yield container
    except FileNotFoundError:
        raise UserError(f"there is no film {os.fspath(path)}; check the path") from None
    except av.FFmpegError as error:
        raise UserError(
            f"cannot read {os.fspath(path)}: {error.strerror}; check that it plays, or convert it again with ffmpeg"
        ) from error


def _opened(path: str | os.PathLike[str]) -> av.container.InputContainer:
    try:
        return av.open(local_url(path), container_options=_CONTAINER_OPTIONS, options=_DECODER_OPTIONS, **_OPEN)
    except av.ArgumentError:  # raised for a format that is not on the list
        raise UserError(f"{os.fspath(path)} is {_kind(path)}") from None


def _kind(path: str | os.PathLike[str]) -> str:
    """What a refused file is, and the remedy, for an error message."""
    with open(path, "rb") as file:
        head = file.read(64)
    if head[8:12] == b"WEBP" and b"ANIM" in head:
        return "an animated WebP, which FFmpeg cannot decode; convert it to mp4 with another program"
    return "no film, or in a format that is not read (playlists, pictures, text); give a film, or convert it to mp4"


def _check_pictures(container: av.container.InputContainer, path: str | os.PathLike[str]) -> None:
    """Bounds the memory of decoders. Covers are skipped, because they are never decoded."""
    for stream in container.streams.video:
        context = stream.codec_context
        if context is None or stream.disposition & Disposition.attached_pic:
            continue
        context.options = {**context.options, **_DECODER_OPTIONS}
        width, height = context.width, context.height
        if max(width, height) > MOST_SIDE or width * height > MOST_PIXELS:
            raise UserError(
                f"{os.fspath(path)} has pictures of {width}x{height} pixels; at most {MOST_PIXELS / 1e6:.0f} million "
                f"(sides up to {MOST_SIDE}) are read; scale it down with ffmpeg"
            )
