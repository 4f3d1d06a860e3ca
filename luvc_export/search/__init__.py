"""Pages embedded once into an index, and found by what they show: docs/embeddings.md."""
