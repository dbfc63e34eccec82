"""A person's way through the studio in a real browser: edit, reload, save, cut, add a film."""

import dataclasses
import json

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from avmsnet_jax.media.movie import Movie
from avmsnet_jax.summarization import cutlist
from tests.media.films import number_of
from tests.summarization.conftest import until
from tests.summarization.made import FPS
from tests.summarization.test_editing import drag, place


@pytest.fixture
def opened(browser, studio):
    """Opens the studio's list; when the test ends, no page has complained or asked for anything elsewhere."""
    contexts, said, asked = [], [], []

    def opening(*, width=1280, height=900, forgiven="nothing", **context):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **context))
        page = contexts[-1].new_page()
        page.on("console", lambda message: forgiven in message.text or said.append((message.text, message.location)))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(studio.address)
        return page

    yield opening
    for context in contexts:
        context.close()
    assert not said
    own = (f"http://127.0.0.1:{studio.port}/", "data:", "blob:")
    assert not [url for url in asked if not url.startswith(own)]


def edit(page, name):
    """Opens a film from the list and begins to edit its cut."""
    page.get_by_role("link", name=name).click()
    page.locator("#edit").click()
    page.locator("#timeline").wait_for()


def lag_s(heard: np.ndarray, meant: np.ndarray, rate: int) -> float:
    """How much later the same sound is heard than it is meant to be."""
    size = 2 * len(meant)
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(meant, size)), size)
    peak = int(np.argmax(product))
    return (peak if peak < len(meant) else peak - size) / rate


def test_edit_reload_save_and_cut(opened, studio, made):
    film = made.add(studio.root, "walk")
    page = opened()
    until(page, "document.querySelector('#films img')?.naturalWidth > 0")
    edit(page, "walk")
    page.mouse.click(*place(page, 20))  # the first shot, put in
    drag(page, 90, 94.8)  # the end of the second, to where the film cuts: frame 95
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+Shift+z")
    page.reload()
    page.keyboard.press("e")
    page.mouse.click(*place(page, 160))  # the fourth shot, taken out
    page.mouse.click(*place(page, 200, 40))
    page.keyboard.press("s")
    page.keyboard.press("a")  # from frame 201 on, kept
    for _ in range(5):
        page.keyboard.press("Control+z")
    assert page.locator("#undo").is_disabled()
    for _ in range(5):
        page.keyboard.press("Control+Shift+z")
    page.locator("#reviewed").check()
    page.keyboard.press("Control+s")
    until(page, "document.getElementById('work-status').textContent === 'Saved.'")
    cut = cutlist.read(studio.root / "walk" / "cut.json", film)
    assert cut.reviewed
    wanted = [(1, 95), (201, 240)]
    assert [(round(float(a) * FPS) + 1, round(float(b) * FPS)) for a, b in cutlist.stretches_s(cut)] == wanted
    assert studio.state()["films"]["walk"]["differs"]

    with page.expect_event("load", timeout=120_000):
        page.locator("#start-cut").click()
    until(page, "document.getElementById('gist').textContent.includes('0:13.5')")
    until(page, "document.getElementById('work-status').textContent === 'The summary was cut again.'")
    assert page.locator("#timeline").is_visible()  # the editor is open again
    summary = Movie(studio.root / "walk" / "summary.mp4")
    frames = [number_of(np.asarray(frame.rgb())) for frame in summary.frames()]
    assert frames == [number for first, last in wanted for number in range(first, last + 1)]
    rate, at = 22050, 0
    for first, last in wanted:
        start, length = (first - 1) * rate // FPS, (last - first + 1) * rate // FPS
        meant, heard = (
            movie.waveform(rate).excerpt(begin, begin + length).ravel()
            for movie, begin in ((Movie(film), start), (summary, at))
        )
        assert abs(lag_s(heard, meant, rate)) < 1 / FPS
        at += length

    for _ in range(5):
        page.keyboard.press("Control+z")
    assert page.locator("#undo").is_disabled()  # the history outlived the cut
    page.reload()
    assert page.locator("#timeline").is_hidden()
    page.locator("header a").click()
    until(page, "document.querySelector('#films')")
    assert "looked through" in page.locator("#films li", has_text="walk").text_content().lower()


