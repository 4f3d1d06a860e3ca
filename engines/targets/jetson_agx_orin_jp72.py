"""Jetson AGX Orin with JetPack 7.2."""

from luvc_export.engines.targets._generations import jetpack_7_2

TARGET = jetpack_7_2("jetson-agx-orin-jp72", "Jetson AGX Orin", memory_gib=(32, 64))
