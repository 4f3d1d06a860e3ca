// The two symbols TensorRT looks up in a plugin library (trtexec --dynamicPlugins, IPluginRegistry::loadLibrary).
#include "luvc/abi.h"
#include "tensorrt/orthogonal_merge_plugin.h"
#include "tensorrt/spectrum_prune_plugin.h"

extern "C" LUVC_API nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    static luvc::tensorrt::Creator<luvc::tensorrt::SpectrumPrunePlugin> prune;
    static luvc::tensorrt::Creator<luvc::tensorrt::OrthogonalMergePlugin> merge;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&prune, &merge};
    count = 2;
    return creators;
}

extern "C" LUVC_API void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
    luvc::tensorrt::set_logger_finder(finder);
}
