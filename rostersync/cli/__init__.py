"""The command line: turn a command's arguments into one call, and the call's result into lines and an exit status."""
