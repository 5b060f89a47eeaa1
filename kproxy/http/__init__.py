"""HTTP as values, without I/O: heads, framing and what a proxy changes in them."""
