"""The report in a real browser without network access."""

import dataclasses
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avmsnet_jax.summarization import report
from avmsnet_jax.summarization.result import Summary
from tests.media.films import number_of
from tests.summarization.conftest import until
from tests.summarization.made import FPS, SECONDS, make_summary

sync_api = pytest.importorskip("playwright.sync_api", reason="the report is tested in a browser that playwright drives")

NAME = "<img src=x onerror=alert(1)> „Größe“ & 100% #1?.mp4"
Open = Callable[..., sync_api.Page]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, Path]:
    """A summary, and the folder with its report: the film lies two folders up."""
    root = tmp_path_factory.mktemp("report")
    folder = root / "out" / "film"
    folder.mkdir(parents=True)
    summary = make_summary(folder, root / NAME, facts={"Check <b>point</b>": "runs/</script><script>alert(1)</script>"})
    report.write_report(summary, folder)
    return summary, folder


@pytest.fixture
def opened(open_report: Open, made: tuple[Summary, Path]) -> Open:
    """Opens a report as a file: that of `made`, unless another is given."""
    return lambda folder=made[1], **options: open_report(folder, **options)


def place(page: sync_api.Page, time_s: float) -> tuple[float, float]:
    """Where a moment is on the curve, in the page's pixels."""
    box = page.locator("#plot").bounding_box()
    return box["x"] + box["width"] * time_s / SECONDS, box["y"] + 40


def click(page: sync_api.Page, time_s: float) -> None:
    """Clicks on a moment of the curve."""
    page.mouse.click(*place(page, time_s))


def seeked(page: sync_api.Page, player: str = "summary") -> float:
    """Stops a player that is to play and has come to where it was sent; where that is, seconds."""
    # In the page, as the film plays on between two questions of the test.
    return page.evaluate(
        """async (id) => {
            const player = document.getElementById(id), end = performance.now() + 60_000;
            const here = () => !player.paused && !player.seeking && player.readyState >= 2;
            while (!here() && !player.ended && performance.now() < end) await new Promise((go) => setTimeout(go, 5));
            if (!here() && !player.ended) throw new Error(`${id} does not play`);
            player.pause();
            return player.currentTime;
        }""",
        player,
    )


def frame_shown(page: sync_api.Page, player: str) -> int:
    """The number that the picture on the screen carries."""
    until(page, f"!document.getElementById('{player}').seeking")
    return number_of(np.asarray(Image.open(io.BytesIO(page.locator(f"#{player}").screenshot())).convert("RGB")))


def background(page: sync_api.Page) -> float:
    """How light the page is, 0-255."""
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return float(np.mean([float(value) for value in re.findall(r"[\d.]+", color)[:3]]))


def test_the_curve_is_drawn_over_the_whole_film(opened, made):
    page = opened()
    numbers = [float(number) for number in re.findall(r"[\d.]+", page.locator("#curve").get_attribute("d"))]
    across, down = np.array(numbers).reshape(-1, 2).T
    scores, width = made[0].scores, page.locator("#plot").bounding_box()["width"]
    np.testing.assert_allclose(across, scores.times_s / SECONDS * width, atol=0.1)
    # Higher scores lie higher, in proportion.
    assert np.corrcoef(down, -scores.scores)[0, 1] > 0.9999
    assert page.locator("#curve").evaluate("curve => getComputedStyle(curve).stroke") != "none"
    bands = re.findall(r"M([\d.]+) 0h([\d.]+)", page.locator("#bands").get_attribute("d"))
    expected = [(5, 4), (15, 2)]
    np.testing.assert_allclose(np.array(bands, float), np.array(expected) / SECONDS * width, atol=0.1)


def test_a_click_plays_the_moment_from_the_summary(opened):
    page = opened()
    click(page, 16.26)
    time = seeked(page)
    assert 5.2 <= time < 6
    assert page.locator("#reel [aria-current]").get_attribute("aria-label").startswith("Shot 2 of 2, from 15 seconds")
    # At the very start of a shot no frame of the one before shows: the player is sent half a frame further.
    page.evaluate("HTMLMediaElement.prototype.play = async () => {}")
    page.evaluate("document.getElementById('summary').pause()")
    page.locator("#reel button").nth(1).click()
    assert page.evaluate("document.getElementById('summary').currentTime") == pytest.approx(4.05, abs=1e-3)
    assert frame_shown(page, "summary") == 15 * FPS + 1
    until(page, "document.getElementById('now').textContent.includes('film 0:15')")


