"""JSON that may be hostile or damaged gives a value, or one line that names the file."""

import json
import os

import pytest

from avmsnet_jax import json_file
from avmsnet_jax.errors import UserError


def test_reads_with_and_without_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_text('{"é": [1, null]}', encoding="utf-8")
    (tmp_path / "b.json").write_text('{"é": [1, null]}', encoding="utf-8-sig")
    assert json_file.read(tmp_path / "a.json", "x") == json_file.read(tmp_path / "b.json", "x") == {"é": [1, None]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' twice"),
        (b"1" * 5000, "thousands of digits"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"\0\0\0", "not valid JSON"),
    ],
)
def test_invalid_json_gives_one_line_with_file_and_remedy(tmp_path, content, reason):
    path = tmp_path / "scores.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        json_file.read(path, "export it again")
    message = str(caught.value)
    assert reason in message
    assert str(path) in message
    assert message.endswith("; export it again")
    assert "\n" not in message


def test_a_file_beyond_the_size_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(list(range(100))))
    with pytest.raises(UserError, match="MB are read"):
        json_file.read(path, "x", most_bytes=50)


def test_a_missing_file_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        json_file.read(tmp_path / "none.json", "x")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="Is a directory; x"):
        json_file.read(tmp_path, "x")


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError, match="is a pipe; save it to a file first"):
        json_file.read(tmp_path / "pipe.json", "x")
