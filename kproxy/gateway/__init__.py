"""The data path: a client's connection, where its requests go, and how answers come back."""
