"""The daemon: assembly, main loop, intake, outbox, heartbeat, lease, status."""
