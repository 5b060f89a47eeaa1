"""Random bytes through a whole proxy: a strict reader of HTTP/1.1, mutations, and lanes for them."""
