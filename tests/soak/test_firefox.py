"""The editor in Firefox: the same edits as the tests make in Chromium, near misses, playing and saving."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from avmsnet_jax.summarization import cutlist, report
from tests.soak.firefox import Firefox, installed
from tests.summarization.conftest import until
from tests.summarization.made import editing_of, make_summary
from tests.summarization.test_editing import PICTURES_ROW, edit_undo_and_redo, place

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not installed(), reason="there is no Firefox; apt-get install firefox-esr"),
]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Firefox]:
    """A report whose film lies beside it, being edited."""
    summary = make_summary(tmp_path, tmp_path / "film.mp4")
    report.write_report(summary, tmp_path, editing=editing_of(summary))
    with Firefox(tmp_path) as firefox:
        firefox.goto((tmp_path / "report.html").as_uri())
        firefox.keyboard.press("e")
        yield firefox


def test_every_edit_is_undone_redone_and_survives_a_reload(page: Firefox, tmp_path: Path) -> None:
    def read() -> cutlist.CutList:
        page.keyboard.press("Control+s")
        return cutlist.read(page.download("cut.json"), tmp_path / "film.mp4")

    edit_undo_and_redo(page, read)


def test_near_misses_zoom_playing_and_saving(page: Firefox) -> None:
    page.locator("#zoom-in").click()
    page.keyboard.press("-")
    page.keyboard.press("0")
    page.locator("#budget").focus()
    page.keyboard.press("ArrowRight")  # 6.6 s; 20% more have room for 7 s at 17 s
    until(page, "document.getElementById('misses').querySelector('button')?.textContent.includes('0:17')")
    page.locator("#misses button").click()
    assert "kept by you" in page.locator("#which").text_content()
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert page.locator("#undo").is_disabled()

    page.mouse.click(*place(page, 84, PICTURES_ROW))
    page.keyboard.press("Space")
    until(page, "document.getElementById('film').currentTime >= 15")  # jumped from 9 s
    until(page, "document.getElementById('film').paused")
    assert page.evaluate("document.getElementById('film').currentTime") <= 17.15
    page.mouse.click(*place(page, 120, PICTURES_ROW))
    for key, goes in (("l", "> 12.3"), ("j", "< 12.2")):
        page.keyboard.press(key)
        until(page, f"document.getElementById('film').currentTime {goes}")
    page.keyboard.press("k")

    for button, name in (("#save-keyshots", "film.keyshots.csv"), ("#save-segments", "segments.csv")):
        page.locator(button).click()
        rows = list(csv.reader(page.download(name).read_text().splitlines()))
        assert [row[:2] for row in rows[1:]] == [["5.000000", "9.000000"], ["15.000000", "17.000000"]]
