"""Vision towers that families share: how units are embedded, attended to, merged and taken out."""
