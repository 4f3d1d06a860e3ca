"""Many questions from a file or folder, answered by local processes or a cluster into shards: docs/scale.md."""
