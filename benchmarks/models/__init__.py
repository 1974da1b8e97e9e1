"""Cases that time whole models."""
