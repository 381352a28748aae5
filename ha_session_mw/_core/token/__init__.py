"""Tokens: their claims and data, how they are signed, verified, carried, renewed and cached."""
