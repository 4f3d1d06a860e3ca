// Messages through TensorRT's logger once the loader has handed it over, and to stderr until then.
#pragma once

#include <NvInferRuntime.h>

#include <string>

namespace luvc::tensorrt {

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;
void log(nvinfer1::ILogger::Severity severity, const std::string& text) noexcept;

inline void log_error(const std::string& text) noexcept {
    log(nvinfer1::ILogger::Severity::kERROR, text);
}

}  // namespace luvc::tensorrt
