"""Bytes to model and back: envelope, messages, headers, payload buffers. Standard library only."""
