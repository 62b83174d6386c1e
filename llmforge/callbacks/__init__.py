"""Callbacks for `transformers.Trainer`, one a file."""
