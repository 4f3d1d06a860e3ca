"""Three ways to say an answer, each an adapter of the bundled model, trained in minutes and compared at run time."""
