"""How fast the report of a two-hour film answers: 7,200 clips, 1,500 shots, in a real Chromium.

    python -m benchmarks.page [--keep FOLDER]

Prints how long the page and its editor take to become usable, how long the budget slider takes from a key press or
pointer move to the next frame, and the frame rate while the end of a shot is dragged; then the slider's figures for a
film whose shots all have the same score. Other processes slow the slider down: compare its times with those of frames
without a move, measured in between, and with the processor time of the page's main thread.
"""

import argparse
import io
import shutil
import statistics
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from avmsnet_jax.media.writer import write_movie
from avmsnet_jax.scoring.film import Scores
from avmsnet_jax.summarization import cutlist, report
from avmsnet_jax.summarization.choose import Budget
from avmsnet_jax.summarization.result import Summary
from tests.summarization.made import placed

SECONDS, SHOTS, RATE = 7200, 1500, 25
_SIGNALS = ("motion", "sound", "picture", "novelty", "agreement")
# Notes long tasks and frames from the first script on.
_NOTES = """
    window.notes = { busy: 0, slider: [], idle: [], frames: [] };
    new PerformanceObserver((list) => {
      for (const task of list.getEntries()) notes.busy = Math.max(notes.busy, task.startTime + task.duration);
    }).observe({ type: "longtask", buffered: true });
    notes.untilPicture = (list, start) => new Promise((done) => {
      requestAnimationFrame(() => setTimeout(() => done(list.push(performance.now() - start))));
    });
    addEventListener("input", (event) => notes.untilPicture(notes.slider, event.timeStamp), true);
    const note = (now) => { notes.frames.push(now); requestAnimationFrame(note); };
    requestAnimationFrame(note);
"""


def made(folder: Path, *, alike: bool = False) -> None:
    """Writes the report of a film of noise, with random scores of the shots or the same for all (`alike`)."""
    rng = np.random.default_rng(0)
    film = folder / "film.mp4"
    frames = [rng.integers(0, 256, (72, 128, 3), np.uint8) for _ in range(50)]
    for path in (film, folder / "summary.mp4"):
        write_movie(path, frames, RATE, np.zeros(2 * 22050, np.float32))
    times = np.arange(SECONDS, dtype=np.float64)
    levels = np.convolve(rng.random(SECONDS + 30), np.ones(31) / 31, "valid").astype(np.float32)
    maps = rng.random((SECONDS, 4, 4)).astype(np.float16)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (108, 192, 3), np.uint8)).save(file, "JPEG", quality=50)  # 5 KB, as of a film
    scores = Scores(
        film=film,
        duration_s=float(SECONDS),
        fps=float(RATE),
        n_frames=SECONDS * RATE,
        width=1280,
        height=720,
        has_sound=True,
        frames=(times * RATE + 1).astype(np.int64),
        times_s=times,
        scores=levels,
        features=np.zeros((SECONDS, 1), np.float32),
        attention=(maps / maps.sum((1, 2), keepdims=True),),
        localization=maps,
        thumbnails=[file.getvalue()] * SECONDS,
        signals={name: rng.random(SECONDS).astype(np.float32) for name in _SIGNALS},
    )
    cuts = np.sort(rng.choice(np.arange(1, SECONDS * RATE), SHOTS - 1, replace=False)).tolist()
    edges = [0, *cuts, SECONDS * RATE]
    levels_of_shots = [0.5] * SHOTS if alike else rng.random(SHOTS).tolist()
    budget = Budget(share=0.15)
    told = {"name": "attention", "learned_from_people": False, "spacing_s": 1.0, "clip_frames": 16}
    left = Summary(scores, placed(edges, RATE, levels_of_shots, ()), 1080.0, 0.0, {})
    cut = cutlist.choose_again(cutlist.of_summary(left, Fraction(RATE), budget, told), budget)
    chosen = {index for index, shot in enumerate(cut.shots) if shot.shown}
    shots = placed(edges, RATE, levels_of_shots, chosen)
    length_s = sum(shots[index].end_s - shots[index].start_s for index in chosen)
    editing = report.Editing(cut, cuts, rng.uniform(-50, -10, 36_000).tolist())
    report.write_report(Summary(scores, shots, 1080.0, length_s, {"scorer": "noise"}), folder, editing=editing)
    cutlist.write(cut, folder)


