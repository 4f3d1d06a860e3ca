"""What is read of a checkpoint's folder: which of its files count, and what they say."""
