"""Jetson Orin NX with JetPack 7.2."""

from luvc_export.engines.targets._generations import jetpack_7_2

TARGET = jetpack_7_2("jetson-orin-nx-jp72", "Jetson Orin NX", memory_gib=(8, 16))
