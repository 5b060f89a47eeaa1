"""One running process: what it is made of, how it changes and how it ends."""
