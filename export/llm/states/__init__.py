"""What layers without keys need: rows in logical order, and the rules that their states follow."""