def test_a_moment_left_out_plays_from_the_film_or_says_why_not(opened, made, tmp_path):
    page = opened()
    click(page, 11.05)
    assert seeked(page, "film") == pytest.approx(11.05, abs=0.8)
    assert page.locator("#film").is_visible()
    assert not page.locator("#summary").is_visible()
    assert 11 * FPS <= frame_shown(page, "film") <= 13 * FPS
    assert "0:11 is not in the summary" in page.locator("#status").text_content()
    click(page, 7)
    assert 2 <= seeked(page) < 3
    assert page.locator("#status").text_content() == ""

    shutil.copytree(made[1], tmp_path / "elsewhere")
    page = opened(tmp_path / "elsewhere", forgiven="ERR_FILE_NOT_FOUND")  # the way to the film leads nowhere
    click(page, 11)
    until(page, "document.getElementById('status').textContent.includes('cannot be played here')")
    assert page.locator("#summary").is_visible()
    click(page, 12)
    assert "0:12 is not in the summary, and the film is not" in page.locator("#status").text_content()
    assert page.evaluate("document.getElementById('summary').currentTime") == 0


def scaled(summary: Summary, factor: float, added: float = 0.0) -> Summary:
    """A summary whose moments and shots score otherwise."""
    scores = dataclasses.replace(summary.scores, scores=(factor * summary.scores.scores + added).astype(np.float32))
    shots = tuple(dataclasses.replace(shot, score=factor * shot.score + added) for shot in summary.shots)
    return dataclasses.replace(summary, scores=scores, shots=shots)


@pytest.fixture
def shown(opened: Open, made: tuple[Summary, Path], tmp_path: Path) -> Callable[[Summary], sync_api.Page]:
    """Shows the report of one summary after the other in one page."""
    pages: list[sync_api.Page] = []

    def show(summary: Summary) -> sync_api.Page:
        report.write_report(summary, tmp_path)
        if pages:
            pages[0].goto((tmp_path / "report.html").as_uri())
        else:
            pages.append(opened(tmp_path))
        return pages[0]

    shutil.copy(made[1] / "summary.mp4", tmp_path)
    return show


def test_scores_are_named_and_shown_with_enough_digits(shown, made):
    for factor, added, said, means in (
        (1, 0, "", ["mean 0.30 · rank 4 of 5", "mean 0.50 · rank 2 of 5"]),
        (0.1625, 0, "the highest score is 0.13 of 1. The summary still shows", ["mean 0.05", "mean 0.08"]),
        (0.01, 0, "the highest score is 0.0080 of 1. The scores hardly differ", ["mean 0.0030", "mean 0.0050"]),
        (0.00001, 0, "the highest score is 0.000008 of 1.", ["mean 0.000003", "mean 0.000005"]),
        (0.01, 0.9, "The scores hardly differ, from 0.900 to 0.908: the choice is uncertain", ["mean 0.903"]),
        (0, 0.7, "All moments score 0.70: the choice between them is arbitrary", ["mean 0.70 · rank 1 of 5"]),
        (0, 0, "All moments score 0.00: the choice between them is arbitrary", ["mean 0.00"]),
    ):
        page = shown(scaled(made[0], factor, added))
        caution = page.locator("#caution")
        assert said in caution.text_content()
        assert caution.is_visible() == bool(said)
        rows = page.locator("#reel .line").all_text_contents()
        assert [mean in row for mean, row in zip(means, rows, strict=False)] == [True] * len(means)
        assert "moment scores" in page.locator("#now").text_content()
        assert "how sure" not in page.locator("#reading").text_content()
    # A very low score is not shown as 0.
    shots = tuple(dataclasses.replace(shot, score=0.00004 * (index + 1)) for index, shot in enumerate(made[0].shots))
    page = shown(dataclasses.replace(made[0], shots=shots))
    rows = page.locator("#reel .line").all_text_contents()
    assert ["mean <0.001 · rank 4 of 5" in rows[0], "mean <0.001 · rank 2 of 5" in rows[1]] == [True, True]
    assert "mean score <0.001, rank 4 of 5 shots" in page.locator("#reel button").first.get_attribute("aria-label")


