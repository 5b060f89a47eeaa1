"""What is known of a request, and where it goes: log, metrics."""
