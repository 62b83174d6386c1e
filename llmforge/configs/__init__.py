"""Every knob of the library, with its default and its validation.

What belongs here: flat dataclasses, one field a flag, names unique across all of them.
What does not: reading files, looking at devices, deciding anything that needs data.
Only `llmforge.configs.training` and `tuning` import transformers, which costs seconds.
"""
