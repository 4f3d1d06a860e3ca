"""The skeleton of a family's file, from what the installed transformers says of its model."""
