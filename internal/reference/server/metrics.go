package server

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are vLLM's under vLLM's names, as far as they mean something here,
// and a few of our own, in a registry of this server alone.
type metrics struct {
	registry *prometheus.Registry

	running, waiting, kv           prometheus.Gauge
	promptTokens, generationTokens prometheus.Counter
	success                        *prometheus.CounterVec
	preemptions                    prometheus.Counter
	firstToken, betweenTokens      prometheus.Histogram
	endToEnd, queued               prometheus.Histogram
	requestPrompt, requestOutput   prometheus.Histogram
	stepTokens                     prometheus.Histogram
	steps                          prometheus.Counter
	rejections                     *prometheus.CounterVec
	requests                       *prometheus.CounterVec
}

// vLLM's buckets, so that dashboards made for it work.
var (
	firstTokenBuckets = []float64{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560}
	betweenBuckets    = []float64{.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80}
	requestBuckets    = []float64{.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}
	stepBuckets       = []float64{1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}
)

// tokenBuckets are 1, 2, 5, 10, … up to the context length.
func tokenBuckets(most int) []float64 {
	var out []float64
	for scale := 1; scale <= most; scale *= 10 {
		for _, m := range []int{1, 2, 5} {
			if m*scale <= most {
				out = append(out, float64(m*scale))
			}
		}
	}
	return out
}

func newMetrics(model string, context int) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	reg := prometheus.WrapRegistererWith(prometheus.Labels{"engine": "0", "model_name": model}, m.registry)
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		reg.MustRegister(g)
		return g
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	vector := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		reg.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
		reg.MustRegister(h)
		return h
	}
	m.running = gauge("vllm:num_requests_running", "Number of requests in model execution batches.")
	m.waiting = gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.")
	m.kv = gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.")
	m.promptTokens = counter("vllm:prompt_tokens_total", "Number of prefill tokens processed.")
	m.generationTokens = counter("vllm:generation_tokens_total", "Number of generation tokens processed.")
	m.success = vector("vllm:request_success_total", "Count of successfully processed requests.", "finished_reason")
	for _, why := range []string{"stop", "length", "abort", "error"} {
		m.success.WithLabelValues(why)
	}
	m.preemptions = counter("vllm:num_preemptions_total", "Cumulative number of preemption from the engine.")
	for _, name := range []string{"vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"} {
		counter(name, "Prefix cache, in tokens: this engine has none.")
	}
	m.firstToken = histogram("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", firstTokenBuckets)
	m.betweenTokens = histogram("vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", betweenBuckets)
	m.endToEnd = histogram("vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", requestBuckets)
	m.queued = histogram("vllm:request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", requestBuckets)
	m.requestPrompt = histogram("vllm:request_prompt_tokens", "Number of prefill tokens processed.", tokenBuckets(context))
	m.requestOutput = histogram("vllm:request_generation_tokens", "Number of generation tokens processed.", tokenBuckets(context))
	m.stepTokens = histogram("vllm:iteration_tokens_total", "Histogram of number of tokens per engine_step.", stepBuckets)
	m.steps = counter("tarbert_engine_steps_total", "Batches sent through the model.")
	m.rejections = vector("tarbert_requests_rejected_total", "Requests refused before they were queued.", "reason")
	m.requests = vector("http_requests_total", "Total number of requests by method, status and handler.", "method", "status", "handler")
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *metrics) queues(running, waiting, cached, room int) {
	m.running.Set(float64(running))
	m.waiting.Set(float64(waiting))
	m.kv.Set(float64(cached) / float64(room))
}

func (m *metrics) admitted(waited time.Duration) { m.queued.Observe(waited.Seconds()) }

func (m *metrics) step(tokens int) {
	m.steps.Inc()
	m.stepTokens.Observe(float64(tokens))
}

func (m *metrics) preempted(n int) { m.preemptions.Add(float64(n)) }

// token is called for every token made, before the job's time of the last one is moved.
func (m *metrics) token(j *job, now time.Time) {
	m.generationTokens.Inc()
	if j.last.IsZero() {
		m.promptTokens.Add(float64(len(j.prompt)))
		m.firstToken.Observe(now.Sub(j.arrived).Seconds())
		return
	}
	m.betweenTokens.Observe(now.Sub(j.last).Seconds())
}

func (m *metrics) finished(why string, j *job, now time.Time) {
	m.success.WithLabelValues(why).Inc()
	if why != "stop" && why != "length" {
		return
	}
	m.endToEnd.Observe(now.Sub(j.arrived).Seconds())
	m.requestPrompt.Observe(float64(len(j.prompt)))
	m.requestOutput.Observe(float64(j.generated()))
}
