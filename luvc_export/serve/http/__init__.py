"""What clients see: routes, bodies, errors, who may call."""
