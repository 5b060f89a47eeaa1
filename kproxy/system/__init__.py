"""The operating system: event loop, threads, sockets, files, service managers."""
