"""The script of a toy movie: which events are seen, which are heard, and when."""

import dataclasses

import numpy as np

FPS = 25
EVENT_SECONDS = 0.82  # long enough to fill a clip's 16 frames, short enough to stay out of the next clip's
BEATS = (-0.17, 0.17)  # when the ball lands and the square flashes: seconds from the middle of the event
JITTER = 0.05  # seconds by which the middle of an event may miss its slot's

OWN_SOUND = {"ball": "boing", "square": "chirp"}

# Shares of all slots. Of the events that are seen, 40% are key, and of those that are heard, too: a model that uses
# only one of the two reaches at most F = 2 * 0.4 / 1.4 = 0.57. Calling every slot key gives 0.33.
SHARES = {"key": 0.2, "sight": 0.2, "sound": 0.2, "mismatch": 0.1, "nothing": 0.3}


@dataclasses.dataclass(frozen=True)
class Event:
    """Something seen, something heard, or both at once.

    Attributes:
      time: middle of the event, seconds from the start of the film.
      sight: "ball", "square", or None.
      sound: "boing", "chirp", or None.
    """

    time: float
    sight: str | None
    sound: str | None

    @property
    def key(self) -> bool:
        """Whether the object is seen with its own sound."""
        return self.sight is not None and OWN_SOUND[self.sight] == self.sound

    @property
    def span(self) -> tuple[float, float]:
        """(start, end) in seconds."""
        return self.time - EVENT_SECONDS / 2, self.time + EVENT_SECONDS / 2


@dataclasses.dataclass(frozen=True)
class Script:
    """A toy movie before it is rendered; the same script always gives the same film.

    Attributes:
      seconds: length of the film.
      events: in order of time. Slot k is the second around time k, where the clip with center frame 25 k lies.
      cuts: times at which a new shot begins, without 0.
      seed: random seed of landscapes, weather, passers-by and noise.
    """

    seconds: int
    events: tuple[Event, ...]
    cuts: tuple[float, ...]
    seed: int

    @property
    def key_shots(self) -> list[tuple[float, float]]:
        """(start, end) in seconds of the key events."""
        return [event.span for event in self.events if event.key]

    def slots(self) -> list[Event]:
        """The event of each of the film's `seconds - 1` clips; an empty clip gets one without sight and sound."""
        held = {round(event.time): event for event in self.events}
        return [held.get(k, Event(k, None, None)) for k in range(1, self.seconds)]


def write_script(seconds: int, seed: int) -> Script:
    """Fills the slots of a film.

    Kinds are dealt like cards, so every film has nearly the shares of `SHARES`.

    Args:
      seconds: length of the film; it gets `seconds - 1` slots, one for each clip.
      seed: the same seed gives the same script.
    """
    rng = np.random.default_rng(seed)
    count = seconds - 1
    edges = np.rint(np.cumsum(list(SHARES.values())) * count).astype(int)
    sizes = np.diff(edges, prepend=0)
    hand = []
    for kind, size in zip(SHARES, sizes, strict=True):
        sights = rng.permutation([list(OWN_SOUND)[i % 2] for i in range(size)])
        hand += [_event(kind, str(sight)) for sight in sights]
    events = []
    for k, card in enumerate(rng.permutation(len(hand)), start=1):
        time = k + rng.uniform(-JITTER, JITTER)
        sight, sound = hand[card]
        if sight or sound:
            events.append(Event(round(time, 3), sight, sound))
    cuts, cut = [], 0.5
    while (cut := cut + int(rng.integers(4, 9))) < seconds - 3:
        cuts.append(cut)  # between two slots: no clip has a cut in it
    return Script(seconds, tuple(events), tuple(cuts), seed)


def _event(kind: str, sight: str) -> tuple[str | None, str | None]:
    """(sight, sound) of an event of a kind."""
    own = OWN_SOUND[sight]
    other = next(sound for sound in OWN_SOUND.values() if sound != own)
    pairs: dict[str, tuple[str | None, str | None]] = {
        "key": (sight, own),
        "sight": (sight, None),
        "sound": (None, own),
        "mismatch": (sight, other),
        "nothing": (None, None),
    }
    return pairs[kind]
