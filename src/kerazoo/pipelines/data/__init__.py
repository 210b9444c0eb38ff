"""One table of examples, whatever the data lies in."""