def test_the_film_can_be_watched_whole(opened):
    page = opened()
    page.locator("#to-film").click()
    click(page, 6)  # which the summary has, too
    assert seeked(page, "film") == pytest.approx(6, abs=0.8)
    page.locator("#to-summary").click()
    until(page, "Math.abs(document.getElementById('summary').currentTime - 1) < 1")
    assert page.locator("#to-summary").get_attribute("aria-pressed") == "true"


def test_hovering_tells_time_score_and_picture(opened, made):
    page = opened()
    page.mouse.move(*place(page, 15.8))
    assert page.locator("#card-time").text_content() == "0:15.8"
    assert page.locator("#card-frame").text_content() == "frame 159"
    assert page.locator("#card-score").text_content() == "0.80"
    assert page.locator("#card-what").text_content() == "in the summary at 0:04"
    until(page, "document.getElementById('card-image').complete")
    shown = Image.open(io.BytesIO(page.locator("#card-image").screenshot())).convert("L")
    assert abs(shown.getpixel((32, 24)) - 8 * 15) < 4  # the 16th clip's thumbnail
    page.mouse.move(*place(page, 2))
    assert page.locator("#card-what").text_content().startswith("left out")
    title, card, chart = (page.locator(part).bounding_box() for part in ("#map-title", "#card", "#chart"))
    assert card["x"] >= 0
    assert title["y"] + title["height"] <= card["y"]  # it hides nothing, neither above
    assert card["y"] + card["height"] <= chart["y"]  # nor below
    page.mouse.move(5, 5)
    assert not page.locator("#card").is_visible()


def test_the_keyboard_reaches_and_plays_every_moment(opened):
    page = opened()
    plot = page.locator("#plot")
    for _ in range(30):
        page.keyboard.press("Tab")
        if plot.evaluate("plot => plot === document.activeElement"):
            break
    assert plot.evaluate("plot => plot.matches(':focus-visible')")
    assert plot.evaluate("plot => getComputedStyle(plot).outlineStyle") == "solid"

    def now() -> float:
        return float(plot.get_attribute("aria-valuenow"))

    page.keyboard.press("Home")
    assert now() == 0
    page.keyboard.press("PageDown")
    assert now() == 5
    page.keyboard.press("ArrowRight")
    assert now() == 6
    assert plot.get_attribute("aria-valuetext") == "6 seconds, score 0.05, in the summary"
    page.keyboard.press("Enter")
    assert 1 <= seeked(page) < 2
    page.keyboard.press("Space")
    until(page, "!document.getElementById('summary').paused")
    page.keyboard.press("Space")
    until(page, "document.getElementById('summary').paused")
    page.keyboard.press("PageDown")
    assert now() == 15
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert now() == 13
    page.keyboard.press("PageUp")
    assert now() == 5
    page.keyboard.press("End")
    assert now() == SECONDS


def test_names_and_facts_are_escaped(opened):
    page = opened()
    stem = NAME.removesuffix(".mp4")
    assert page.title() == f"{stem} \N{EN DASH} summary"
    assert page.locator("h1").text_content() == stem
    facts = page.locator("#facts").text_content()
    assert "Check <b>point</b>runs/</script><script>alert(1)</script>" in facts
    assert page.locator("h1 img, #facts b").count() == 0


def test_light_and_dark(opened):
    page, strokes = opened(color_scheme="dark"), []
    for scheme, darker, lighter in (("dark", -1, 30), ("light", 230, 256)):
        page.emulate_media(color_scheme=scheme)
        assert darker < background(page) < lighter
        strokes.append(page.locator("#curve").evaluate("curve => getComputedStyle(curve).stroke"))
    assert strokes[0] != strokes[1]
    page.locator("#theme").click()
    assert background(page) < 30
    assert page.locator("#theme").get_attribute("aria-pressed") == "true"
    page.reload()
    assert background(page) < 30
    page.locator("#theme").click()
    assert background(page) > 230


def test_nothing_is_wider_than_the_screen(opened):
    page = opened(width=320, height=800)
    for width in (320, 1440, 768, 390):
        page.set_viewport_size({"width": width, "height": 800})
        until(page, f"document.documentElement.scrollWidth <= {width}")
        for part in ("#plot", ".picture", "#reel", "#facts"):
            box = page.locator(part).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["width"] > 200


