"""Pictures of what a token reads: in one block, and back through the blocks before it."""
