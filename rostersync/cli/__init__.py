"""The command line: turn the words of a command into one call, and its result into lines and an exit status."""
