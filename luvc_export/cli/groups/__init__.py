"""Records of options that several verbs take."""
