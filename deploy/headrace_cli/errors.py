"""CliError: what a command tells its user in one line before it ends."""

EXIT_FAILURE = 1
EXIT_CONFIGURATION = 2
"""Also what a server process ends with when its settings or its model are at fault: a restart would not help."""
EXIT_INTERRUPTED = 130


class CliError(Exception):
    """Ends the command: ``headrace: error: <message>`` on stderr, then ``exit_code``."""

    def __init__(self, message: str, *, exit_code: int = EXIT_FAILURE) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
