"""The command line, the worker process and the web process."""
