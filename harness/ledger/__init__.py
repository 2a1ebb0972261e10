"""What differs between models, and options under which they cost the same."""
