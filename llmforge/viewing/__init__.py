"""A run as it is now, read tolerantly: what `report` and `monitor` show. Nothing is written, nothing heavy imported."""
