"""An HTTP server that speaks OpenAI's chat completions (the extra ``serve``)."""
