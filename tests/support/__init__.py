"""Real servers, proxies and certificates for the tests: no mocks of our own parts."""
