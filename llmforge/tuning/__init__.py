"""What a fine-tuning begins with."""
