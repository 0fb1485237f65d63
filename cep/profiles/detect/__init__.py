"""What can be found out about a site from the host this runs on; pure parsers beside one runner."""
