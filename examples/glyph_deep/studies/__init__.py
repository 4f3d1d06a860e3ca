"""What is measured on the trained model, each a command that writes its page or figures."""
