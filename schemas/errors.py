"""The one error that people see."""


class SekishoError(Exception):
    """Something the operator must act on.

    Its text is one line that says what is wrong and what to do; the command line prints it to standard
    error without a traceback and exits with `exit_code`.
    """

    exit_code = 1


class UsageError(SekishoError):
    """The command was used wrongly: exit status 2."""

    exit_code = 2
