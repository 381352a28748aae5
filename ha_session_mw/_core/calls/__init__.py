"""Rules for calls between nodes: when to stop calling, how fast to go, and how to count the faults of peers."""
