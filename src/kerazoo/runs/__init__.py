"""Run folders: their files, their locks, and the environment that a run was made in."""
