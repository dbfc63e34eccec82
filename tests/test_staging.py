"""A result appears whole, replaces what was there, or leaves that as it was."""

import pytest

from avmsnet_jax.errors import UserError
from avmsnet_jax.staging import staged, taken


@pytest.mark.parametrize("name", ["result", "replaced", "result.before"])
def test_a_directory_is_replaced_whatever_it_is_called(tmp_path, name):
    for text in ("old", "new"):
        with staged(tmp_path / name) as stage:
            stage.mkdir()
            (stage / text).touch()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in (tmp_path / name).iterdir()] == ["new"]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "old").touch()
    with pytest.raises(UserError, match="cannot write"), staged(tmp_path / "result"):
        raise OSError(28, "No space left on device")
    with pytest.raises(UserError, match="cannot write"), staged(tmp_path / "result"):
        pass  # nothing was staged: there is nothing to put in its place
    assert [path.name for path in tmp_path.rglob("*")] == ["result", "old"]


def test_parents_made_for_a_failure_go_again(tmp_path):
    with pytest.raises(KeyError), staged(tmp_path / "a" / "b" / "result"):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_only_an_empty_directory_is_no_obstacle(tmp_path):
    assert not taken(tmp_path / "result")
    (tmp_path / "result").mkdir()
    assert not taken(tmp_path / "result")
    (tmp_path / "result" / ".hidden").touch()
    assert taken(tmp_path / "result")
    assert taken(tmp_path / "result" / ".hidden")
