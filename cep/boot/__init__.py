"""systemd units: render, verify, install, remove."""
