package verifytest

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"tarbert/internal/reference"
	"tarbert/internal/tensor"
)

// front puts tokens before the prompt.
func front(tokens ...int) func(*Engine) {
	return func(e *Engine) {
		e.Prompt = func(p []int) []int { return append(slices.Clone(tokens), p...) }
	}
}

func logits(f func(prefix []int, n int, logits []float32)) func(*Engine) {
	return func(e *Engine) { e.Logits = f }
}

func decode(f func(prefix []int, logits []float32)) func(*Engine) {
	return func(e *Engine) { e.Decode = f }
}

func sample(f func(prefix []int, temperature float64, logits []float32)) func(*Engine) {
	return func(e *Engine) { e.Sample = f }
}

// engineFaults are the engine's own.
func engineFaults() []Fault {
	out := []Fault{
		{Number: 15, Name: "sliding window of 12", Cause: positions, Engine: func(e *Engine) { e.Window = 12 }},
		{Number: 20, Name: "KV cache in int8, a scale per head and token", Cause: decodeOnly, Engine: func(e *Engine) { e.Cache = cacheInt8 }},
		{Number: 20, Name: "KV cache in fp8 without scales", Cause: decodeOnly, Engine: func(e *Engine) { e.Cache = cacheFP8 }},
		{Number: 20, Name: "KV cache in int4", Cause: decodeOnly, Engine: func(e *Engine) { e.Cache = cacheInt4 }},
		{Number: 24, Name: "BOS put before", Cause: start, Engine: front(EndOfText)},
		{Number: 25, Name: "newline put before", Cause: start, Engine: front('\n')},
		{Number: 26, Name: "tokenizer's legacy flag puts a space before messages", Cause: endpoint, Text: func(s string) string { return strings.ReplaceAll(s, "<user>", "<user> ") }},
		{Number: 26, Name: "tokenizer normalises line ends", Cause: endpoint, Text: func(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") }},
		{Number: 25, Name: "template drops the empty system message", Cause: endpoint, Text: func(s string) string { return strings.ReplaceAll(s, "<system></system>", "") }},
		{Number: 27, Name: "max_tokens defaults to 32", Cause: sampler, Engine: func(e *Engine) {
			e.Strip = func(t []int) []int { return t[:min(len(t), 32)] }
		}},
		{Number: 37, Name: "tool parser strips tabs", Cause: sampler, Engine: func(e *Engine) {
			e.Strip = func(t []int) []int {
				out := slices.DeleteFunc(slices.Clone(t), func(id int) bool { return id == '\t' })
				if len(out) == 0 {
					return t[:1]
				}
				return out
			}
		}},
		{Number: 38, Name: "image preprocessor", Unseen: "no model here sees images", Engine: func(*Engine) {}},
		{Number: 27, Name: "wrong end-of-text token", Cause: sampler, Engine: func(e *Engine) { e.EOS = -1 }},
		{Number: 28, Name: "temperature ignored by the sampler", Cause: sampler, Engine: sample(func(_ []int, t float64, x []float32) {
			if t > 0 {
				Scale(x, 20)
			}
		})},
		{Number: 28, Name: "top-k 1 injected", Cause: sampler, Engine: sample(func(_ []int, _ float64, x []float32) { keep(x, 1) })},
		{Number: 28, Name: "temperature 1.5 where 1 was asked", Cause: sampler, Engine: sample(func(_ []int, t float64, x []float32) {
			if t > 0 {
				Scale(x, 1/1.5)
			}
		})},
		{Number: 28, Name: "log-probabilities at temperature 0.9", Cause: scaled, Engine: logits(func(_ []int, _ int, x []float32) { Scale(x, 1/0.9) })},
		{Number: 28, Name: "repetition penalty 1.05 in log-probabilities", Cause: penalty, Engine: logits(func(p []int, _ int, x []float32) { repeat(p, x, 1.05) })},
		{Number: 28, Name: "presence penalty 0.05 in log-probabilities", Cause: penalty, Engine: logits(func(p []int, _ int, x []float32) { present(p, x, 0.05) })},
		{Number: 28, Name: "sampler writes garbage, 1 token in 250", Cause: sampler, Engine: func(e *Engine) {
			e.Pick = func(r *rand.Rand, token int) int {
				if r.Float64() < 0.004 {
					return r.IntN(128) + 128
				}
				return token
			}
		}},
		{Number: 29, Name: "speculative decoding takes drafts above 0.3", Cause: sampler, Engine: sample(func(_ []int, _ float64, x []float32) {
			if best := slices.Max(x); reference.LogProbs(x, slices.Index(x, best), 1).LogProb > math.Log(0.3) {
				keep(x, 1) // the draft is its own likeliest token
			}
		})},
		{Number: 29, Name: "speculative decoding reports the draft's flatter logits", StandIn: "logits in decode times 0.9", Cause: decodeOnly, Engine: decode(func(_ []int, x []float32) { Scale(x, 0.9) })},
		{Number: 34, Name: "graph capture: logits a step late in decode", Cause: decodeOnly, Engine: func(e *Engine) {
			var mu sync.Mutex
			said := map[uint64][]float32{}
			e.Decode = func(p []int, x []float32) {
				mu.Lock()
				defer mu.Unlock()
				said[hash(p)] = slices.Clone(x)
				if last := said[hash(p[:len(p)-1])]; last != nil {
					copy(x, last)
				}
			}
		}},
		{Number: 35, Name: "logits soft-capped at 15", Cause: scaled, Engine: logits(func(_ []int, _ int, x []float32) { Softcap(x, 15) })},
		{Number: 36, Name: "system prompt put before", Cause: start, Engine: front(bytesOf("Be nice.")...)},
		{Number: 40, Name: "logits saturate at 12", StandIn: "activations that saturate", Cause: scaled, Engine: logits(func(_ []int, _ int, x []float32) {
			for i := range x {
				x[i] = max(-12, min(12, x[i]))
			}
		})},
	}
	return append(out, trafficFaults()...)
}

// trafficFaults show for some lengths, under load, or on one replica.
func trafficFaults() []Fault {
	return []Fault{
		{Number: 30, Name: "lengths of 3 modulo 8 go wrong", Cause: lengths, Engine: logits(func(p []int, n int, x []float32) {
			if n%8 == 3 {
				Noise(p, x, 0.3, 2)
			}
		})},
		{Number: 30, Name: "chunks of 64 forget those before", Cause: positions, Engine: func(e *Engine) { e.Chunk = 64 }},
		{Number: 30, Name: "prefix cache: one text in eight hits another's first block", Cause: start, Engine: func(e *Engine) {
			e.Prompt = func(p []int) []int {
				if hash(p[:min(len(p), 8)])%8 != 0 || len(p) <= 16 {
					return p
				}
				return append(bytesOf("// Reset clears\n"), p[16:]...)
			}
		}},
		{Number: 31, Name: "context cut to the last 24 tokens", Cause: positions, Engine: func(e *Engine) { e.Window = 24 }},
		{Number: 31, Name: "prompts over 96 tokens cut to the last 64", Cause: positions, Engine: func(e *Engine) { e.Window, e.Above = 64, 96 }},
		{Number: 32, Name: "experts drop tokens in large batches", StandIn: "noise of 0.5 on the logits of every seventh position", Cause: loadOnly,
			Busy: logits(func(p []int, _ int, x []float32) {
				if len(p)%7 == 0 {
					Noise(p, x, 0.5, 3)
				}
			})},
		{Number: 33, Name: "one of two replicas has a layer's scales times 1.1", Cause: loadOnly, Replica: every(scaleBy(1.1), layer1, "_proj")},
		{Number: 33, Name: "one bit flipped in a replica's weights", Cause: loadOnly, Replica: first(func(t *Tensor) {
			i := 5*t.Cols() + 7
			t.Data[i] = math.Float32frombits(math.Float32bits(t.Data[i]) ^ 1<<25) // an exponent's bit
		}, layer1, "o_proj")},
		{Number: 28, Name: ".4 % of positions garbled", Cause: few, Engine: logits(func(p []int, _ int, x []float32) {
			if hash(p)%256 == 7 {
				Noise(p, x, 8, 5)
			}
		})},
	}
}

// cacheInt8, cacheInt4 and cacheFP8 are caches in fewer bits, as engines have them.
func cacheInt8(key, value []float32) { quantise(key, 127); quantise(value, 127) }
func cacheInt4(key, value []float32) { quantise(key, 7); quantise(value, 7) }
func cacheFP8(key, value []float32) {
	for _, x := range [][]float32{key, value} {
		for i, v := range x {
			x[i] = tensor.FromF8E4M3(tensor.ToF8E4M3(v))
		}
	}
}

func bytesOf(s string) []int {
	out := make([]int, len(s))
	for i := range out {
		out[i] = int(s[i])
	}
	return out
}

func hash(p []int) uint64 {
	h := uint64(len(p))
	for _, t := range p {
		h = (h ^ uint64(t)) * 0x100000001b3
	}
	return h ^ h>>29
}

// keep leaves the k largest logits.
func keep(x []float32, k int) {
	sorted := slices.Clone(x)
	slices.Sort(sorted)
	least := sorted[len(sorted)-k]
	for i := range x {
		if x[i] < least {
			x[i] = float32(math.Inf(-1))
		}
	}
}

func seen(prefix []int) map[int]bool {
	m := map[int]bool{}
	for _, t := range prefix {
		m[t] = true
	}
	return m
}

func repeat(prefix []int, x []float32, by float32) {
	for t := range seen(prefix) {
		if x[t] > 0 {
			x[t] /= by
		} else {
			x[t] *= by
		}
	}
}

func present(prefix []int, x []float32, by float32) {
	for t := range seen(prefix) {
		x[t] -= by
	}
}
