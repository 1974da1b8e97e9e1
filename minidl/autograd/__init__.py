"""Define-by-run automatic differentiation: nodes, the engine that walks them, and the tools that look at them."""