def test_attention_and_sound_are_drawn_over_the_picture(opened):
    page = opened()
    click(page, 16)
    seeked(page)

    def alpha(x: float) -> float:
        """How much of the picture is covered there, 0-255, at half its height."""
        page.wait_for_timeout(50)
        return page.locator("#overlay").evaluate(
            """(lens, x) => {
                const copy = new OffscreenCanvas(1, 1).getContext("2d");
                copy.drawImage(lens, -Math.floor(x * lens.width), -Math.floor(lens.height / 2));
                return copy.getImageData(0, 0, 1, 1).data[3];
            }""",
            x,
        )

    page.locator("#look").click()
    assert alpha(0.08) < 40 < 140 < alpha(0.7)  # attention is at the left
    page.locator("#look").click()
    page.locator("#hear").click()
    assert alpha(0.98) > 30 > alpha(0.3)  # the sound at the right
    page.locator("#hear").click()
    assert alpha(0.98) == 0
    thumbnails = page.locator("#reel li").first.locator("canvas")
    assert thumbnails.count() == 2
    until(page, "document.querySelector('#reel canvas').width === 64")
    painted = Image.open(io.BytesIO(thumbnails.first.screenshot())).convert("L")
    left, right = (painted.getpixel((round(x * painted.width), painted.height // 2)) for x in (0.08, 0.8))
    assert left > 2 * right


def test_a_silent_film_offers_no_sound(opened, tmp_path):
    summary = make_summary(tmp_path, tmp_path / "silent.mp4", sound=False)
    report.write_report(summary, tmp_path)
    page = opened(tmp_path)
    assert not page.locator("#hear").is_visible()
    assert page.locator("#look").is_visible()
    assert page.locator("#reel li").first.locator("canvas").count() == 1
    assert "Soundnone" in page.locator("#facts").text_content()


def test_a_large_summary_is_played_from_beside_the_page(opened, made, tmp_path, monkeypatch):
    summary, folder = made
    monkeypatch.setattr(report, "EMBEDDED_BYTES", 1000)
    shutil.copy(folder / "summary.mp4", tmp_path)
    report.write_report(summary, tmp_path)
    assert (tmp_path / "report.html").stat().st_size < (folder / "report.html").stat().st_size
    page = opened(tmp_path)
    assert page.evaluate("document.getElementById('summary').currentSrc") == (tmp_path / "summary.mp4").as_uri()
    click(page, 16)
    assert 5 <= seeked(page) < 6


def test_the_link_to_the_film_is_relative_to_the_final_folder(made, tmp_path):
    summary, folder = made
    stage = tmp_path / "deeper" / "stage"
    stage.mkdir(parents=True)
    shutil.copy(folder / "summary.mp4", stage)
    report.write_report(summary, stage, shown_in=folder)
    assert (stage / "report.html").read_bytes() == (folder / "report.html").read_bytes()


def test_two_hours_stay_a_small_page(opened, made, tmp_path):
    summary, folder = made
    short, repeats = summary.scores, 313
    clips = len(short.times_s) * repeats
    noise = np.random.default_rng(0).integers(0, 256, (108, 192, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=30)
    scores = dataclasses.replace(
        short,
        duration_s=clips + 1.0,
        n_frames=clips * FPS,
        times_s=np.arange(1, clips + 1, dtype=float),
        **{name: np.tile(getattr(short, name), repeats) for name in ("frames", "scores")},
        attention=tuple(np.tile(maps, (repeats, 1, 1)) for maps in short.attention),
        localization=np.tile(short.localization, (repeats, 1, 1)),
        thumbnails=[file.getvalue()] * clips,
    )
    shutil.copy(folder / "summary.mp4", tmp_path)
    report.write_report(dataclasses.replace(summary, scores=scores), tmp_path)
    text = (tmp_path / "report.html").read_text("utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert len(data["clips"]["t"]) == clips > 7000
    assert len(data["thumbs"]["jpeg"]) <= 165
    assert len(text) < 4e6
    page = opened(tmp_path)
    drawn = page.locator("#curve").get_attribute("d").count("L")
    assert 1000 < drawn <= 2 * page.locator("#plot").bounding_box()["width"] + 2
    width = page.locator("#plot").bounding_box()["width"]
    assert width / 8 - 3 < page.locator("#smooth").get_attribute("d").count("L") < width / 8 + 2
    page.locator("#plot").focus()
    page.keyboard.press("End")
    assert page.locator("#plot").get_attribute("aria-valuetext").startswith("2 hours 0 seconds, score")
