"""TLS of both sides: whom we trust, what we show, and until when it is good."""
