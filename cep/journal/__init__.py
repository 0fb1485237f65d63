"""Accepted tasks and unsent results, durable until the broker has confirmed."""
