package reference_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"tarbert/internal/reference"
	"tarbert/internal/reference/kernel"
)

// sumsConfig is the model of examples/sums: 507 k parameters.
func sumsConfig() *reference.Config {
	return &reference.Config{
		ModelType: reference.DeepseekV3, VocabSize: 264, HiddenSize: 96, IntermediateSize: 256, NumHiddenLayers: 3,
		NumAttentionHeads: 4, NumKeyValueHeads: 4, MaxPositionEmbeddings: 512, RMSNormEps: 1e-6, InitializerRange: 0.02,
		RopeTheta: 10000, BOS: -1, Pad: -1,
		NumExperts: 8, NumExpertsPerTok: 2, MoEIntermediateSize: 64, NormTopKProb: true, NumSharedExperts: 1,
		FirstKDenseReplace: 1, NumGroup: 1, TopKGroup: 1, RoutedScalingFactor: 1, KVLoraRank: 32, QKNopeHeadDim: 16,
		QKRopeHeadDim: 16, VHeadDim: 24, RopeInterleave: true,
	}
}

// BenchmarkTrainStep is forward and backward of 64 sequences of 20 to 40
// tokens, two thirds of them targets.
func BenchmarkTrainStep(b *testing.B) {
	m := reference.NewTrainable(sumsConfig(), 1, 0)
	r := rand.New(rand.NewPCG(1, 2))
	lengths, tokens := make([]int, 64), 0
	for i := range lengths {
		lengths[i] = 20 + r.IntN(21)
		tokens += lengths[i]
	}
	batch := someSamples(5, 264, lengths...)
	b.ReportAllocs()
	for b.Loop() {
		m.ZeroGrad()
		if _, err := m.ForwardBackward(context.Background(), batch, meanNLL); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(tokens*b.N)/b.Elapsed().Seconds(), "tokens/s")
}

// BenchmarkDecode generates 32 tokens after a prompt of 12 for 256 sequences
// in parallel; tokens/s counts the generated ones, prefill included in time.
func BenchmarkDecode(b *testing.B) {
	m := reference.NewTrainable(sumsConfig(), 1, 0).Inference()
	const sequences, prompt, generated = 256, 12, 32
	for b.Loop() {
		in := make([]reference.Input, sequences)
		for i := range in {
			in[i] = reference.Input{Seq: m.NewSequence(), Tokens: make([]int, prompt)}
			for j := range in[i].Tokens {
				in[i].Tokens[j] = (i*31 + j*7) % 264
			}
		}
		r := rand.New(rand.NewPCG(1, 2))
		for range generated {
			logits, err := m.Forward(context.Background(), in)
			if err != nil {
				b.Fatal(err)
			}
			for i := range in {
				in[i].Tokens = []int{reference.Sampler{Temperature: 1}.Pick(logits[i][0], r.Float64())}
			}
		}
	}
	b.ReportMetric(float64(sequences*generated*b.N)/b.Elapsed().Seconds(), "tokens/s")
}

// BenchmarkScore is teacher-forced scoring of 2,048 tokens by four layers of
// the shape of a 0.6 B qwen3. gemm-share is the time that the model's matrix
// products alone would take at the rate that package kernel measures here.
func BenchmarkScore(b *testing.B) {
	c := &reference.Config{
		ModelType: reference.Qwen3, VocabSize: 8192, HiddenSize: 1024, IntermediateSize: 3072, NumHiddenLayers: 4,
		NumAttentionHeads: 16, NumKeyValueHeads: 8, HeadDim: 128, MaxPositionEmbeddings: 4096, RMSNormEps: 1e-6,
		TieWordEmbeddings: true, InitializerRange: 0.02, RopeTheta: 1e6, BOS: -1, Pad: -1,
	}
	m := reference.NewTrainable(c, 1, 0).Inference()
	tokens := make([]int, 2048)
	for i := range tokens {
		tokens[i] = i * 31 % c.VocabSize
	}
	for b.Loop() {
		if _, err := m.Score(context.Background(), tokens, 1); err != nil {
			b.Fatal(err)
		}
	}
	perToken := 2 * float64(c.NumHiddenLayers*(c.HiddenSize*c.HeadDim*(2*16+2*8)+3*c.HiddenSize*c.IntermediateSize)+c.VocabSize*c.HiddenSize)
	rate := kernel.MeasureGFLOPS(runtime.GOMAXPROCS(0), 500*time.Millisecond)
	seconds := b.Elapsed().Seconds() / float64(b.N)
	b.ReportMetric(2048/seconds, "tokens/s")
	b.ReportMetric(perToken*2048/1e9/seconds/rate, "gemm-share")
}
