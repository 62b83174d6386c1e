"""What `llmforge doctor` looks at, a subject a module."""
