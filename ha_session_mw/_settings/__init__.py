"""How values of settings are parsed, and what they may say."""
