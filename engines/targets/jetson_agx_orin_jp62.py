"""Jetson AGX Orin with JetPack 6.2."""

from luvc_export.engines.targets._generations import jetpack_6_2

TARGET = jetpack_6_2("jetson-agx-orin-jp62", "Jetson AGX Orin", memory_gib=(32, 64))
