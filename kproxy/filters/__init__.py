"""Which requests pass."""
