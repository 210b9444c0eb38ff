"""Run folders: what is kept of a training, who works in it, and what it was made with."""
