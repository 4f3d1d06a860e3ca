"""Jetson Orin NX with JetPack 6.2."""

from luvc_export.engines.targets._generations import jetpack_6_2

TARGET = jetpack_6_2("jetson-orin-nx-jp62", "Jetson Orin NX", memory_gib=(8, 16))
