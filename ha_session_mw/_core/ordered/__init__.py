"""The totally ordered log (``etcd://``): one process's part in it, as a state machine."""
