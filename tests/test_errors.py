"""Messages are one line of printable text for any file name."""

import os

from avmsnet_jax.errors import UserError, printable, printable_lines


def test_control_characters_and_undecodable_bytes_are_escaped():
    assert printable("a\x1b[31mred\x07") == "a\\x1b[31mred\\x07"
    assert printable("two\nlines\u2028three") == "two\\x0alines\\u2028three"
    assert printable(os.fsdecode(b"caf\xe9.mp4")) == "caf\\xe9.mp4"
    assert printable("abc\u202egpj.mp4") == "abc\\u202egpj.mp4"


def test_letters_of_all_scripts_are_kept():
    for name in ("Amélie", "千と千尋", "👨\u200d👩\u200d👧", "\u0645\u06cc\u200c\u062e\u0648", "a'b\"c%d"):
        assert printable(name) == name


def test_a_message_is_one_line():
    assert str(UserError("cannot read a\nb.mp4;\n   \x1b[2Jtry again")) == "cannot read a b.mp4; \\x1b[2Jtry again"


def test_line_breaks_of_a_table_are_kept():
    assert printable_lines("film  score\na\x1b[31m  0.5\n") == "film  score\na\\x1b[31m  0.5\n"


def test_a_message_that_quotes_a_file_at_length_keeps_its_start_and_its_remedy():
    message = str(UserError(f"scores.json: {'[' * 200_000} is no score; write it again"))
    assert message.startswith("scores.json: [[")
    assert message.endswith("[[ is no score; write it again")
    assert len(message) < 1500
