"""Pictures and videos: opened safely, cut into tiles, brought to the size of the vision graph, drawn."""
