"""The parts of `llmforge monitor`: what a terminal shows of a run."""
