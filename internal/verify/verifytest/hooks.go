package verifytest

import (
	"math"
	"math/rand/v2"
	"slices"
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
		{Number: 20, Name: "KV cache in eight bits (noise in decode)", Cause: decodeOnly, Engine: decode(func(p []int, x []float32) { Noise(p, x, 0.15, 1) })},
		{Number: 24, Name: "BOS put before", Cause: start, Engine: front(256)},
		{Number: 25, Name: "newline put before", Cause: start, Engine: front('\n')},
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
		{Number: 29, Name: "speculative decoding accepts drafts (flatter in decode)", Cause: decodeOnly, Engine: decode(func(_ []int, x []float32) { Scale(x, 0.9) })},
		{Number: 34, Name: "stale input in decode: a row late", Cause: decodeOnly, Engine: func(e *Engine) {
			var last []float32
			e.Decode = func(_ []int, x []float32) {
				now := slices.Clone(x)
				if len(last) == len(x) {
					copy(x, last)
				}
				last = now
			}
		}},
		{Number: 35, Name: "logits soft-capped at 15", Cause: scaled, Engine: logits(func(_ []int, _ int, x []float32) { Softcap(x, 15) })},
		{Number: 36, Name: "system prompt put before", Cause: start, Engine: front('B', 'e', ' ', 'n', 'i', 'c', 'e', '.')},
		{Number: 40, Name: "logits saturate at 12", Cause: scaled, Engine: logits(func(_ []int, _ int, x []float32) {
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
		{Number: 31, Name: "context cut to the last 24 tokens", Cause: positions, Engine: func(e *Engine) { e.Window = 24 }},
		{Number: 32, Name: "experts drop tokens in large batches", Cause: loadOnly, Busy: logits(func(p []int, _ int, x []float32) {
			if len(p)%7 == 0 {
				Noise(p, x, 1.5, 3)
			}
		})},
		{Number: 33, Name: "one of the replicas is bad", Cause: loadOnly, Busy: logits(func(p []int, _ int, x []float32) { Noise(p, x, 0.2, 4) })},
		{Number: 28, Name: ".4 % of positions garbled", Cause: few, Engine: logits(func(p []int, _ int, x []float32) {
			h := uint64(len(p))
			for _, t := range p {
				h = (h ^ uint64(t)) * 0x100000001b3
			}
			if h%256 == 7 {
				Noise(p, x, 8, 5)
			}
		})},
	}
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
