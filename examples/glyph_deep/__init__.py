"""A deeper instrument than the bundled model: busy grounds, pages, twelve encoder blocks; see README.md."""
