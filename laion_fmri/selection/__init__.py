"""Which keys: entities, filters, the key table, manifests."""
