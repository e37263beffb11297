"""Video jobs in the web process: their store, their files, their routes. The worker makes the pictures."""
