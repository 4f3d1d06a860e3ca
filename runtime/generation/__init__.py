"""From logits to an answer: sampling, one sequence or several, text as it comes."""
