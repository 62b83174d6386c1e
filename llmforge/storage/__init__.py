"""Files and the small records in them: written whole or not at all."""
