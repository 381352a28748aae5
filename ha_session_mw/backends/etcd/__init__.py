"""``etcd://`` and ``etcds://``: log, records and locks on etcd."""
