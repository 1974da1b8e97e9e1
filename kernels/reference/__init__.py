"""Literal, slow, obvious NumPy: variant "reference", the oracle that every other variant is tested against."""
