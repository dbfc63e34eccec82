"""Changing the cut in the report, in a real browser: with keys and pointer, undone, reloaded, saved and read back."""

import csv
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from avmsnet_jax.summarization import cutlist, report
from avmsnet_jax.summarization.choose import Budget
from avmsnet_jax.summarization.result import Summary
from benchmarks import page as benchmark
from tests.summarization.conftest import until
from tests.summarization.made import FPS, SECONDS, editing_of, make_summary

PAGE = Path(report.__file__).with_name("page")
SHOTS_ROW, PICTURES_ROW, OVERVIEW_ROW = 142, 40, 184  # pixels from the top of the timeline
START = [(1, 50, "left"), (51, 90, "chosen"), (91, 150, "left"), (151, 170, "chosen"), (171, 240, "left")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, Path]:
    """A summary, and the folder with its report: the film lies beside it."""
    folder = tmp_path_factory.mktemp("editing")
    summary = make_summary(folder, folder / "film.mp4")
    report.write_report(summary, folder, editing=editing_of(summary))
    return summary, folder


@pytest.fixture
def edited(open_report: Callable[..., Any], made: tuple[Summary, Path]) -> Any:
    """The page, being edited."""
    page = open_report(made[1])
    page.keyboard.press("e")
    return page


def saved(page: Any, film: Path) -> cutlist.CutList:
    """The cut as the page saves it and Python reads it."""
    page.wait_for_timeout(110)  # Chromium drops the eleventh download within a second
    with page.expect_download(timeout=60_000) as download:
        page.keyboard.press("Control+s")
    assert download.value.suggested_filename == "cut.json"
    return cutlist.read(download.value.path(), film)


def spans(cut: cutlist.CutList) -> list[tuple[int, int, str]]:
    return [(shot.first_frame, shot.last_frame, shot.state) for shot in cut.shots]


def in_page(shots: Iterable[cutlist.CutShot]) -> list[dict[str, Any]]:
    """Shots as the page has them."""
    return [
        {"first": shot.first_frame - 1, "stop": shot.last_frame, "score": shot.score, "state": shot.state}
        for shot in shots
    ]


def place(page: Any, frame: float, row: int = SHOTS_ROW) -> tuple[float, float]:
    box = page.locator("#timeline").bounding_box()
    return box["x"] + box["width"] * frame / (SECONDS * FPS), box["y"] + row


def drag(page: Any, start: float, end: float) -> None:
    page.mouse.move(*place(page, start))
    page.mouse.down()
    page.mouse.move(*place(page, (start + end) / 2))
    page.mouse.move(*place(page, end))
    page.mouse.up()


def test_page_and_python_choose_the_same_shots(browser):
    rng = np.random.default_rng(7)
    films, wanted = [], []
    for number in range(300):
        count = int(rng.integers(1, 40)) if number % 50 else 400
        edges = np.concatenate([[0], np.cumsum(rng.integers(1, 90, count))]).tolist()
        scores = rng.random(count).round(int(rng.integers(0, 18))) * (number % 10 > 0)  # with ties, and of zeros alone
        states = rng.choice(cutlist.STATES, count, p=[0.2, 0.5, 0.15, 0.15]).tolist()
        rate = [Fraction(25), Fraction(24000, 1001), Fraction(60), Fraction(87169000, 2905633)][number % 4]
        duration_s = float(edges[-1] / rate)
        budget: dict[str, Any] = [
            {"share": float(rng.random())},
            {"seconds": float(rng.random() * duration_s * 1.2)},
            {"shots": int(rng.integers(1, 12))},
        ][number % 3]
        shots = tuple(
            cutlist.CutShot(first + 1, stop, float(score), state)
            for first, stop, score, state in zip(edges, edges[1:], scores, states, strict=False)
        )
        film = {"duration_s": duration_s, "rate": f"{rate.numerator}/{rate.denominator}", "n_frames": edges[-1]}
        again = cutlist.choose_again(cutlist.CutList(film, {}, Budget(share=1), (), shots), Budget(**budget))
        wanted.append([shot.state for shot in again.shots])
        films.append(
            {
                "shots": in_page(shots),
                "rate": [rate.numerator, rate.denominator],
                "duration": duration_s,
                "budget": budget,
            }
        )
    page = browser.new_page()
    found = page.evaluate(
        "films => {"
        + (PAGE / "choose.js").read_text(encoding="utf-8")
        + """return films.map(({ shots, rate, duration, budget }) =>
            chooseShots(shots, budget, rate[0] / rate[1], duration).map((shot) => shot.state)); }""",
        films,
    )
    page.close()
    assert sum(states.count("chosen") for states in wanted) > 1500
    assert [number for number, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1]] == []


