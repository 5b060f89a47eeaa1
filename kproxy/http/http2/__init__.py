"""HTTP/2 without I/O: frames, header compression and heads."""
