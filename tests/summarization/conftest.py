"""A small network of random weights, and a browser that plays the summaries."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import made_once
from tests.networks import save_network, untrained


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of the small network."""
    folder = made_once(tmp_path_factory, "weights", lambda folder: save_network(folder / "random", untrained()))
    return str(folder / "random")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for films."""
    films = tmp_path / "films"
    films.mkdir()
    return films


@pytest.fixture
def open_report(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a report as a file; when the test ends, the page has asked for nothing and complained of nothing."""
    contexts, asked, said = [], [], []

    def opened(folder: Path, *, width: int = 1200, height: int = 900, forgiven: str = "", **context: object) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **context))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: (forgiven and forgiven in message.text) or said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
        page.goto((folder / "report.html").as_uri())
        until(page, "document.getElementById('summary').readyState >= 1")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not said
    strangers = [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert not strangers


def until(page: Any, condition: str) -> None:
    """Waits for a JavaScript expression to be true. The page's policy forbids playwright's own way, which is eval."""
    for _ in range(3000):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(20)
    pytest.fail(f"a minute has gone by, and still not {condition}")
