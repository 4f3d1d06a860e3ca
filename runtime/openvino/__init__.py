"""OpenVINO as a back-end: graphs written out, weights mapped, arithmetic by islands, compiled models."""
