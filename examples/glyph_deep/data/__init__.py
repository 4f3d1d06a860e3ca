"""What is shown and asked: pictures, pages, questions, their splits, and their way to tensors."""
