"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend. Its text is one line: what is wrong and what to do.

    Commands print it to standard error and exit with status 1; library callers may catch it.
    """
