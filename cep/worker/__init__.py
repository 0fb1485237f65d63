"""What runs where the work is done: bytes to user function to bytes."""
