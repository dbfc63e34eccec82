"""Scores films and cuts their summaries.

    {program} film.mp4 --output=summaries
    {program} film.mp4 --checkpoint=RUN --output=summaries

Without --checkpoint, moments are scored by what draws attention: motion, sound, visual saliency, novelty, and
agreement of motion and sound. These scores were not learned from people; those of a checkpoint were.

MOVIE is a film in any format that FFmpeg reads, or a folder of films. The summary of film.mp4 goes to the
folder film in --output:

summary.mp4   the summary, for any player and browser, with a chapter for each stretch of the film
report.html   the scores over the film, what was chosen and why; the cut can be edited there
scores.csv    the score of every clip: frame,time_s,score; without --checkpoint also its signals
summary.json  the chosen shots: start and end in seconds, score
cut.json      all shots and which are chosen; report.html edits it, and --cut renders it again
segments.csv  start,end,name of each stretch of the summary, in seconds
summary.edl, summary.fcpxml, summary.xml
              the cut for editing programs; with pip install 'avmsnet_jax[editors]' also summary.otio
summary.vtt   the captions, if the film has any: film.srt, .vtt, .ass, or a text track in it
watched.npz   the analysis of the film, so that another --budget or an edited cut needs no new one

If a film fails, the others are still summarized, and the exit status is 2. Of several films, or a folder of films,
those that have a summary in --output are skipped, so the same command resumes after an interruption. --overwrite
replaces summaries; a single film, and a film with --cut, needs it if there is a summary already.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from avmsnet_jax import command_line, interrupts, program, storage
from avmsnet_jax.config import Config
from avmsnet_jax.errors import UserError, few, printable
from avmsnet_jax.media import films
from avmsnet_jax.weights import location

if TYPE_CHECKING:
    from avmsnet_jax.summarization.run import Outcome

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "", "a training run, one of its steps, or a converted checkpoint; empty = score by attention"
)
OUTPUT = flags.DEFINE_string("output", "", "folder for the summaries; each film gets a subfolder")
BUDGET = flags.DEFINE_string(
    "budget",
    None,
    "length of a summary: a share of the film (0.15 or 15%), a duration (90s, 2min or 1:30) or a number of shots "
    "(12shots); short for --config.summarize.budget",
)
CUT = flags.DEFINE_string(
    "cut",
    "",
    "cut.json of the film: render exactly its shots, without scoring; with --budget, choose the shots anew, except "
    "those that a person kept or dropped; with --overwrite, replace the film's summary in --output",
)
CLIPS = flags.DEFINE_bool(
    "clips",
    False,
    "also write each stretch of the summary to a file of its own, in the folder clips; short for "
    "--config.summarize.clips",
)
OVERLAY = flags.DEFINE_bool(
    "overlay",
    False,
    "also write overlay.mp4, the summary with the attention drawn over it; short for --config.summarize.overlay",
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace earlier summaries of the same films")
BEAM = flags.DEFINE_string(
    "beam",
    None,
    "run on Apache Beam with these pipeline options; see the help of prepare",
)


@interrupts.listening()
def main(config: Config, movies: list[str]) -> None:
    """Summarizes films and prints one line for each."""
    if not movies:
        raise UserError(f"no film given; {program.typed()} FILM --output=FOLDER")
    command_line.require(OUTPUT)
    storage.refuse(OUTPUT.value, "--output")
    if Path(OUTPUT.value).is_file():
        raise UserError(f"--output={OUTPUT.value} is a file; give a folder")
    config = config.replace(
        summarize={
            "budget": config.summarize.budget if BUDGET.value is None else BUDGET.value,
            "clips": config.summarize.clips or CLIPS.value,
            "overlay": config.summarize.overlay or OVERLAY.value,
        }
    )
    listed = films.listed(movies)
    if CUT.value and (len(listed) != 1 or CHECKPOINT.value or BEAM.value is not None):
        raise UserError("--cut takes one film, and neither --checkpoint nor --beam; leave the others out")
    films.check_any(listed)
    if CHECKPOINT.value:
        location.check(CHECKPOINT.value)
    # Imported here, because it takes seconds, which --help and wrong options should not cost.
    from avmsnet_jax.summarization.run import summarize, summarize_cut

    def print_outcome(number: int, count: int, outcome: "Outcome") -> None:
        place = f"[{number}/{count}] " * (count > 1)
        if not outcome.error and not outcome.skipped:
            print(printable(f"{place}{outcome.folder}/summary.mp4: {outcome.account}"), flush=True)
        elif outcome.error and count > 1:
            name = printable(f"{outcome.film}")
            named = outcome.error if name in outcome.error else f"{name}: {outcome.error}"
            print(f"{place}{named}", file=sys.stderr, flush=True)

    if CUT.value:
        budget, cut_file = BUDGET.value or "", Path(CUT.value)
        outcome = summarize_cut(listed[0], cut_file, OUTPUT.value, config, budget=budget, overwrite=OVERWRITE.value)
        print_outcome(1, 1, outcome)
        outcomes = [outcome]
    else:
        outcomes = summarize(
            movies,
            CHECKPOINT.value,
            OUTPUT.value,
            config,
            overwrite=OVERWRITE.value,
            beam_options=None if BEAM.value is None else shlex.split(BEAM.value),
            on_film=print_outcome,
        )
    _conclude(outcomes, is_single=bool(CUT.value) or (len(movies) == 1 and listed[0] == Path(movies[0])))


def _conclude(outcomes: Sequence["Outcome"], *, is_single: bool) -> None:
    """Prints what holds for all films; raises UserError if any failed, or if the only one has a summary already."""
    done = [outcome for outcome in outcomes if not outcome.error and not outcome.skipped]
    if skipped := [outcome for outcome in outcomes if outcome.skipped]:
        if is_single:
            raise UserError(f"{skipped[0].folder} has a summary already; add --overwrite, or choose another --output")
        names = printable(few([outcome.film.name for outcome in skipped]))
        films_are = f"{len(skipped)} film{'s' * (len(skipped) > 1)}"
        print(f"{films_are} skipped: a summary exists (--overwrite replaces): {names}", flush=True)
    if done:
        if not CHECKPOINT.value and not CUT.value:
            print(
                "scored by attention, not learned from people; --checkpoint=RUN scores by a trained network", flush=True
            )
        which = done[0].folder if len(done) == 1 else f"{OUTPUT.value}/FILM"
        print(printable(f"{which}/report.html shows why; open it in a browser"), flush=True)
    failed = [outcome for outcome in outcomes if outcome.error]
    if len(outcomes) == 1 and failed:
        raise UserError(failed[0].error)
    if failed:
        raise UserError(f"{len(failed)} of {len(outcomes)} films could not be summarized, for the reasons above")


def run() -> None:
    """Runs the command line."""
    command_line.run(main, takes_config=True, positional="MOVIE [MOVIE ...]", sections=("summarize", "mesh"))
