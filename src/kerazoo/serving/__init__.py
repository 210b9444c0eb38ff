"""What leaves the house: export, the gate every export passes, prediction from what was exported."""
