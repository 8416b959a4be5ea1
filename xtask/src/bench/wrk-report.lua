-- Prints what wrk found as one line that the benchmark reads.
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "RESULT requests=%d seconds=%.6f errors=%d p50_us=%d p99_us=%d p999_us=%d\n",
    summary.requests - errors.status, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
