"""YAML to frozen, validated settings; builds nothing."""
