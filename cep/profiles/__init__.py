"""Site profiles: find the templates and render them."""
