"""Whose fault it is."""


class InputError(ValueError):
    """The input is at fault: a config, a file, an option, an argument.

    Its message is one sentence that names the file, the key and the remedy. The command-line tools
    print it without a traceback, and catch nothing else.
    """
