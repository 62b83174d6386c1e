"""Documents out of records (JSON, JSONL, CSV, Parquet, hub datasets), token-id shards and the user's own functions."""
