"""LoRA adapters as peft writes them, read as what a stranger may have written."""
