"""Rules for calls to others: when to stop calling, how much a caller may ask, and what peers did wrong."""
