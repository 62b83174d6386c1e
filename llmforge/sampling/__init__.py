"""Text from a model: completions of prompts, once or at the terminal."""
