"""The command line: each command parses its arguments, calls one function of `kerazoo.api`, and prints."""
