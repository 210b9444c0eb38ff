"""Answers from a run or an export."""
