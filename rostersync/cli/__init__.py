"""The command line: the words of a command become one call, its result becomes lines and an exit status."""
