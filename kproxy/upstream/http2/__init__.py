"""HTTP/2 towards API servers: our own, as the data path is what kproxy is for."""
