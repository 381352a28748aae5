"""How values of settings are parsed, and which values are valid."""