def test_key_shots_and_changes_from_elsewhere(opened, studio, made):
    film = made.add(studio.root, "keys")
    page = opened()
    edit(page, "keys")
    page.mouse.click(*place(page, 20))
    page.locator("#write-keyshots").click()
    until(page, "document.getElementById('work-status').textContent.startsWith('Written to')")
    table = film.with_name("keys.keyshots.csv")
    assert table.read_text() == "start_s,end_s\n0.000000,9.000000\n15.000000,17.000000\n"
    assert studio.state()["films"]["keys"]["state"] == "looked through"
    page.keyboard.press("Control+z")
    page.locator("#write-keyshots").click()
    until(page, "document.getElementById('write-keyshots').textContent.startsWith('Replace')")
    assert "0.000000" in table.read_text()
    page.locator("#write-keyshots").click()
    until(page, "document.getElementById('work-status').textContent.startsWith('Written to')")
    assert table.read_text() == "start_s,end_s\n5.000000,9.000000\n15.000000,17.000000\n"

    page.mouse.click(*place(page, 160))  # not saved here, while cut.json changes elsewhere
    path = studio.root / "keys" / "cut.json"
    cut = cutlist.load(path)
    shots = tuple(dataclasses.replace(shot, state="kept") for shot in cut.shots)
    cutlist.write_cut(dataclasses.replace(cut, shots=shots), path)
    page.reload()
    page.keyboard.press("e")
    assert page.locator("#used").text_content() == "0:24.0 in 5 of 5 shots, 17.5 s over the chosen length"
    page.keyboard.press("Control+z")
    assert page.locator("#used").text_content() == "0:04.0 in 1 of 5 shots"


def test_a_film_is_added_and_canceled(opened, studio, made):
    page = opened(forgiven="the server responded with a status of 400")  # to the broken one
    page.locator("#file").set_input_files(
        [
            {"name": "dropped.mp4", "mimeType": "video/mp4", "buffer": made.summary.scores.film.read_bytes()},
            {"name": "broken.mp4", "mimeType": "video/mp4", "buffer": b"no film"},
        ]
    )
    until(page, "[...document.querySelectorAll('button')].some((button) => button.textContent === 'Cancel')")
    page.get_by_role("button", name="Cancel").hover()
    page.mouse.down()
    (studio.root / "late.mp4").write_bytes(b"no film")  # the list changes while the button is pressed
    page.wait_for_timeout(1200)  # the page asks twice a second
    page.mouse.up()
    until(page, "![...document.querySelectorAll('button')].some((button) => button.textContent === 'Cancel')")
    until(page, "document.getElementById('films').textContent.includes('late')")
    until(page, "document.getElementById('status').textContent.includes('broken.mp4')")
    assert (studio.root / "dropped.mp4").exists()
    assert not (studio.root / "dropped").exists()
    assert not (studio.root / "broken.mp4").exists()
    page.goto("about:blank")  # or the page might ask for a picture of the film
    for name in ("dropped.mp4", "late.mp4"):
        (studio.root / name).unlink()


@pytest.mark.parametrize(
    ("width", "scheme"), [(390, "light"), (1280, "dark"), pytest.param(1280, "light", marks=pytest.mark.soak)]
)
def test_it_fits_and_is_accessible(opened, studio, made, width, scheme):
    if not (studio.root / "fits").exists():
        made.add(studio.root, "fits")
    page = opened(width=width, height=844, color_scheme=scheme)
    for link in (None, page.get_by_role("link", name="fits"), page.locator("#edit")):
        if link:
            link.click()
            page.wait_for_url("**/films/fits/")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_studio_that_has_ended_loses_nothing(serve, made, browser, tmp_path):
    root = tmp_path / "summaries"
    root.mkdir()
    made.add(root, "film")
    page = browser.new_context().new_page()
    with serve(root) as client:
        page.goto(client.address)
        edit(page, "film")
    page.mouse.click(*place(page, 20))
    page.locator("#save").click()
    until(page, "document.getElementById('work-status').textContent.includes('does not answer')")
    with serve(root, f"--port={client.port}") as client:
        page.goto(client.address)
        edit(page, "film")
        page.locator("#save").click()
        until(page, "document.getElementById('work-status').textContent === 'Saved.'")
    assert json.loads((root / "film" / "cut.json").read_text())["shots"][0]["state"] == "kept"
    page.context.close()
