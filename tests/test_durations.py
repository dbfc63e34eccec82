import math

import pytest

from avmsnet_jax import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        (" 12.5 ", 12.5),
        ("-1", -1),
        ("90s", 90),
        ("2min", 120),
        ("2 min", 120),
        ("1.5m", 90),
        ("1h", 3600),
        ("1h 2m 3.5s", 3723.5),
        ("1h30m", 5400),
        ("2 Minutes 10 seconds", 130),
        ("500ms", 0.5),
        ("0:05", 5),
        ("1:30", 90),
        ("90:00", 5400),
        ("0:01:05.5", 65.5),
        ("01:02:03,25", 3723.25),
    ],
)
def test_durations_are_read(text, seconds):
    assert durations.parse(text) == pytest.approx(seconds, abs=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "s",
        "1 2",
        "5 parsecs",
        "1:60",
        "1:60:00",
        "1:2:3:4",
        ":30",
        "1:",
        "-1:30",
        "3s 2min",
        "2min 2min",
        "1:30s",
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011
        durations.parse(text)


def test_plain_numbers_are_left_to_the_caller():
    assert math.isnan(durations.parse("nan"))
    assert durations.parse("9" * 5000) == math.inf
