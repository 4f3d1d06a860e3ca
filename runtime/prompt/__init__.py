"""A question and its pictures as token ids: chat template, placeholders, limits."""
