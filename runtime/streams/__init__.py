"""What slides: windows of clips over a stream, and the windows of layers over what their caches hold."""
