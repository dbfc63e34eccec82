"""Maps the container's clock to the film's time, for files of several recordings joined end to end.

Each recording has a clock of its own, so time stamps jump where a recording begins. There the film continues at the end
of the picture so far, and the sound follows the picture. Therefore the packets of both are read, even if only one of
them is needed.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import av.format

# A larger step of the stamps, ahead or back, begins another recording; a smaller gap is part of the film. In streaming
# formats, which are made to be joined, `_LONGEST_GAP_OF_STREAMS_S` is the limit.
LONGEST_GAP_S, MOST_DISORDER_S = 3600.0, 1.0
_LONGEST_GAP_OF_STREAMS_S = 10.0
_LONGEST_GAP_FRAMES = 10  # the limit, where it is longer, in films with few pictures a second

_WRAP_S = 2**33 / 90000  # MPEG's clock wraps to 0 after 26.5 hours
_WRAPS = ("mpegts", "mpeg")

_SMOOTH_S = 0.1  # a sound packet continues the one before if it starts this close to its end
_BESIDE_S = 2.0  # largest distance in time of picture and sound that are interleaved in a file
_HELD_S = 10.0  # longest sound held back until the picture's next packet shows where it belongs
_MOST_HELD = 5000  # most packets held back, because packets of some files have no duration


@dataclasses.dataclass
class _Recording:
    """One of the recordings in a film.

    Attributes:
      shift_s: added to its stamps to get the film's time, seconds.
      begins_s: when its picture begins in the film, seconds.
      place: offset in the file where its picture begins, bytes; None if unknown.
    """

    shift_s: float
    begins_s: float
    place: int | None


@dataclasses.dataclass
class _Waiting:
    """A sound packet that may belong to either of two recordings, or come after the end of its own.

    Attributes:
      packet: the packet.
      stamp_s: when it is heard, on the container's clock, seconds; None if it has no stamp.
      duration_s: its duration, seconds.
      place: its offset in the file, bytes; None if unknown.
      smooth: whether it continues the packet before it.
      recording: index of the recording whose picture follows it in the file; None until that is known.
    """

    packet: av.Packet
    stamp_s: float | None
    duration_s: float
    place: int | None
    smooth: bool
    recording: int | None = None


class FilmClock:
    """The film's time, which continues where the container's clock jumps; before the first jump both are the same.

    It works on packets, because only their order in the file shows where a recording begins.
    """

    def __init__(
        self,
        container_format: av.format.ContainerFormat,
        picture: av.VideoStream | None,
        sound: av.AudioStream | None,
        frame_s: float,
    ):
        """Follows a film from its start.

        Args:
          container_format: the format of the file.
          picture: the video stream; None = there is only sound.
          sound: the audio stream; None = there is only picture.
          frame_s: how long a frame is shown, seconds; 0 = unknown.
        """
        self._main = picture if picture is not None else sound
        streaming = av.format.Flags.ts_discont in av.format.Flags(container_format.flags)
        longest_gap_s = _LONGEST_GAP_OF_STREAMS_S if streaming else LONGEST_GAP_S
        self._longest_gap_s = max(longest_gap_s, _LONGEST_GAP_FRAMES * frame_s)
        self._most_disorder_s = max(MOST_DISORDER_S, _LONGEST_GAP_FRAMES * frame_s)
        self._wraps = container_format.name in _WRAPS
        self._frame_s = frame_s
        # Cached, because asking each packet for its time base takes as long as all else here.
        units = {stream.index: stream.time_base or Fraction(1) for stream in (picture, sound) if stream is not None}
        self._units = {index: (unit.numerator, unit.denominator) for index, unit in units.items()}
        self._recordings = [_Recording(0.0, -math.inf, None)]
        self._stamp_s: float | None = None  # of the picture's latest packet, on the container's clock
        self._latest_s = -math.inf  # when that packet is decoded, in the film's time
        self._until_s = -math.inf  # when the picture so far ends, in the film's time
        self._later_s = 0.0  # from the decoding of that packet to its showing
        self._by_decoding = False  # whether the latest picture packet had a dts
        # Start and end of the sound since its last jump, on the container's clock.
        self._unbroken: tuple[float, float] | None = None
        self._sound_recording, self._sound_shift_s, self._sound_end_s = 0, 0.0, -math.inf
        self.longest_step_s = 0.0  # between two packets of the picture without a jump

    @property
    def jumped(self) -> bool:
        """Whether the packets so far come from more than one recording."""
        return len(self._recordings) > 1

    def packets(self, packets: Iterable[av.Packet], stream: av.VideoStream | av.AudioStream) -> Iterator[av.Packet]:
        """Yields the packets of one stream with stamps in the film's time.

        A recording's sound before its own picture, and after the next recording's picture begins, is left out.

        Args:
          packets: the packets of both streams, in their order in the file.
          stream: the stream to yield.
        """
        if stream is not self._main:
            yield from self._sound_packets(packets)
            return
        for packet in packets:
            if packet.stream is self._main:
                shift = self._picture_shift(packet)
                yield self._moved(packet, shift, self._later_s)
            else:
                self._hear(self._stamp(packet), self._duration(packet))

    def _sound_packets(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        waiting: collections.deque[_Waiting] = collections.deque()
        held_s, place, flush = 0.0, None, None
        for packet in packets:
            if packet.stream is self._main:
                self._picture_shift(packet)
                for each in waiting:
                    if each.recording is None and not _lies_before(packet.pos, each.place):
                        each.recording = len(self._recordings) - 1
            elif not packet.size and packet.dts is None and packet.pts is None:
                flush = packet
            else:
                # Only the first packet of a group has an offset.
                place = packet.pos if packet.pos is not None else place
                stamp, duration = self._stamp(packet), self._duration(packet)
                waiting.append(_Waiting(packet, stamp, duration, place, self._hear(stamp, duration)))
                held_s += duration
            while waiting and (held_s > _HELD_S or len(waiting) > _MOST_HELD or self._is_placed(waiting[0])):
                held_s -= waiting[0].duration_s
                yield from self._placed(waiting.popleft())
        while waiting:
            yield from self._placed(waiting.popleft())
        if flush is not None:
            yield flush

    def _picture_shift(self, packet: av.Packet) -> float:
        """The shift of the stamps of the picture's next packet, seconds. A jump begins a recording."""
        stamp = self._stamp(packet)
        if stamp is None:
            return self._recordings[-1].shift_s
        shown = self._seconds(packet.pts, packet)
        later = 0.0 if shown is None else self._step(stamp, shown)
        # FFmpeg may give a recording's last frame the pts of the next recording's first.
        if not -self._most_disorder_s <= later <= self._longest_gap_s:
            later = self._later_s
        now = stamp + self._recordings[-1].shift_s
        if self._stamp_s is not None:
            now = self._nearest(now, self._latest_s)
            step = now - self._latest_s
            # Before its first dts, Matroska has only pts, which are out of order.
            disorder_s = MOST_DISORDER_S if self._by_decoding and packet.dts is not None else self._most_disorder_s
            if -disorder_s <= step <= self._longest_gap_s or (step > 0 and self._bridged(stamp)):
                self.longest_step_s = max(self.longest_step_s, step)
            else:
                now = self._until_s - later
                self._recordings.append(_Recording(now - stamp, self._until_s, packet.pos))
        self._stamp_s, self._latest_s, self._later_s = stamp, now, later
        self._by_decoding = packet.dts is not None
        if not packet.is_discard:
            self._until_s = max(self._until_s, now + later + (self._frame_s or self._duration(packet)))
        return now - stamp

    def _bridged(self, stamp: float) -> bool:
        """Whether the sound continues through a gap of the picture; if so, the gap is part of the film."""
        if self._unbroken is None or self._stamp_s is None:
            return False
        (begin, end), gap = self._unbroken, self._longest_gap_s
        return self._step(self._stamp_s, begin) <= gap and abs(self._step(end, stamp)) <= gap

    def _hear(self, stamp: float | None, duration: float) -> bool:
        """Follows the sound on the container's clock; returns whether a packet continues the one before."""
        if stamp is None:
            return self._unbroken is not None
        end = stamp + duration
        if self._unbroken is None:
            self._unbroken = stamp, end
            return False
        step = self._step(self._unbroken[1], stamp)
        runs_on = -MOST_DISORDER_S <= step <= self._longest_gap_s
        self._unbroken = self._unbroken[0] if runs_on else stamp, end
        return abs(step) <= _SMOOTH_S

    def _is_placed(self, item: _Waiting) -> bool:
        """Whether the recording of a sound packet is known, and its picture has been read up to the packet."""
        if not item.smooth and item.recording is None:
            return False
        recording, start = self._place(item)
        return recording < len(self._recordings) - 1 or start is None or start <= self._latest_s

    def _placed(self, item: _Waiting) -> Iterator[av.Packet]:
        """Yields the packet in the film's time, or nothing if its recording has no picture at that time."""
        recording, start = self._place(item)
        if start is None or item.stamp_s is None:
            yield item.packet
            return
        self._sound_recording, self._sound_shift_s = recording, start - item.stamp_s
        self._sound_end_s = start + item.duration_s
        following = self._recordings[recording + 1 :]
        ended = bool(following) and start >= following[0].begins_s
        if not ended and self._sound_end_s >= self._recordings[recording].begins_s:
            yield self._moved(item.packet, self._sound_shift_s)

    def _place(self, item: _Waiting) -> tuple[int, float | None]:
        """The index of the recording that a sound packet belongs to, and the packet's start in the film, seconds."""
        stamp = item.stamp_s
        if stamp is None:
            return self._sound_recording, None
        goes_on = self._nearest(stamp + self._sound_shift_s, self._sound_end_s)
        if item.smooth:
            return self._place_smooth(item, stamp, goes_on)
        recording = len(self._recordings) - 1 if item.recording is None else item.recording
        by_picture = self._nearest(stamp + self._recordings[recording].shift_s, self._latest_s)
        if self._stamp_s is None or abs(by_picture - self._latest_s) <= self._longest_gap_s:
            return recording, by_picture
        # The clocks of sound and picture differ.
        if math.isinf(self._sound_end_s):
            return recording, self._latest_s
        runs_on = -MOST_DISORDER_S <= goes_on - self._sound_end_s <= self._longest_gap_s
        return recording, goes_on if runs_on else self._sound_end_s

    def _place_smooth(self, item: _Waiting, stamp: float, goes_on: float) -> tuple[int, float]:
        """Places continuous sound: in the same recording, unless the next one has begun and its clock fits better."""
        following = self._sound_recording + 1
        if following < len(self._recordings) and _lies_before(self._recordings[following].place, item.place):
            by_picture = self._nearest(stamp + self._recordings[following].shift_s, self._latest_s)
            if abs(by_picture - self._latest_s) < min(abs(goes_on - self._latest_s), _BESIDE_S):
                return following, by_picture
        return self._sound_recording, goes_on

    def _step(self, before: float, now: float) -> float:
        """The time from one stamp to another, seconds, also across a wrap of the clock."""
        return self._nearest(now - before, 0.0)

    def _nearest(self, time: float, expected: float) -> float:
        """Unwraps a time to the one nearest to what is expected."""
        if not self._wraps or math.isinf(expected):
            return time
        return time - _WRAP_S * round((time - expected) / _WRAP_S)

    def _moved(self, packet: av.Packet, shift_s: float, later_s: float | None = None) -> av.Packet:
        """The packet with its stamps in the film's time; `later_s` is the time from its decoding to its showing."""
        numerator, denominator = self._units[packet.stream.index]
        ticks = round(shift_s * denominator / numerator)
        decoded, shown = packet.dts, packet.pts
        if decoded is not None:
            packet.dts = decoded + ticks
        if shown is not None:
            packet.pts = shown + ticks
            if decoded is not None and later_s is not None:
                packet.pts = decoded + ticks + round(later_s * denominator / numerator)
        return packet

    def _stamp(self, packet: av.Packet) -> float | None:
        """When a packet is decoded on the container's clock, seconds; where it has no dts, when it is shown."""
        return self._seconds(packet.dts if packet.dts is not None else packet.pts, packet)

    def _seconds(self, ticks: int | None, packet: av.Packet) -> float | None:
        if ticks is None:
            return None
        numerator, denominator = self._units[packet.stream.index]
        return ticks * numerator / denominator

    def _duration(self, packet: av.Packet) -> float:
        return self._seconds(packet.duration or 0, packet) or 0.0


def _lies_before(place: int | None, other: int | None) -> bool:
    """Whether one offset in the file is known to be before another."""
    return place is not None and other is not None and place < other
