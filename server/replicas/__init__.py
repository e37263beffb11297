"""Several servers behind one address: the front that shares work out, and the replicas that do it."""
