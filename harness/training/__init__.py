"""The recipe, its data and the accuracy it gives."""
