"""The worker process: it owns the engine and the encoders; only messages and packets leave it."""
