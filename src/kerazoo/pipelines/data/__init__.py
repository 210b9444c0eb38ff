"""One table of examples, whatever format the data has."""
