// See NvInferRuntime.h of this folder. The version whose plugin interface it follows.
#pragma once

#define NV_TENSORRT_MAJOR 10
#define NV_TENSORRT_MINOR 3
