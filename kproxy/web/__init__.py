"""What kproxy answers itself."""
