"""The parity table: what kubectl proxy and kproxy do with the same bytes, one behaviour a row."""