def test_shots_that_all_score_alike_are_chosen_as_python_does_and_at_once(browser):
    rng = np.random.default_rng(3)
    edges = [0, *np.sort(rng.choice(np.arange(1, 90_000), 749, replace=False)).tolist(), 90_000]  # an hour
    states = rng.choice(cutlist.STATES, 750, p=[0, 0.96, 0.02, 0.02]).tolist()
    shots = tuple(
        cutlist.CutShot(first + 1, stop, 0.37, state)
        for first, stop, state in zip(edges, edges[1:], states, strict=False)
    )
    film = {"duration_s": 3600.0, "rate": "25/1", "n_frames": 90_000}
    cut = cutlist.CutList(film, {}, Budget(share=1), (), shots)
    budgets = [540, 300, 1200, 1799]
    wanted = [[shot.state for shot in cutlist.choose_again(cut, Budget(seconds=each)).shots] for each in budgets]
    page = browser.new_page()
    page.evaluate(
        "(shots) => {"
        + (PAGE / "choose.js").read_text(encoding="utf-8")
        + """window.shots = shots;
        window.prepare = () => {
            const table = prepareChoices(window.shots, { seconds: 540 }, 25, 3600, 1800);
            while (!table.fill(8));
        };
        window.answer = (budgets) => budgets.map(
            (seconds) => chooseShots(window.shots, { seconds }, 25, 3600).map((shot) => shot.state)
        ); }""",
        in_page(shots),
    )
    busy_ms = benchmark.processor_clock(page)

    def answer_ms() -> float:
        start_ms = busy_ms()
        assert page.evaluate("budgets => answer(budgets)", budgets) == wanted
        return busy_ms() - start_ms

    without_table_ms = answer_ms()
    page.evaluate("prepare()")
    assert answer_ms() < without_table_ms / 2

    # A table of other shots is not used: here an end of a chosen shot is moved, then a score changes.
    at = next(
        index
        for index, (shot, after) in enumerate(itertools.pairwise(shots))
        if (wanted[0][index], wanted[0][index + 1]) == ("chosen", "left") and after.last_frame - after.first_frame > 50
    )
    longer = dataclasses.replace(shots[at], last_frame=shots[at].last_frame + 50)
    shorter = dataclasses.replace(shots[at + 1], first_frame=shots[at + 1].first_frame + 50)
    worse = dataclasses.replace(shots[at], score=0.1)
    for changed in ([longer, shorter], [worse, shots[at + 1]]):
        now = (*shots[:at], *changed, *shots[at + 2 :])
        again = cutlist.choose_again(dataclasses.replace(cut, shots=now), Budget(seconds=540))
        assert page.evaluate("shots => { window.shots = shots; }", in_page(now)) is None
        assert page.evaluate("answer([540])") == [[shot.state for shot in again.shots]]
    page.close()


def test_a_table_is_made_for_the_longest_budget_that_the_slider_allows_and_is_bounded(browser):
    page = browser.new_page()
    found = page.evaluate(
        "() => {"
        + (PAGE / "choose.js").read_text(encoding="utf-8")
        + """const alike = (length) => Array.from({ length: 1000 }, (_, index) => (
            { first: index * length, stop: (index + 1) * length - index % 7, score: 0.5, state: "left" }
        ));
        const isMade = (length, rate, seconds, longest) =>
            prepareChoices(alike(length), { seconds }, rate, 4000, longest) !== null;
        const short = [isMade(100, 25, 5, 2000), isMade(100, 25, 5, 6)];
        return [...short, isMade(10_000, 2500, 5, 2000), isMade(10_000, 2500, 500, 2000), prepared]; }"""
    )
    page.close()
    # The last film has 5e9 cells up to the slider's end and 1.2e9 up to its budget.
    assert found == [True, False, True, False, None]


