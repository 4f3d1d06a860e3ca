"""Jetson Orin Nano with JetPack 6.2."""

from luvc_export.engines.targets._generations import jetpack_6_2

TARGET = jetpack_6_2("jetson-orin-nano-jp62", "Jetson Orin Nano", memory_gib=(4, 8))
