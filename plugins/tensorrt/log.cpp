#include "tensorrt/log.h"

#include <atomic>
#include <cstdio>

namespace luvc::tensorrt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> g_finder{nullptr};

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept {
    g_finder = finder;
}

void log(nvinfer1::ILogger::Severity severity, const std::string& text) noexcept {
    nvinfer1::ILoggerFinder* finder = g_finder;
    nvinfer1::ILogger* logger = finder != nullptr ? finder->findLogger() : nullptr;
    if (logger != nullptr) {
        logger->log(severity, ("luvc: " + text).c_str());
    } else if (severity <= nvinfer1::ILogger::Severity::kWARNING) {
        std::fprintf(stderr, "luvc: %s\n", text.c_str());
    }
}

}  // namespace luvc::tensorrt
