"""An instrument for time: short films of digits that come, move and change, and a model that answers about them."""
