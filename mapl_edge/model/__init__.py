"""The model and its training. Only this package of the core imports torch; the edge runtime never does."""
