"""Counters and histograms for Prometheus, in a registry of the server's own."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from luvc_export.runtime import memory
from luvc_export.runtime.call_times import CallTimes
from luvc_export.runtime.engine.feature_cache import CacheCounts
from luvc_export.runtime.generation.timing import DraftCounts
from luvc_export.serve.engine.jobs import PromptTokens
from luvc_export.serve.request_log import RequestRecord
from luvc_export.version import VERSION

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LONG = (*_SECONDS, 120, 300, 600)
_TOKENS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))
#: What of ours means the same as vLLM's of that name, which dashboards and autoscalers look for.
_VLLM = """
num_requests_running num_requests_waiting kv_cache_usage_perc prefix_cache_queries prefix_cache_hits prompt_tokens
generation_tokens request_success time_to_first_token_seconds inter_token_latency_seconds
request_time_per_output_token_seconds e2e_request_latency_seconds request_queue_time_seconds
request_prefill_time_seconds request_decode_time_seconds request_prompt_tokens request_generation_tokens
spec_decode_num_drafts spec_decode_num_draft_tokens spec_decode_num_accepted_tokens
"""
VLLM = frozenset(_VLLM.split())

Gauges = Mapping[str, tuple[str, Callable[[], float]]]
CallsByModel = Mapping[str, Sequence[CallTimes]]


class Metrics:
    """What ``GET /metrics`` says. Follows ``engine.loop.Observer``.

    Names are vLLM's with ``luvc_`` before them, where it has the same, and vLLM's own again (``VLLM``); ``ttft``,
    ``completion_tokens``, ``queue`` and ``rows`` are older names that go on.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"luvc_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = _SECONDS, of: str = "_seconds") -> Histogram:
            return Histogram(f"luvc_{name}{of}", text, ("model",), registry=self.registry, buckets=buckets)

        self.requests = counter("requests", "Requests by what they were answered.", "path", "status")
        self._tokens = counter("completion_tokens", "Tokens made.", "model")
        self._visual = counter("visual_tokens", "Visual tokens of prompts.", "model", "stage")
        self._ttft = histogram("ttft", "From the request to its first token.")
        self._between = histogram("inter_token", "One decoder step.")
        self._vision = histogram("vision", "The encoder, where it ran.")
        self._prefill = histogram("prefill", "The decoder over a prompt.")
        self._prompt = counter("prompt_tokens", "Tokens of prompts, visual ones before compression.", "model")
        self._generated = counter("generation_tokens", "Tokens made.", "model")
        self._first = histogram("time_to_first_token", "From the request to its first token.")
        self._queued = histogram("request_queue_time", "From a request that is ready to its prefill.", _LONG)
        self._whole = histogram("e2e_request_latency", "From the request to the end of its answer.", _LONG)
        self._latency = histogram("inter_token_latency", "Of an answer, from a step's tokens to the next's.")
        self._each = histogram("request_time_per_output_token", "The same, mean of an answer.")
        self._in_prefill = histogram("request_prefill_time", "From the prefill's begin to the first token.", _LONG)
        self._in_decode = histogram("request_decode_time", "From the first token of an answer to its last.", _LONG)
        self._asked = histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS, "")
        self._answered = histogram("request_generation_tokens", "Tokens of an answer.", _TOKENS, "")
        self._looked_up = counter("prefix_cache_queries", "Tokens of prompts that were looked for.", "model")
        self._hits = counter("prefix_cache_hits", "Of these, those whose keys and values were there.", "model")
        self._success = counter("request_success", "Answers by how they ended.", "model", "finished_reason")
        self._cancelled = counter("requests_cancelled", "Requests whose client did not wait for the end.", "path")
        self._steps = counter("decode_steps", "Decoder steps, counted for every row that took part.", "model")
        self._drafts = counter("spec_decode_num_drafts", "Steps of a row that had a draft.", "model")
        self._drafted = counter("spec_decode_num_draft_tokens", "Tokens of drafts.", "model")
        self._accepted = counter("spec_decode_num_accepted_tokens", "Of these, those the model chose too.", "model")
        build = Gauge("luvc_build_info", "What runs.", ("version", "python"), registry=self.registry)
        build.labels(VERSION, platform.python_version()).set(1)

    def answered(self, record: RequestRecord, path: str) -> None:
        """A request has ended; ``path`` is one of few."""
        self.requests.labels(path, str(record.status)).inc()
        if record.cancelled:
            self._cancelled.labels(path).inc()
        if record.model is None:
            return
        if record.prompt_tokens is not None:
            self._prompt.labels(record.model).inc(record.prompt_tokens)
            self._whole.labels(record.model).observe(record.seconds)
        for reason in record.finish_reasons:
            self._success.labels(record.model, reason).inc()

    def prefilled(self, model: str, timings: dict[str, Any], prompt: PromptTokens) -> None:
        """See ``Observer``; what is in the layers counts as its mean."""
        before, after = prompt.units, prompt.visual
        self._asked.labels(model).observe(prompt.all)
        self._looked_up.labels(model).inc(prompt.looked_up)
        self._hits.labels(model).inc(prompt.hits)
        inside = timings["ttft_ms"] - timings["queue_ms"] - timings["prepare_ms"]
        self._in_prefill.labels(model).observe(inside / 1000)
        for first in (self._ttft, self._first):
            first.labels(model).observe(timings["ttft_ms"] / 1000)
        self._queued.labels(model).observe(timings["queue_ms"] / 1000)
        self._prefill.labels(model).observe((timings["prefix_ms"] + timings["question_ms"]) / 1000)
        if before and timings["cache"] == "none":
            self._vision.labels(model).observe(timings["vision_ms"] / 1000)
        self._visual.labels(model, "before").inc(before)
        self._visual.labels(model, "after").inc(sum(after) / len(after))
        self._made(model, 1)

    def finished(self, model: str, tokens: int, seconds: float) -> None:
        """See ``Observer``."""
        self._answered.labels(model).observe(tokens)
        self._in_decode.labels(model).observe(seconds)
        if tokens > 1:
            self._each.labels(model).observe(seconds / (tokens - 1))

    def stepped(
        self, model: str, rows: int, seconds: float, drafts: DraftCounts | None = None, since: Sequence[float] = ()
    ) -> None:
        """See ``Observer``."""
        for each in since:
            self._latency.labels(model).observe(each)
        self._between.labels(model).observe(seconds)
        self._steps.labels(model).inc(rows)
        self._made(model, rows if drafts is None else rows + drafts.accepted)
        if drafts is not None:
            self._drafts.labels(model).inc(drafts.drafts)
            self._drafted.labels(model).inc(drafts.drafted)
            self._accepted.labels(model).inc(drafts.accepted)

    def _made(self, model: str, tokens: int) -> None:
        for counter in (self._tokens, self._generated):
            counter.labels(model).inc(tokens)

    def watch(self, gauges: Gauges, cache: Callable[[], CacheCounts], calls: Callable[[], CallsByModel]) -> None:
        """Report what is so when somebody looks.

        Args:
            gauges: Name -> (text, value).
            cache: Counts of the image cache.
            calls: What calls of decoders took, by model (``Models.call_times``).
        """
        self.registry.register(_Now(gauges, cache, calls))

    def text(self) -> bytes:
        """The page in Prometheus' text format."""
        return generate_latest(self.registry) + generate_latest(_Vllm(self.registry))


