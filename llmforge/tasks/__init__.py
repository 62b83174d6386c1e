"""Tasks: what a model is asked and should answer, and the rows that teach it."""
