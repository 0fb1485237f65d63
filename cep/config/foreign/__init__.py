"""Configurations of published endpoints: find them, read them, and say them in today's keys."""
