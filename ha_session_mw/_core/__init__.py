"""The rules. Nothing in here performs I/O, reads a clock or rolls dice: time and random bits are arguments."""
