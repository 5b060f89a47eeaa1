"""kproxy in the background: started, stopped, and asked how it is."""
