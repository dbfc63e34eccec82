"""Cuts that a person has looked through, in a folder of summaries; they serve as labels."""

from pathlib import Path

from avmsnet_jax.errors import UserError
from avmsnet_jax.summarization import cutlist
from avmsnet_jax.summarization.cutlist import CUT, CutList


def key_shots(summaries: Path, film: Path) -> tuple[Path, tuple[tuple[float, float], ...]] | None:
    """The key shots of a film: the shots in its cut.

    Args:
      summaries: a folder of summaries, one folder per film.
      film: the film.

    Returns:
      the cut's file, and (start_s, end_s) of each key shot; None if no person has looked through a cut of the film. The
      bounds lie half a frame before the first frame of the shot and of the next one, so that rounding moves no frame.

    Raises:
      UserError: the cut is damaged, or of another film.
    """
    path = summaries / film.stem / CUT
    if not path.is_file():
        return None
    cut = cutlist.read(path, film)
    if not cut.reviewed:
        return None
    shown = [(shot.first_frame - 1.5, shot.last_frame - 0.5) for shot in cut.shots if shot.shown]
    return path, tuple((max(first / float(cut.rate), 0.0), stop / float(cut.rate)) for first, stop in shown)


def cuts(summaries: Path) -> dict[str, CutList | UserError]:
    """Each film's cut in a folder of summaries, or the reason why it cannot be read, by the name of its folder."""
    found: dict[str, CutList | UserError] = {}
    for path in sorted(summaries.glob(f"*/{CUT}")):
        try:
            found[path.parent.name] = cutlist.load(path)
        except UserError as error:
            found[path.parent.name] = error
    return found


def account(summaries: Path) -> str:
    """Lists the films in a folder of summaries, and which of their cuts a person has looked through.

    Raises:
      UserError: the folder holds no summary.
    """
    found = cuts(summaries)
    if not found:
        raise UserError(f"{summaries} holds no summaries; give a folder of FILM/{CUT}")
    count = sum(isinstance(cut, CutList) and cut.reviewed for cut in found.values())
    lines = [f"{summaries}: {count} of {len(found)} film{'s' * (len(found) > 1)} looked through"]
    for name, cut in found.items():
        if isinstance(cut, UserError):
            lines.append(f"  {name}: {cut}")
            continue
        shown = sum(shot.shown for shot in cut.shots)
        word = "looked through" if cut.reviewed else "not looked through"
        lines.append(f"  {name}: {word}, {shown} of {len(cut.shots)} shots")
    return "\n".join(lines)