def edit_undo_and_redo(page: Any, read: Callable[[], cutlist.CutList]) -> None:
    """Makes each kind of edit with pointer and keys, reloads in the middle, undoes all and redoes all.

    Args:
      page: the report, being edited.
      read: saves the cut and reads what was saved.
    """
    steps = [START]

    def expect(*changed: tuple[int, int, str]) -> None:
        steps.append(spans(read()))
        assert set(steps[-1]) - set(steps[-2]) == set(changed)

    page.mouse.click(*place(page, 20))
    expect((1, 50, "kept"))
    page.mouse.click(*place(page, 70))
    expect((51, 90, "dropped"))
    drag(page, 90, 94.8)  # to where the film cuts
    expect((51, 95, "dropped"), (96, 150, "left"))
    drag(page, 170, 171.8)  # to where it is quiet
    expect((151, 172, "chosen"), (173, 240, "left"))
    page.keyboard.down("Alt")
    drag(page, 95, 94.02)
    page.keyboard.up("Alt")
    expect((51, 94, "dropped"), (95, 150, "left"))
    page.mouse.click(*place(page, 200, PICTURES_ROW))
    page.keyboard.press("s")
    expect((173, 200, "left"), (201, 240, "left"))
    page.keyboard.press("a")
    expect((201, 240, "kept"))
    page.keyboard.press("ArrowUp")
    page.keyboard.press("x")
    expect((173, 200, "dropped"))

    page.reload()
    page.keyboard.press("e")
    assert spans(read()) == steps[-1]
    page.mouse.click(*place(page, 180, PICTURES_ROW))
    page.keyboard.press("m")
    expect((173, 240, "dropped"))
    page.keyboard.press("Shift+ArrowLeft")  # to frame 170, in the shot before
    page.keyboard.press("ArrowRight")
    page.keyboard.press("]")
    expect((151, 171, "chosen"), (172, 240, "dropped"))
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("[")
    expect((95, 169, "left"), (170, 171, "chosen"))
    page.keyboard.press("Enter")
    expect((170, 171, "dropped"))
    page.keyboard.press("Home")
    page.keyboard.press("x")
    expect((1, 50, "dropped"))
    page.locator("#budget").focus()
    page.keyboard.press("End")
    expect((95, 169, "chosen"))

    undo_and_redo(page, read, steps)


def undo_and_redo(page: Any, read: Callable[[], cutlist.CutList], steps: list[list[tuple[int, int, str]]]) -> None:
    """Undoes all edits and makes them again, and looks at the shots after each; `steps` are those of the edits."""
    for before in reversed(steps[:-1]):
        page.keyboard.press("Control+z")
        assert spans(read()) == before
    assert page.locator("#undo").is_disabled()
    for _ in steps[1:]:
        page.keyboard.press("Control+Shift+z")
    assert spans(read()) == steps[-1]
    assert page.locator("#redo").is_disabled()


def test_every_edit_by_pointer_and_key_is_undone_redone_and_survives_a_reload(edited, made):
    edit_undo_and_redo(edited, lambda: saved(edited, made[0].scores.film))


def test_a_summary_is_shortened_and_its_first_shot_kept_by_keyboard_alone(open_report, made):
    page = open_report(made[1])
    page.locator("#edit").press("Enter")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")  # the button no longer has the focus
    assert "kept by you" in page.locator("#which").text_content()
    page.keyboard.press("Tab")
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    cut = saved(page, made[0].scores.film)
    assert cut.budget.seconds == pytest.approx(6)
    assert spans(cut)[0] == (*START[0][:2], "kept")
    assert "5.0" in page.locator("#used").text_content()
    assert page.locator("#unsaved").text_content() == "cut.json was downloaded; changes also stay in this browser."
    for _ in range(15):
        page.keyboard.press("ArrowLeft")
    assert "0.5 s over the chosen length" in page.locator("#used").text_content()
    assert page.locator("#unsaved").text_content().startswith("Unsaved changes")
    page.keyboard.press("e")
    assert page.locator("#edit").evaluate("button => button === document.activeElement")


def test_the_slider_chooses_as_python_and_near_misses_are_offered(edited, made):
    page, film = edited, made[0].scores.film
    start = saved(page, film)
    page.locator("#budget").focus()
    for _ in range(3):
        page.keyboard.press("PageUp")
    cut = saved(page, film)
    assert cut.budget.seconds > 7
    assert spans(cut) == spans(cutlist.choose_again(start, cut.budget))
    page.locator("#budget").fill("6.5")
    page.locator("#panel-title").click()
    # 7.8 s have room for 7 s at 17 s.
    until(page, "document.getElementById('misses').querySelector('button')?.textContent.includes('0:17')")
    assert page.locator("#misses button").count() == 1
    page.locator("#misses button").click()
    cut = saved(page, film)
    assert [shot.first_frame for shot in cut.shots if shot.state == "kept"] == [171]


def test_the_cut_plays_from_the_film_by_jumping(edited):
    page = edited
    page.mouse.click(*place(page, 84, PICTURES_ROW))
    page.keyboard.press("Space")
    until(page, "document.getElementById('film').currentTime > 15")
    times = page.evaluate(
        """async () => {
            const film = document.getElementById("film"), times = [film.currentTime];
            while (!film.paused) { times.push(film.currentTime); await new Promise(requestAnimationFrame); }
            return times;
        }"""
    )
    assert min(times) >= 15
    assert max(times) <= 17.15  # then the cut ends
    assert not page.evaluate("document.getElementById('film').muted")
    page.mouse.click(*place(page, 120, PICTURES_ROW))
    for key, goes in (("l", "> 12.3"), ("j", "< 12.2")):
        page.keyboard.press(key)
        until(page, f"document.getElementById('film').currentTime {goes}")
    page.keyboard.press("k")
    assert page.evaluate("document.getElementById('film').paused")


