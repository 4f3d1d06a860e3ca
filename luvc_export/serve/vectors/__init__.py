"""Paths of models that do not decode: vectors of inputs, and scores of documents. ``doors.DOORS`` lists them."""
