"""The log without a server (``peers://``): one member's part in it, as a state machine."""
