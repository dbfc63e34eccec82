"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake in what was asked or handed in: a missing file, a broken film, a field that does not exist.

    The message is one line that names the file or field and what to do about it. Commands print it
    on standard error without a traceback and exit with status 2; see `avmsnet_jax.command`.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))
