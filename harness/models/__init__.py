"""The layouts as models, with a hole where attention goes."""
