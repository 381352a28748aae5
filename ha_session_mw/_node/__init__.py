"""What one process does: validating, issuing and revoking, and the tasks behind that."""