def load_ms(page: Page, url: str) -> tuple[float, float]:
    """From the navigation to the end of the last long task, and from opening the editor to its first frame."""
    page.goto(url)
    page.wait_for_timeout(2000)
    loaded = page.evaluate("Math.max(notes.busy, performance.getEntriesByType('paint').at(-1).startTime)")
    start = page.evaluate("performance.now()")
    page.keyboard.press("e")
    drawn = page.evaluate(
        "new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"
    )
    page.wait_for_timeout(3000)
    return loaded, drawn - start


def processor_clock(page: Page) -> Callable[[], float]:
    """A clock of the processor time of the page's main thread, in milliseconds."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def busy_ms() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return 1000 * next(each["value"] for each in metrics if each["name"] == "TaskDuration")

    return busy_ms


def slider_ms(page: Page) -> tuple[list[float], list[float], float]:
    """Times how long the next frame takes after each move of the slider and, between moves, without one.

    Returns:
      the times after moves, those without, and the main thread's mean processor time for one of each; all in
      milliseconds.
    """
    busy_ms = processor_clock(page)
    start_ms = busy_ms()
    slider = page.locator("#budget")
    slider.focus()
    page.evaluate("notes.slider.length = 0")

    def pause() -> None:
        page.wait_for_timeout(30)
        page.evaluate("notes.untilPicture(notes.idle, performance.now())")

    for key in ["PageUp", "PageDown", "ArrowRight", "ArrowLeft"] * 30:
        pause()
        page.keyboard.press(key)
    box: Any = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    for step in range(120):
        pause()
        page.mouse.move(box["x"] + box["width"] * (0.5 + 0.4 * np.sin(step / 8)), middle)
    page.mouse.up()
    pause()
    moves, idle = page.evaluate("[notes.slider, notes.idle]")
    return moves, idle, (busy_ms() - start_ms) / len(moves)


def print_slider(page: Page) -> None:
    """Prints how fast the slider answers."""
    moves, idle, busy_ms = slider_ms(page)
    for name, times in (("slider", moves), ("idle page", idle)):
        median, late = np.percentile(times, (50, 95))
        print(f"{name}: {len(times)} times, median {median:.0f} ms, 95% {late:.0f} ms, at most {max(times):.0f} ms")
    print(f"processor time of the main thread: {busy_ms:.0f} ms for each move")


def drag_gaps_ms(page: Page) -> list[float]:
    """The times between frames while the end of a shot is dragged to and fro for some seconds."""
    page.locator("#timeline").scroll_into_view_if_needed()
    for _ in range(8):
        page.locator("#zoom-in").click()
    page.wait_for_timeout(500)
    box: Any = page.locator("#timeline").bounding_box()
    edge = page.evaluate(
        """() => { // the place of the first shot's end right of the middle
          const canvas = document.getElementById("timeline"), box = canvas.getBoundingClientRect();
          for (let x = box.width / 2; x < box.width; x++) {
            canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + x, clientY: box.top + 142 }));
            if (canvas.style.cursor === "ew-resize") return x;
          }
          return -1;
        }"""
    )
    if edge < 0:
        raise SystemExit("no end of a shot is in view")
    page.mouse.move(box["x"] + edge, box["y"] + 142)
    page.mouse.down()
    start = page.evaluate("notes.frames.length")
    for step in range(300):
        page.mouse.move(box["x"] + edge + 60 * np.sin(step / 12), box["y"] + 142)
    times: list[float] = page.evaluate(f"notes.frames.slice({start})")
    page.mouse.up()
    return np.diff(times).tolist()


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="an existing folder to leave the page in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = options.keep or Path(temporary)
        made(folder)
        size = (folder / "report.html").stat().st_size
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(_NOTES)
        loaded, opened = load_ms(page, (folder / "report.html").as_uri())
        print(f"page of {size / 1e6:.1f} MB: usable {loaded:.0f} ms after the navigation, the editor {opened:.0f} ms")
        print_slider(page)
        gaps = drag_gaps_ms(page)
        late = float(np.percentile(gaps, 95))
        print(f"drag: {1000 / statistics.fmean(gaps):.0f} frames a second, 95% within {late:.0f} ms of the one before")
        print("all shots score alike:")
        made(folder, alike=True)
        load_ms(page, (folder / "report.html").as_uri())
        print_slider(page)
        browser.close()


if __name__ == "__main__":
    main()
