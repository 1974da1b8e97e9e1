"""Cases that time single operations and the engine around them."""
