import pytest

from avmsnet_jax.clock import clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (59.99, "0:59"),
        (60, "1:00"),
        (3599.9, "59:59"),
        (3600, "1:00:00"),
        (4503, "1:15:03"),
        (360000, "100:00:00"),
    ],
)
def test_seconds_are_formatted_as_clock_times(seconds, text):
    assert clock(seconds) == text
