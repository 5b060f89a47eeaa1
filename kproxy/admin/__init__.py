"""kproxy's own endpoints, below `/-/`."""
