"""Jetson Orin Nano with JetPack 7.2."""

from luvc_export.engines.targets._generations import jetpack_7_2

TARGET = jetpack_7_2("jetson-orin-nano-jp72", "Jetson Orin Nano", memory_gib=(4, 8))
