"""Networks of the cascade, their caches, and the streaming engine that runs them."""
