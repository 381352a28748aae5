"""What a token says, how it is signed and verified, where it travels, and what is remembered of it."""
