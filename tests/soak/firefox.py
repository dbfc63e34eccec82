"""Drives Firefox by its own remote protocol, Marionette, with the calls of playwright that the editor's tests make."""

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

# https://www.w3.org/TR/webdriver2/#keyboard-actions
_KEYS = {
    name: chr(0xE000 + code)
    for name, code in {
        "Enter": 0x07,
        "Shift": 0x08,
        "Control": 0x09,
        "Alt": 0x0A,
        "PageUp": 0x0E,
        "PageDown": 0x0F,
        "End": 0x10,
        "Home": 0x11,
        "ArrowLeft": 0x12,
        "ArrowUp": 0x13,
        "ArrowRight": 0x14,
        "ArrowDown": 0x15,
    }.items()
} | {"Space": " "}
_START_S = 60.0


def installed() -> str | None:
    """The path of Firefox; None if there is none."""
    return shutil.which("firefox-esr") or shutil.which("firefox")


class Firefox:
    """A page of a headless Firefox; closes the browser at the end of its context."""

    def __init__(self, folder: Path):
        """`folder` is an existing one for the profile and, in `folder / "downloads"`, what pages let save."""
        self.downloads, profile = folder / "downloads", folder / "profile"
        self.downloads.mkdir()
        profile.mkdir()
        settings = {
            "marionette.port": 0,
            "browser.download.folderList": 2,  # the folder given below
            "browser.download.dir": str(self.downloads),
            "browser.download.alwaysOpenPanel": False,
        }
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in settings.items()]
        (profile / "user.js").write_text("".join(lines))
        firefox = installed()
        assert firefox
        command = [firefox, "--headless", "--marionette", "--no-remote", "--profile", str(profile)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._connection = self._connected(profile / "MarionetteActivePort").makefile("rwb")
            self._read()  # the greeting
            self._number = 0
            self.send("WebDriver:NewSession")
            self.send("WebDriver:SetWindowRect", width=1200, height=1100)
        except BaseException:
            self._process.kill()
            raise
        self.mouse, self.keyboard = Mouse(self), Keyboard(self)

    def __enter__(self) -> "Firefox":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait()

    def send(self, command: str, **parameters: Any) -> Any:
        """The result of a command of WebDriver."""
        self._number += 1
        text = json.dumps([0, self._number, command, parameters]).encode()
        self._connection.write(b"%d:%s" % (len(text), text))
        self._connection.flush()
        _, _, error, result = self._read()
        assert error is None, (command, error)
        return result

    def act(self, kind: str, *actions: dict[str, Any]) -> None:
        """Actions of the mouse, `pointer`, or of the keyboard, `key`."""
        self.send("WebDriver:PerformActions", actions=[{"type": kind, "id": kind, "actions": list(actions)}])

    def goto(self, url: str) -> None:
        """Opens a page and waits until it has loaded."""
        self.send("WebDriver:Navigate", url=url)

    def reload(self) -> None:
        """Loads the page again."""
        self.send("WebDriver:Refresh")

    def evaluate(self, expression: str, *values: Any) -> Any:
        """The value of an expression; `arguments` in it are the values."""
        return self.send("WebDriver:ExecuteScript", script=f"return ({expression})", args=list(values))["value"]

    def wait_for_timeout(self, milliseconds: float) -> None:
        """Waits."""
        time.sleep(milliseconds / 1000)

    def locator(self, selector: str) -> "Element":
        """An element by its CSS selector."""
        return Element(self, selector)

    def download(self, name: str) -> Path:
        """Waits for a file that the page saves; it is there until the same name is saved again."""
        path = self.downloads / name
        for _ in range(500):
            if path.exists() and path.stat().st_size and not list(self.downloads.glob("*.part")):
                return path.replace(self.downloads / f"saved {name}")
            time.sleep(0.02)
        raise AssertionError(f"{name} was not saved: {list(self.downloads.iterdir())}")

    def _connected(self, port_file: Path) -> socket.socket:
        deadline = time.monotonic() + _START_S
        while not (port_file.exists() and port_file.read_text()):
            assert self._process.poll() is None, "Firefox has ended"
            assert time.monotonic() < deadline, "Firefox does not start"
            time.sleep(0.05)
        return socket.create_connection(("127.0.0.1", int(port_file.read_text())), timeout=120)

    def _read(self) -> Any:
        length = b""
        while (digit := self._connection.read(1)) != b":":
            assert digit, "Firefox has closed the connection"
            length += digit
        return json.loads(self._connection.read(int(length)))


class Mouse:
    """The pointer."""

    def __init__(self, page: Firefox):
        """Of a page."""
        self._page = page

    def move(self, x: float, y: float) -> None:
        """Moves the pointer to a place in the viewport, pixels."""
        self._page.act("pointer", {"type": "pointerMove", "x": round(x), "y": round(y), "duration": 0})

    def down(self) -> None:
        """Presses the left button."""
        self._page.act("pointer", {"type": "pointerDown", "button": 0})

    def up(self) -> None:
        """Releases the left button."""
        self._page.act("pointer", {"type": "pointerUp", "button": 0})

    def click(self, x: float, y: float) -> None:
        """Clicks at a place."""
        self.move(x, y)
        self.down()
        self.up()


class Keyboard:
    """The keys."""

    def __init__(self, page: Firefox):
        """Of a page."""
        self._page = page

    def down(self, key: str) -> None:
        """Presses a key."""
        self._page.act("key", {"type": "keyDown", "value": _KEYS.get(key, key)})

    def up(self, key: str) -> None:
        """Releases a key."""
        self._page.act("key", {"type": "keyUp", "value": _KEYS.get(key, key)})

    def press(self, keys: str) -> None:
        """Presses and releases keys, such as `Control+z`."""
        held = keys.split("+")
        for key in held:
            self.down(key)
        for key in reversed(held):
            self.up(key)


class Element:
    """An element of a page."""

    def __init__(self, page: Firefox, selector: str):
        """`selector` is CSS."""
        self._page, self._selector = page, selector

    def _of(self, expression: str) -> Any:
        return self._page.evaluate(f"document.querySelector(arguments[0]).{expression}", self._selector)

    def bounding_box(self) -> dict[str, float]:
        """Its place in the viewport."""
        return self._of("getBoundingClientRect().toJSON()")

    def is_disabled(self) -> bool:
        """Whether it is switched off."""
        return self._of("disabled")

    def text_content(self) -> str:
        """Its text."""
        return self._of("textContent")

    def focus(self) -> None:
        """Moves the focus to it."""
        self._of("focus()")

    def click(self) -> None:
        """Clicks in its middle."""
        self._of("scrollIntoView({ block: 'nearest' })")
        box = self.bounding_box()
        self._page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