def test_key_shots_and_segments_are_saved(edited):
    for button, name, heading in (
        ("#save-keyshots", "film.keyshots.csv", ["start_s", "end_s"]),
        ("#save-segments", "segments.csv", ["start", "end", "name"]),
    ):
        with edited.expect_download() as download:
            edited.locator(button).click()
        assert download.value.suggested_filename == name
        rows = list(csv.reader(download.value.path().read_text().splitlines()))
        assert rows[0] == heading
        assert [row[:2] for row in rows[1:]] == [["5.000000", "9.000000"], ["15.000000", "17.000000"]]


@pytest.mark.parametrize(
    ("width", "scheme"), [(390, "light"), (1280, "dark"), pytest.param(1280, "light", marks=pytest.mark.soak)]
)
def test_the_editor_fits_and_is_accessible(open_report, made, width, scheme):
    page = open_report(made[1], width=width, height=844, color_scheme=scheme)
    for _ in range(2):
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.keyboard.press("e")


def test_two_hours_of_1500_shots_are_answered_at_once(open_report, tmp_path):
    benchmark.made(tmp_path)
    cut = cutlist.load(tmp_path / "cut.json")
    page = open_report(tmp_path)
    page.keyboard.press("e")
    # Most shots are narrower than 3 pixels. In the row of the shots, the cut is opaque and the rest is not.
    until(page, "document.getElementById('timeline').height > 150")
    alphas = np.array(
        page.evaluate(
            """row => {
            const canvas = document.getElementById("timeline");
            const pixels = canvas.getContext("2d").getImageData(0, row, canvas.width, 1).data;
            return [...pixels].filter((_, place) => place % 4 === 3);
        }""",
            SHOTS_ROW,
        )
    )
    assert np.mean(alphas > 0) > 0.9
    assert 0.1 < np.mean(alphas == 255) < 0.4
    busy_ms = benchmark.processor_clock(page)

    def slide() -> None:
        start_ms = busy_ms()
        page.evaluate(
            """[900, 1200, 2000, 3000, 400].forEach((seconds) => {
                const slider = document.getElementById("budget");
                slider.value = seconds;
                slider.dispatchEvent(new Event("input"));
            })"""
        )
        assert (busy_ms() - start_ms) / 5 < 50

    slide()
    page.keyboard.press("Home")
    page.keyboard.press("a")
    slide()
    page.keyboard.press("Control+z")
    page.evaluate("document.getElementById('budget').value = 400")
    page.evaluate("document.getElementById('budget').dispatchEvent(new Event('change'))")
    found = saved(page, tmp_path / "film.mp4")
    assert math.isclose(found.budget.seconds, 400)
    assert spans(found) == spans(cutlist.choose_again(cut, found.budget))


def offer_of(shot: cutlist.CutShot) -> str:
    """The text of the button that offers a shot of the two-hour film."""
    start = int((shot.first_frame - 1) / benchmark.RATE)
    clock = (
        f"{start // 3600}:{start // 60 % 60:02}:{start % 60:02}" if start >= 3600 else f"{start // 60}:{start % 60:02}"
    )
    return f"+ {clock} · {(shot.last_frame - shot.first_frame + 1) / benchmark.RATE:.1f} s"


def test_near_misses_of_shots_that_score_alike_come_and_are_never_of_an_earlier_cut(open_report, tmp_path):
    benchmark.made(tmp_path, alike=True)
    page = open_report(tmp_path)
    page.keyboard.press("e")
    until(page, "document.querySelectorAll('#misses button').length > 1")
    shots = cutlist.load(tmp_path / "cut.json").shots
    labels = [offer_of(shot) for shot in shots]
    assert page.locator("#misses button").first.text_content() in labels
    first = next(index for index, shot in enumerate(shots) if shot.state == "left")
    page.keyboard.press("End")
    page.evaluate(  # the words may be gone before the next question
        """() => {
            const box = document.getElementById("misses");
            const note = () => { if (box.textContent.startsWith("Being computed")) window.computed = true; };
            new MutationObserver(note).observe(box, { childList: true });
        }"""
    )
    page.keyboard.press("Enter")
    until(page, "window.computed")
    page.keyboard.press("Home")
    for _ in range(first):
        page.keyboard.press("ArrowDown")
    page.evaluate(  # put in, perhaps while the table is filled; the mark shows that the list is of an earlier cut
        """() => {
            document.getElementById("misses").append("earlier");
            document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
        }"""
    )
    until(
        page,
        "document.querySelector('#misses button') && "
        "!document.getElementById('misses').textContent.includes('earlier')",
    )
    assert labels[first] not in page.locator("#misses").text_content()