class _Vllm(Collector):
    """What is vLLM's too, under its names and labels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            name = family.name.removeprefix("luvc_")
            if name not in VLLM:
                continue
            renamed = Metric(f"vllm:{name}", family.documentation, family.type)
            for sample in family.samples:
                labels = {"model_name" if key == "model" else key: value for key, value in sample.labels.items()}
                if not sample.name.endswith("_created"):
                    renamed.add_sample(f"vllm:{sample.name.removeprefix('luvc_')}", labels, sample.value)
            yield renamed


class _Now(Collector):
    def __init__(self, gauges: Gauges, cache: Callable[[], CacheCounts], calls: Callable[[], CallsByModel]) -> None:
        self._gauges, self._cache, self._calls = gauges, cache, calls

    def collect(self) -> Iterator[Metric]:
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(f"luvc_{name}", text, value=value())
        counts = self._cache()
        for name, by_kind in (("hits", counts.hits), ("misses", counts.misses)):
            family = CounterMetricFamily(f"luvc_image_cache_{name}", f"Image cache: {name}.", labels=["kind"])
            for kind, number in by_kind.items():
                family.add_metric([kind], number)
            yield family
        yield GaugeMetricFamily("luvc_image_cache_bytes", "Image cache: bytes.", value=counts.nbytes)
        yield GaugeMetricFamily("luvc_image_cache_entries", "Image cache: entries.", value=counts.entries)
        yield CounterMetricFamily("luvc_image_cache_evicted", "Image cache: entries given up.", value=counts.evicted)
        spent = SummaryMetricFamily(
            "luvc_engine_call_seconds", "Calls of the decoder.", labels=["model", "part", "engine"]
        )
        for model, times in self._calls().items():
            for one in times:
                spent.add_metric([model, one.part, one.engine], one.calls, one.seconds)
        yield spent
        used = memory.anonymous_bytes()
        if used is not None:
            yield GaugeMetricFamily("luvc_anonymous_bytes", "Memory that no file backs.", value=used)
