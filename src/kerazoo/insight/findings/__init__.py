"""What the numbers of a training say: plain numbers in, findings out. Thresholds: docs/decisions/0014-findings.md."""
