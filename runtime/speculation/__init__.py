"""Several tokens a step: drafts that cost little, each checked by the model before it is taken."""
