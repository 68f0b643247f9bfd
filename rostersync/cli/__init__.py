"""The terminal: a verb's words become one call, its result becomes lines and an exit status."""
