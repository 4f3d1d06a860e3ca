"""LoRA adapters beside a bundle's weights while it answers."""
